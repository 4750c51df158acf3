//! What can go wrong, and whether it is worth trying again.

use std::{error, fmt, iter, sync::Arc};

use tonic::{Code, Status, TimeoutExpired};

/// Any error, as token sources have them.
pub type BoxError = Box<dyn error::Error + Send + Sync>;

/// Why a call failed or a watch ended. Where the service said so, its status is kept: see
/// [`Error::status`].
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The options make no connection possible: no endpoint, one that is no URL, or TLS settings
    /// that cannot be used.
    #[error("these options cannot be used: {reason}")]
    InvalidOptions {
        /// What is wrong.
        reason: String,
    },
    /// The token source gave no token, or one that no header can carry.
    #[error("there is no token")]
    Token(#[source] Arc<dyn error::Error + Send + Sync>),
    /// `INVALID_ARGUMENT`: a key or a prefix that is none; the message names the rule.
    #[error("{}", Said(.0))]
    InvalidArgument(Box<Status>),
    /// `NOT_FOUND`: the key has no value.
    #[error("{}", Said(.0))]
    NotFound(Box<Status>),
    /// `PERMISSION_DENIED`: the token lacks the scope that the message names.
    #[error("{}", Said(.0))]
    PermissionDenied(Box<Status>),
    /// `UNAUTHENTICATED`: the token is not valid, and a renewed one was not either or cannot be
    /// had.
    #[error("{}", Said(.0))]
    Unauthenticated(Box<Status>),
    /// `FAILED_PRECONDITION`: the value cannot be had from its store any more, the least revision
    /// is not reached, or the tenant has more than an instance may hold.
    #[error("{}", Said(.0))]
    FailedPrecondition(Box<Status>),
    /// `RESOURCE_EXHAUSTED`: a limit of the tenant or of the instance is reached, and calls have
    /// been tried again until the deadline.
    #[error("{}", Said(.0))]
    ResourceExhausted(Box<Status>),
    /// `UNAVAILABLE`, or a connection that could not be made or broke; calls have been tried again
    /// already.
    #[error("{}", Said(.0))]
    Unavailable(Box<Status>),
    /// Any other status.
    #[error("{}", Said(.0))]
    Other(Box<Status>),
    /// There was no answer within the deadline.
    #[error("there was no answer within the deadline")]
    DeadlineExceeded {
        /// Why the last attempt before it failed, if one did.
        #[source]
        last: Option<Box<Error>>,
    },
    /// Nothing was heard for as long as three heartbeats take, or an attempt had no answer in its
    /// time.
    #[error("the connection is silent")]
    Silent,
    /// The answer breaks the interface.
    #[error("the answer breaks the interface: {0}")]
    Protocol(&'static str),
    /// The runtime of the watch has been shut down.
    #[error("the configuration is not followed any more")]
    Stopped,
}

impl Error {
    /// The status that the service, or the connection to it, ended with.
    pub fn status(&self) -> Option<&Status> {
        match self {
            Self::InvalidArgument(status)
            | Self::NotFound(status)
            | Self::PermissionDenied(status)
            | Self::Unauthenticated(status)
            | Self::FailedPrecondition(status)
            | Self::ResourceExhausted(status)
            | Self::Unavailable(status)
            | Self::Other(status) => Some(status),
            Self::DeadlineExceeded { last } => last.as_ref().and_then(|last| last.status()),
            Self::InvalidOptions { .. } | Self::Token(_) | Self::Silent | Self::Protocol(_) | Self::Stopped => None,
        }
    }

    /// What a call comes to that is not tried again for want of time, after attempts that came to
    /// this. Being over a limit, or asking for too much, is the caller's to deal with, however long
    /// it was tried.
    pub(crate) fn at_deadline(last: Option<Box<Self>>) -> Self {
        match last {
            Some(last) if matches!(*last, Self::ResourceExhausted(_)) => *last,
            last => Self::DeadlineExceeded { last },
        }
    }

    /// Whether this is of the connection, and nothing that the service said.
    pub(crate) fn is_of_connection(&self) -> bool {
        match self {
            Self::Unavailable(status) => error::Error::source(&**status).is_some(),
            Self::Silent => true,
            Self::InvalidOptions { .. }
            | Self::Token(_)
            | Self::InvalidArgument(_)
            | Self::NotFound(_)
            | Self::PermissionDenied(_)
            | Self::Unauthenticated(_)
            | Self::FailedPrecondition(_)
            | Self::ResourceExhausted(_)
            | Self::Other(_)
            | Self::DeadlineExceeded { .. }
            | Self::Protocol(_)
            | Self::Stopped => false,
        }
    }

    /// Whether an unary call is tried again. All calls are reads, so each could be; but only what
    /// says "not now" is worth it.
    pub(crate) fn is_retried(&self) -> bool {
        match self {
            Self::Unavailable(_) | Self::ResourceExhausted(_) | Self::Silent => true,
            Self::InvalidOptions { .. }
            | Self::Token(_)
            | Self::InvalidArgument(_)
            | Self::NotFound(_)
            | Self::PermissionDenied(_)
            | Self::Unauthenticated(_)
            | Self::FailedPrecondition(_)
            | Self::Other(_)
            | Self::DeadlineExceeded { .. }
            | Self::Protocol(_)
            | Self::Stopped => false,
        }
    }

    /// Whether a watch ends with this, because it would be told the same again.
    pub(crate) fn ends_watch(&self) -> bool {
        match self {
            Self::InvalidOptions { .. } | Self::InvalidArgument(_) | Self::PermissionDenied(_) => true,
            Self::Other(status) => status.code() == Code::Unimplemented,
            Self::Token(_)
            | Self::NotFound(_)
            | Self::Unauthenticated(_)
            | Self::FailedPrecondition(_)
            | Self::ResourceExhausted(_)
            | Self::Unavailable(_)
            | Self::DeadlineExceeded { .. }
            | Self::Silent
            | Self::Protocol(_)
            | Self::Stopped => false,
        }
    }
}

impl From<Status> for Error {
    fn from(status: Status) -> Self {
        // A status with a source was made on this side, of a connection that failed: what code it
        // got says little.
        if error::Error::source(&status).is_some() {
            return Self::Unavailable(Box::new(status));
        }
        let status = Box::new(status);
        match status.code() {
            Code::InvalidArgument => Self::InvalidArgument(status),
            Code::NotFound => Self::NotFound(status),
            Code::PermissionDenied => Self::PermissionDenied(status),
            Code::Unauthenticated => Self::Unauthenticated(status),
            Code::FailedPrecondition => Self::FailedPrecondition(status),
            Code::ResourceExhausted => Self::ResourceExhausted(status),
            Code::Unavailable => Self::Unavailable(status),
            Code::Ok
            | Code::Cancelled
            | Code::Unknown
            | Code::DeadlineExceeded
            | Code::AlreadyExists
            | Code::Aborted
            | Code::OutOfRange
            | Code::Unimplemented
            | Code::Internal
            | Code::DataLoss => Self::Other(status),
        }
    }
}

/// Whether this status was made on this side, since the time that the request was given is over.
pub(crate) fn is_expiry(status: &Status) -> bool {
    iter::successors(error::Error::source(status), |error| error.source()).any(<dyn error::Error>::is::<TimeoutExpired>)
}

/// A status for people: its code and message, without its metadata.
struct Said<'a>(&'a Status);

impl fmt::Display for Said<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}: {}", self.0.code(), self.0.message())
    }
}

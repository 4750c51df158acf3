//! What all calls of a client share: connections, the token in use, options.

use config_proto::v1::config_service_client::ConfigServiceClient;
use tonic::{Request, transport::Channel};

use crate::{
    channels::{ChannelId, Channels},
    options::Options,
    token::{Authorization, Tokens},
};

pub(crate) struct Transport {
    pub(crate) channels: Channels,
    pub(crate) tokens: Tokens,
    pub(crate) options: Options,
}

impl Transport {
    /// The service over the channel in use, and which one that is.
    pub(crate) fn service(&self) -> (ConfigServiceClient<Channel>, ChannelId) {
        let (channel, id) = self.channels.current();
        let service = ConfigServiceClient::new(channel);
        (service.max_decoding_message_size(self.options.max_message_bytes), id)
    }
}

/// A request with its token.
pub(crate) fn authorized<M>(message: M, authorization: &Authorization) -> Request<M> {
    let mut request = Request::new(message);
    request.metadata_mut().insert("authorization", authorization.header.clone());
    request
}

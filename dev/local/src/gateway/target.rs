//! Request lines as they come over the wire, before anything has read them.
//!
//! A raw `#` begins no fragment in a request's target: there is none in one (RFC 9112, 3.2), and
//! whoever sends it means something else. The parser of URIs below leaves it out all the same, with
//! what is behind it, so that a request for one key would be answered with another's. It is the
//! only byte that is treated so; other raw bytes are taken as they are, or refused. So the `#` is
//! made one of those that are refused: the answer is 400, as the RFC asks for. What API Gateway
//! does is not documented.

use std::{
    io,
    net::SocketAddr,
    pin::Pin,
    task::{Context, Poll, ready},
};

use axum::serve::Listener;
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::{TcpListener, TcpStream},
};

/// No target has this byte: every parser refuses it.
const REFUSED: u8 = b'<';
/// How answers begin that are not the last to a request, such as 100.
const INTERIM: &[u8] = b"HTTP/1.1 1";

/// Listens for connections whose targets are whole.
#[derive(Debug)]
pub(crate) struct WholeTargets(pub(crate) TcpListener);

impl Listener for WholeTargets {
    type Io = Lines<TcpStream>;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (Self::Io, SocketAddr) {
        let (stream, client) = Listener::accept(&mut self.0).await;
        (Lines { stream, place: Place::Begin }, client)
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.0.local_addr()
    }
}

/// A connection over which requests come one after the other. Of several that come at once, before
/// the first is answered, only the first is looked at: no client that is in use does that.
#[derive(Debug)]
pub(crate) struct Lines<S> {
    stream: S,
    place: Place,
}

/// What is read next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    Begin,
    Method,
    Target,
    Rest,
}

impl Place {
    /// Reads on, and spoils what must not be cut.
    fn read(mut self, bytes: &mut [u8]) -> Self {
        for byte in bytes {
            self = match (self, *byte) {
                // Empty lines before a request do not count.
                (Self::Begin, b'\r' | b'\n') => Self::Begin,
                (Self::Begin | Self::Method, b'A'..=b'Z') => Self::Method,
                (Self::Target, b'#') => {
                    *byte = REFUSED;
                    Self::Target
                }
                (Self::Method, b' ') | (Self::Target, b'!'..) => Self::Target,
                _ => return Self::Rest,
            }
        }
        self
    }

    /// Notes that something was answered: what is read next is the next request.
    fn write(&mut self, bytes: &[u8]) {
        if !bytes.is_empty() && !bytes.starts_with(INTERIM) {
            *self = Self::Begin;
        }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Lines<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        ready!(Pin::new(&mut self.stream).poll_read(context, buffer))?;
        self.place = self.place.read(&mut buffer.filled_mut()[before..]);
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Lines<S> {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.place.write(bytes);
        Pin::new(&mut self.stream).poll_write(context, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        parts: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.place.write(parts.iter().find(|part| !part.is_empty()).map_or(&[], |part| part));
        Pin::new(&mut self.stream).poll_write_vectored(context, parts)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Promise: nothing but a `#` in a target is touched, however the bytes are cut into pieces.
    #[test]
    fn only_targets_are_spoilt() {
        for (sent, seen) in [
            ("GET /a#b HTTP/1.1\r\nx: #\r\n\r\n#", "GET /a<b HTTP/1.1\r\nx: #\r\n\r\n#"),
            ("\r\nGET /a?b#c#d HTTP/1.1\r\n", "\r\nGET /a?b<c<d HTTP/1.1\r\n"),
            ("GET http://h/#a HTTP/1.1\r\n", "GET http://h/<a HTTP/1.1\r\n"),
            ("GET /\u{e4}#b HTTP/1.1\r\n", "GET /\u{e4}<b HTTP/1.1\r\n"),
            ("GET /a HTTP/1.1\r\nGET /#", "GET /a HTTP/1.1\r\nGET /#"),
            ("{\"a\": \"#\"}", "{\"a\": \"#\"}"),
            ("", ""),
        ] {
            for length in 1..=sent.len().max(1) {
                let (mut place, mut bytes) = (Place::Begin, sent.as_bytes().to_vec());
                for piece in bytes.chunks_mut(length) {
                    place = place.read(piece);
                }
                assert_eq!(String::from_utf8_lossy(&bytes), seen, "in pieces of {length}");
            }
        }
    }

    /// Promise: the next request is looked at as the first one was; what follows a 100 is the first
    /// one's body.
    #[test]
    fn each_request_is_looked_at() {
        let mut place = Place::Begin.read(&mut b"PUT /a HTTP/1.1\r\nexpect: 100-continue\r\n\r\n".to_vec());
        place.write(b"HTTP/1.1 100 Continue\r\n\r\n");
        place.write(b"");
        assert_eq!(place, Place::Rest);
        place.write(b"HTTP/1.1 200 OK\r\n\r\n");
        let mut next = b"GET /#".to_vec();
        place.read(&mut next);
        assert_eq!(next, b"GET /<");
    }
}

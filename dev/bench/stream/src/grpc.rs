//! As much of a gRPC client as is measured with: one HTTP/2 connection, unary calls and streams of
//! messages. The same for all servers, and so lean that they are what is measured.

use std::net::SocketAddr;

pub(crate) use bench::Failure;
use bytes::{Buf, BufMut, Bytes, BytesMut};
use h2::{
    RecvStream, SendStream,
    client::{self, SendRequest},
};
use http::{HeaderMap, Request, header};
use prost::Message;
use tokio::net::TcpStream;

/// How much may be under way to the client: more than anything that is sent here.
const WINDOW: u32 = 1 << 20;
/// Whether a message is compressed, and its length.
const PREFIX_BYTES: usize = 5;

/// A server, and who calls it.
#[derive(Clone, Debug)]
pub(crate) struct Target {
    /// Where it listens.
    pub(crate) address: SocketAddr,
    /// The token that calls carry, if they do.
    pub(crate) token: Option<String>,
}

/// A connection.
#[derive(Clone, Debug)]
pub(crate) struct Connection {
    requests: SendRequest<Bytes>,
    target: Target,
}

impl Connection {
    /// A new one.
    pub(crate) async fn open(target: &Target) -> Result<Self, Failure> {
        let stream = TcpStream::connect(target.address).await?;
        stream.set_nodelay(true)?;
        let mut builder = client::Builder::new();
        builder.initial_window_size(WINDOW).initial_connection_window_size(WINDOW);
        let (requests, connection) = builder.handshake(stream).await?;
        // Ends when the connection does; what that breaks shows in the calls.
        tokio::spawn(connection);
        Ok(Self { requests, target: target.clone() })
    }

    /// Makes a call that has one answer.
    pub(crate) async fn call(&self, path: &str, request: &Bytes) -> Result<Bytes, Failure> {
        let mut messages = self.begin(path, request, true).await?;
        let answer = messages.next().await?.ok_or("the call was not answered")?;
        match messages.next().await? {
            None => Ok(answer),
            Some(_) => Err("the call was answered twice".into()),
        }
    }

    /// Makes a call that is answered again and again. If the request is not the last one, no other
    /// is sent all the same.
    pub(crate) async fn begin(&self, path: &str, message: &Bytes, is_last: bool) -> Result<Messages, Failure> {
        let mut request = Request::post(format!("http://{}{path}", self.target.address))
            .header(header::CONTENT_TYPE, "application/grpc")
            .header(header::TE, "trailers");
        if let Some(token) = &self.target.token {
            request = request.header(header::AUTHORIZATION, token);
        }
        let mut requests = self.requests.clone().ready().await?;
        let (response, mut sending) = requests.send_request(request.body(())?, false)?;
        sending.send_data(message.clone(), is_last)?;
        let response = response.await?;
        check(response.headers())?;
        Ok(Messages { receiving: response.into_body(), received: BytesMut::new(), _sending: sending })
    }
}

/// What a call is answered with.
#[derive(Debug)]
pub(crate) struct Messages {
    receiving: RecvStream,
    received: BytesMut,
    /// Dropped, it would end the call.
    _sending: SendStream<Bytes>,
}

impl Messages {
    /// The next message; none when the call has ended well.
    pub(crate) async fn next(&mut self) -> Result<Option<Bytes>, Failure> {
        loop {
            if let Some(message) = self.take() {
                return Ok(Some(message));
            }
            let Some(data) = self.receiving.data().await else {
                check(&self.receiving.trailers().await?.unwrap_or_default())?;
                return Ok(None);
            };
            let data = data?;
            self.receiving.flow_control().release_capacity(data.len())?;
            self.received.extend_from_slice(&data);
        }
    }

    fn take(&mut self) -> Option<Bytes> {
        let length = self.received.get(1..PREFIX_BYTES)?.get_u32();
        let length = usize::try_from(length).ok()?;
        if self.received.len() < PREFIX_BYTES + length {
            return None;
        }
        self.received.advance(PREFIX_BYTES);
        Some(self.received.split_to(length).freeze())
    }
}

/// That a call has not failed, as far as these headers say.
fn check(headers: &HeaderMap) -> Result<(), Failure> {
    match headers.get("grpc-status") {
        Some(status) if status != "0" => {
            let status = status.to_str().unwrap_or("?");
            let message = headers.get("grpc-message").and_then(|message| message.to_str().ok()).unwrap_or_default();
            Err(format!("the call failed with gRPC status {status}: {message}").into())
        }
        _ => Ok(()),
    }
}

/// A message as it goes over the wire.
pub(crate) fn framed(message: &impl Message) -> Bytes {
    let length = message.encoded_len();
    let mut frame = BytesMut::with_capacity(PREFIX_BYTES + length);
    frame.put_u8(0);
    // Requests here are of a few kilobytes at most.
    frame.put_u32(u32::try_from(length).unwrap_or(u32::MAX));
    frame.extend_from_slice(&message.encode_to_vec());
    frame.freeze()
}

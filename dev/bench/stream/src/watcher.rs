//! A watcher who takes as little of the processor as one can: HTTP/2 (RFC 9113) as far as one watch
//! on a connection of its own needs it.
//!
//! A full client spends as long on a message as the servers do, so that a thousand of them on one
//! thread would be what is measured.

use bytes::{Buf, BufMut, Bytes, BytesMut};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

use crate::grpc::{Failure, Target};

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
/// How much may be under way: more than anything that is sent here, so that nothing has to be
/// allowed later.
const WINDOW: u32 = 1 << 24;
const HEADER_BYTES: usize = 9;

// Types of frames, and their flags (RFC 9113, section 6).
const DATA: u8 = 0;
const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const PING: u8 = 6;
const GOAWAY: u8 = 7;
const WINDOW_UPDATE: u8 = 8;
const ACK: u8 = 1;
const END_STREAM: u8 = 1;
const END_HEADERS: u8 = 4;

/// A watch.
#[derive(Debug)]
pub(crate) struct Watcher {
    stream: TcpStream,
    received: BytesMut,
}

impl Watcher {
    /// Begins one. If the request is not the last one, no other is sent all the same.
    pub(crate) async fn begin(target: &Target, path: &str, request: &Bytes, is_last: bool) -> Result<Self, Failure> {
        let mut stream = TcpStream::connect(target.address).await?;
        stream.set_nodelay(true)?;
        let mut settings = BytesMut::new();
        // SETTINGS_INITIAL_WINDOW_SIZE
        settings.put_u16(4);
        settings.put_u32(WINDOW);
        let mut begin = BytesMut::from(PREFACE);
        frame(&mut begin, SETTINGS, 0, 0, &settings);
        frame(&mut begin, WINDOW_UPDATE, 0, 0, &WINDOW.to_be_bytes());
        frame(&mut begin, HEADERS, END_HEADERS, 1, &headers(target, path));
        frame(&mut begin, DATA, if is_last { END_STREAM } else { 0 }, 1, request);
        stream.write_all(&begin).await?;
        Ok(Self { stream, received: BytesMut::with_capacity(8 * 1_024) })
    }

    /// The next message, or a part of it that the server has sent by itself. Watches have no end,
    /// unless something goes wrong.
    pub(crate) async fn next(&mut self) -> Result<Bytes, Failure> {
        loop {
            let Some((kind, flags, payload)) = self.take() else {
                if self.stream.read_buf(&mut self.received).await? == 0 {
                    return Err("the connection of a watch has ended".into());
                }
                continue;
            };
            match kind {
                RST_STREAM | GOAWAY => return Err("a watch was ended".into()),
                DATA | HEADERS if flags & END_STREAM != 0 => return Err("a watch has ended".into()),
                DATA => return Ok(payload),
                SETTINGS | PING if flags & ACK == 0 => {
                    let payload = if kind == PING { payload } else { Bytes::new() };
                    let mut answer = BytesMut::new();
                    frame(&mut answer, kind, ACK, 0, &payload);
                    self.stream.write_all(&answer).await?;
                }
                _ => {}
            }
        }
    }

    /// A frame that has come: its type, its flags and its payload.
    fn take(&mut self) -> Option<(u8, u8, Bytes)> {
        let mut header = self.received.get(..HEADER_BYTES)?;
        let length = usize::try_from(header.get_uint(3)).ok()?;
        let (kind, flags) = (header.get_u8(), header.get_u8());
        if self.received.len() < HEADER_BYTES + length {
            return None;
        }
        self.received.advance(HEADER_BYTES);
        Some((kind, flags, self.received.split_to(length).freeze()))
    }
}

fn frame(bytes: &mut BytesMut, kind: u8, flags: u8, stream: u32, payload: &[u8]) {
    bytes.put_uint(payload.len() as u64, 3);
    bytes.put_u8(kind);
    bytes.put_u8(flags);
    bytes.put_u32(stream);
    bytes.extend_from_slice(payload);
}

/// The request's fields, each as a literal that is not remembered (RFC 7541, section 6.2.2).
fn headers(target: &Target, path: &str) -> BytesMut {
    let mut block = BytesMut::new();
    let authority = target.address.to_string();
    let fields = [
        (":method", "POST"),
        (":scheme", "http"),
        (":path", path),
        (":authority", &authority),
        ("content-type", "application/grpc"),
        ("te", "trailers"),
    ];
    for (name, value) in fields.into_iter().chain(target.token.as_deref().map(|token| ("authorization", token))) {
        block.put_u8(0);
        text(&mut block, name);
        text(&mut block, value);
    }
    block
}

/// A text without Huffman coding: its length (RFC 7541, section 5.1), and its bytes.
fn text(block: &mut BytesMut, text: &str) {
    const PREFIX: usize = 0x7f;
    let mut length = text.len();
    if length < PREFIX {
        block.put_uint(length as u64, 1);
    } else {
        block.put_uint(PREFIX as u64, 1);
        length -= PREFIX;
        while length >= 0x80 {
            block.put_uint((length & 0x7f | 0x80) as u64, 1);
            length >>= 7;
        }
        block.put_uint(length as u64, 1);
    }
    block.extend_from_slice(text.as_bytes());
}

//! As much HTTP/1.1 as the stand-ins need: requests with `Content-Length`, answers with a body,
//! connections that stay open.

use std::io::{self, BufRead, Read, Write};

/// A request, as far as it is looked at.
#[derive(Debug)]
pub(crate) struct Request {
    /// Method and path.
    pub(crate) line: String,
    /// The body.
    pub(crate) body: Vec<u8>,
}

/// The next request of a connection; none when its client has closed it.
pub(crate) fn read_request(from: &mut impl BufRead) -> io::Result<Option<Request>> {
    let mut line = String::new();
    if from.read_line(&mut line)? == 0 {
        return Ok(None);
    }
    let (mut length, mut chunked, mut header) = (0, false, String::new());
    loop {
        header.clear();
        if from.read_line(&mut header)? == 0 || header.trim_end().is_empty() {
            break;
        }
        let Some((name, value)) = header.split_once(':') else { continue };
        if name.eq_ignore_ascii_case("content-length") {
            length = value.trim().parse().map_err(io::Error::other)?;
        } else if name.eq_ignore_ascii_case("transfer-encoding") {
            chunked = true;
        }
    }
    let mut body = vec![0; length];
    if chunked {
        read_chunks(from, &mut body)?;
    } else {
        from.read_exact(&mut body)?;
    }
    Ok(Some(Request { line, body }))
}

fn read_chunks(from: &mut impl BufRead, body: &mut Vec<u8>) -> io::Result<()> {
    let mut line = String::new();
    loop {
        line.clear();
        from.read_line(&mut line)?;
        let size = u64::from_str_radix(line.trim(), 16).map_err(io::Error::other)?;
        from.take(size).read_to_end(body)?;
        // The end of the chunk, or of the trailers, of which there are none.
        from.read_line(&mut line)?;
        if size == 0 {
            return Ok(());
        }
    }
}

/// Answers a request, in one write.
pub(crate) fn write_answer(to: &mut impl Write, status: &str, headers: &str, body: &[u8]) -> io::Result<()> {
    let mut answer = format!("HTTP/1.1 {status}\r\n{headers}content-length: {}\r\n\r\n", body.len()).into_bytes();
    answer.extend_from_slice(body);
    to.write_all(&answer)?;
    to.flush()
}

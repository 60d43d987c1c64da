//! What hyper does not tell of a request's head: whether it gave two lengths.
//!
//! A request with both `Content-Length` and `Transfer-Encoding` is how one request is smuggled in another past
//! a proxy (RFC 9112, 6.1 and 11.2), and is to be refused. hyper lets the chunks win, and forgets a
//! `Content-Length` that comes after them, so the bytes are read along with it: line by line in a head, and
//! nothing of a body but its end. Where a message breaks the rules, hyper ends the connection, and nothing
//! is followed any more.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// The longest line that is followed, in bytes: hyper takes no longer head.
const MAX_LINE_BYTES: usize = 64 * 1024;
/// The first line of an HTTP/2 connection, which frames its messages otherwise.
const HTTP2: &[u8] = b"PRI * HTTP/2.0";

/// A stream whose heads are read along.
pub(crate) struct Watched<S> {
    stream: S,
    heads: Heads,
}

/// Which request of a connection, counted from 1, gave two lengths; 0 for none so far.
#[derive(Debug, Clone, Default)]
pub(crate) struct TwoLengths(Arc<AtomicU64>);

impl TwoLengths {
    /// Whether it was this one.
    pub(crate) fn at(&self, request: u64) -> bool {
        self.0.load(Ordering::Relaxed) == request
    }
}

impl<S> Watched<S> {
    /// Watches a stream from its first byte on.
    pub(crate) fn new(stream: S, two_lengths: TwoLengths) -> Self {
        Self {
            stream,
            heads: Heads::new(two_lengths),
        }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Watched<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        ready!(Pin::new(&mut self.stream).poll_read(context, buffer))?;
        self.heads.see(&buffer.filled()[before..]);
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Watched<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(context, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(context, slices)
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

/// Where in a message the next byte stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Place {
    Line(Line),
    /// So many bytes of a body, and the line that follows them.
    Bytes(u64, Line),
    /// Nothing is followed any more.
    Lost,
}

/// What a line is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Line {
    Request,
    Field,
    ChunkSize,
    ChunkEnd,
    Trailer,
}

/// What a head says of its body.
#[derive(Debug, Clone, Copy, Default)]
struct Head {
    /// `Content-Length`, or `Err` for one that is no number.
    length: Option<Result<u64, ()>>,
    chunked: bool,
}

/// Follows the bytes of a connection, in whatever pieces they come.
struct Heads {
    place: Place,
    head: Head,
    /// The beginning of a line whose end has not come.
    begun: Vec<u8>,
    requests: u64,
    two_lengths: TwoLengths,
}

impl Heads {
    fn new(two_lengths: TwoLengths) -> Self {
        Self {
            place: Place::Line(Line::Request),
            head: Head::default(),
            begun: Vec::new(),
            requests: 0,
            two_lengths,
        }
    }

    fn see(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            match self.place {
                Place::Lost => return,
                Place::Bytes(left, line) => {
                    let here =
                        usize::try_from(left).map_or(bytes.len(), |left| left.min(bytes.len()));
                    bytes = &bytes[here..];
                    self.place = match left - here as u64 {
                        0 => Place::Line(line),
                        left => Place::Bytes(left, line),
                    };
                }
                Place::Line(line) => {
                    let Some(end) = memchr::memchr(b'\n', bytes) else {
                        return self.keep(bytes);
                    };
                    let (text, rest) = (&bytes[..end], &bytes[end + 1..]);
                    bytes = rest;
                    if self.begun.is_empty() {
                        self.place = self.after(line, text);
                    } else {
                        let mut whole = std::mem::take(&mut self.begun);
                        whole.extend_from_slice(text);
                        self.place = self.after(line, &whole);
                    }
                }
            }
        }
    }

    fn keep(&mut self, bytes: &[u8]) {
        self.begun.extend_from_slice(bytes);
        if self.begun.len() > MAX_LINE_BYTES {
            self.begun = Vec::new();
            self.place = Place::Lost;
        }
    }

    /// Where the byte after this line stands.
    fn after(&mut self, line: Line, text: &[u8]) -> Place {
        let text = text.strip_suffix(b"\r").unwrap_or(text);
        match line {
            // An empty line ends the trailers; before a request it says nothing (RFC 9112, 2.2).
            Line::Request | Line::Trailer if text.is_empty() => Place::Line(Line::Request),
            Line::Request if text == HTTP2 => Place::Lost,
            Line::Request => {
                self.requests += 1;
                self.head = Head::default();
                Place::Line(Line::Field)
            }
            Line::Field if text.is_empty() => self.body(),
            Line::Field => {
                self.field(text);
                Place::Line(Line::Field)
            }
            Line::ChunkSize => match chunk_size(text) {
                Some(0) => Place::Line(Line::Trailer),
                Some(size) => Place::Bytes(size, Line::ChunkEnd),
                None => Place::Lost,
            },
            Line::ChunkEnd if text.is_empty() => Place::Line(Line::ChunkSize),
            Line::ChunkEnd => Place::Lost,
            Line::Trailer => Place::Line(Line::Trailer),
        }
    }

    fn field(&mut self, text: &[u8]) {
        if value_of(text, b"transfer-encoding").is_some() {
            self.head.chunked = true;
        } else if let Some(value) = value_of(text, b"content-length") {
            self.head.length = Some(number(value, 10).ok_or(()));
        }
    }

    /// After the head: where its body ends, or that it gave two ends.
    fn body(&mut self) -> Place {
        match (self.head.length, self.head.chunked) {
            (Some(_), true) => {
                self.two_lengths.0.store(self.requests, Ordering::Relaxed);
                Place::Lost
            }
            (None, true) => Place::Line(Line::ChunkSize),
            (Some(Err(())), false) => Place::Lost,
            (Some(Ok(0)) | None, false) => Place::Line(Line::Request),
            (Some(Ok(length)), false) => Place::Bytes(length, Line::Request),
        }
    }
}

/// The value of a field line, if the field has this name.
fn value_of<'a>(line: &'a [u8], name: &[u8]) -> Option<&'a [u8]> {
    let (given, rest) = line.split_at_checked(name.len())?;
    let named = given.eq_ignore_ascii_case(name);
    rest.strip_prefix(b":").filter(|_| named)
}

/// The size of a chunk; what follows a semicolon extends it and says nothing here.
fn chunk_size(line: &[u8]) -> Option<u64> {
    let size = line.split(|byte| *byte == b';').next()?;
    number(size, 16)
}

fn number(text: &[u8], radix: u32) -> Option<u64> {
    let text = std::str::from_utf8(text).ok()?;
    let text = text.trim_matches([' ', '\t']);
    // A sign is no digit here.
    let digits = text.chars().all(|one| one.is_digit(radix));
    u64::from_str_radix(text, radix).ok().filter(|_| digits)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const TRAP: &str = "\r\nTransfer-Encoding: chunked\r\nContent-Length: 3\r\n\r\n";

    /// Which request of a connection's bytes gives two lengths, when they come in pieces of this size.
    fn found(bytes: &[u8], piece: usize) -> u64 {
        let two_lengths = TwoLengths::default();
        let mut heads = Heads::new(two_lengths.clone());
        bytes.chunks(piece).for_each(|piece| heads.see(piece));
        two_lengths.0.load(Ordering::Relaxed)
    }

    fn request(fields: &str, body: &str) -> String {
        format!("POST /x HTTP/1.1\r\nHost: x\r\n{fields}\r\n{body}")
    }

    fn chunked(text: &str, size: usize) -> String {
        let chunks = text.as_bytes().chunks(size).map(|chunk| {
            let text = std::str::from_utf8(chunk).expect("ASCII");
            format!("{:x};note=\"x\"\r\n{text}\r\n", chunk.len())
        });
        let last = "0\r\nTrailer: Content-Length\r\n\r\n".to_owned();
        chunks.chain([last]).collect()
    }

    /// One legal request of any kind, with a body full of traps.
    fn legal() -> impl Strategy<Value = String> {
        let body = (0..4_usize, 1..40_usize).prop_map(|(traps, size)| (TRAP.repeat(traps), size));
        (0..4_u8, body).prop_map(|(kind, (body, size))| match kind {
            0 => request("", ""),
            1 => request(&format!("content-length:{}\r\n", body.len()), &body),
            2 => request("TRANSFER-encoding: chunked\r\n", &chunked(&body, size)),
            _ => format!(
                "\r\n{}",
                request("X-Content-Length: 1\nX: Transfer-Encoding: 1\r\n", "")
            ),
        })
    }

    proptest! {
        #[test]
        fn the_first_with_two_lengths_is_found_and_no_other(
            before in proptest::collection::vec(legal(), 0..4),
            fields in prop_oneof![
                Just("Content-Length: 5\r\nTransfer-Encoding: chunked\r\n"),
                Just("transfer-encoding:chunked\r\nX: y\r\ncontent-length:\t5\r\n"),
                Just("Transfer-Encoding: gzip\nTransfer-Encoding: chunked\nContent-Length: five\n"),
            ],
            piece in 1..300_usize,
        ) {
            let legal = before.concat();
            prop_assert_eq!(found(legal.as_bytes(), piece), 0);
            let all = legal + &request(fields, "0\r\n\r\n") + &request(fields, "");
            prop_assert_eq!(found(all.as_bytes(), piece), before.len() as u64 + 1);
        }

        #[test]
        fn any_bytes_are_followed_without_a_panic(
            bytes in proptest::collection::vec(any::<u8>(), 0..300),
            piece in 1..20_usize,
        ) {
            let begun = [request("Transfer-Encoding: chunked\r\n", "").into_bytes(), bytes].concat();
            found(&begun, piece);
        }
    }

    #[test]
    fn another_protocol_and_endless_lines_are_not_followed() {
        let trap = request("Content-Length: 5\r\nTransfer-Encoding: chunked\r\n", "");
        let http2 = format!("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n{trap}");
        assert_eq!(found(http2.as_bytes(), 1_000), 0);
        let endless = "x".repeat(2 * MAX_LINE_BYTES) + "\r\n\r\n" + &trap;
        assert_eq!(found(endless.as_bytes(), 1_000), 0);
        for size in ["", "+5", "-1", "0x5", "10000000000000000"] {
            let body = format!("{size}\r\n{trap}");
            let lost = request("Transfer-Encoding: chunked\r\n", &body);
            assert_eq!(found(lost.as_bytes(), 7), 0, "{size:?}");
        }
    }
}

//! Content codings of request bodies (RFC 9110, 8.4): none, or gzip, inflated as it arrives.
//!
//! What comes out of a body is bounded, not what goes in: inflation stops where the limit is passed, so that a
//! small body that would become a huge one costs no more memory than the largest one that is taken. All bodies
//! together are bounded too (`bodies.rs`): what is taken of one counts until its last reader has dropped it.

use std::io::{self, Write};

use axum::body::Body;
use axum::http::{HeaderMap, HeaderValue, header};
use bytes::Bytes;
use flate2::write::MultiGzDecoder;
use http_body_util::{BodyExt as _, LengthLimitError, Limited};
use tidings_event::Code;
use tidings_gateway::publish::refusal::{Refusal, Rule};

use crate::bodies::Share;

/// What a 415 for a coding names as its field.
pub(crate) const ENCODING_FIELD: &str = "Content-Encoding";
/// What a 415 for a coding says in `Accept-Encoding` (RFC 9110, 15.5.16).
pub(crate) const ACCEPTED_CODINGS: HeaderValue = HeaderValue::from_static("gzip, identity");

/// What the state of an inflation takes: the window, its tables and what came out last, in bytes.
const INFLATION_BYTES: usize = 64 * 1024;

/// A coding that is read here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Coding {
    Identity,
    Gzip,
}

/// The coding of a body; one coding at most, since each more would be a bomb in a bomb.
pub(crate) fn coding(headers: &HeaderMap) -> Result<Coding, Refusal> {
    let mut given = headers.get_all(header::CONTENT_ENCODING).iter();
    let Some(first) = given.next() else {
        return Ok(Coding::Identity);
    };
    let name = first.to_str().unwrap_or("not ASCII").trim();
    let is = |coding: &str| name.eq_ignore_ascii_case(coding);
    if given.next().is_none() {
        if is("") || is("identity") {
            return Ok(Coding::Identity);
        }
        // RFC 9110, 8.4.1.3: x-gzip is another name of it.
        if is("gzip") || is("x-gzip") {
            return Ok(Coding::Gzip);
        }
    }
    Err(Refusal::new(
        Code::UnsupportedMediaType,
        Rule::BodyLimits,
        format!("Content-Encoding {name:?} is not read here; send gzip, or identity, once."),
    )
    .field(ENCODING_FIELD))
}

/// Takes a body as it stands on the wire, up to `limit` bytes and what its share can take.
pub(crate) async fn gather(
    mut body: Limited<&mut Body>,
    limit: usize,
    share: Share,
) -> Result<Bytes, axum::BoxError> {
    let mut taken = Bounded::new(limit, share);
    while let Some(frame) = body.frame().await {
        // What is no data is trailers.
        if let Ok(data) = frame?.into_data() {
            taken.write_all(&data)?;
        }
    }
    Ok(Bytes::from_owner(taken))
}

/// Inflates a body up to `limit` bytes. What is not gzip is an [`io::Error`]; past the limit, see [`too_long`].
pub(crate) async fn inflate(
    mut body: Limited<&mut Body>,
    limit: usize,
    mut share: Share,
) -> Result<Bytes, axum::BoxError> {
    share.grow_beside(INFLATION_BYTES)?;
    let mut decoder = MultiGzDecoder::new(Bounded::new(limit, share));
    while let Some(frame) = body.frame().await {
        if let Ok(data) = frame?.into_data() {
            decoder.write_all(&data)?;
        }
    }
    Ok(Bytes::from_owner(decoder.finish()?))
}

/// Whether reading failed because a limit was passed, on the wire or behind it.
pub(crate) fn too_long(error: &axum::BoxError) -> bool {
    let inflated = |error: &io::Error| error.kind() == io::ErrorKind::FileTooLarge;
    error.is::<LengthLimitError>() || error.downcast_ref().is_some_and(inflated)
}

/// Takes so many bytes and no more, and holds them with their share.
struct Bounded {
    taken: Vec<u8>,
    limit: usize,
    share: Share,
}

impl Bounded {
    fn new(limit: usize, share: Share) -> Self {
        let taken = Vec::new();
        Self {
            taken,
            limit,
            share,
        }
    }
}

impl AsRef<[u8]> for Bounded {
    fn as_ref(&self) -> &[u8] {
        &self.taken
    }
}

impl Write for Bounded {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let wanted = self.taken.len() + bytes.len();
        if wanted > self.limit {
            return Err(io::Error::from(io::ErrorKind::FileTooLarge));
        }
        if wanted > self.taken.capacity() {
            // Doubling as a vector does, but never past the limit.
            let capacity = (self.taken.capacity() * 2).clamp(wanted, self.limit);
            self.share.grow(capacity - self.taken.capacity())?;
            self.taken.reserve_exact(capacity - self.taken.len());
        }
        self.taken.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use axum::body::Body;
    use flate2::Compression;
    use flate2::write::GzEncoder;
    use futures_util::{FutureExt as _, stream};
    use proptest::prelude::*;

    use super::*;
    use crate::bodies::{Bodies, no_room};

    fn ample() -> Share {
        Bodies::new(1 << 30).share(None)
    }

    fn gzip(text: &[u8]) -> Vec<u8> {
        let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
        encoder.write_all(text).unwrap();
        encoder.finish().unwrap()
    }

    fn inflated(bytes: &[u8], piece: usize, limit: usize) -> Result<Bytes, axum::BoxError> {
        let pieces = bytes.chunks(piece).map(Bytes::copy_from_slice);
        let pieces: Vec<io::Result<Bytes>> = pieces.map(Ok).collect();
        let mut body = Body::from_stream(stream::iter(pieces));
        let body = Limited::new(&mut body, usize::MAX);
        let mut work = std::pin::pin!(inflate(body, limit, ample()));
        work.as_mut().now_or_never().expect("every piece is there")
    }

    proptest! {
        #[test]
        fn what_was_compressed_comes_out_however_it_arrives(
            text in proptest::collection::vec(any::<u8>(), 0..5_000),
            piece in 1..6_000_usize,
        ) {
            let bytes = gzip(&text);
            prop_assert_eq!(&inflated(&bytes, piece, text.len()).unwrap()[..], &text[..]);
            if !text.is_empty() {
                prop_assert!(too_long(&inflated(&bytes, piece, text.len() - 1).unwrap_err()));
            }
            for cut in [0, 5, bytes.len() / 2, bytes.len() - 1] {
                prop_assert!(inflated(&bytes[..cut], piece, text.len()).is_err(), "cut at {}", cut);
            }
        }
    }

    #[test]
    fn members_follow_each_other_and_nothing_else_does() {
        let two = [gzip(b"one, "), gzip(b"two")].concat();
        assert_eq!(&inflated(&two, 7, 8).unwrap()[..], b"one, two");
        assert!(too_long(&inflated(&two, 7, 7).unwrap_err()));
        let trailing = [gzip(b"one"), b"rest".to_vec()].concat();
        let error = inflated(&trailing, 100, 100).unwrap_err();
        assert!(error.is::<io::Error>() && !too_long(&error), "{error}");
    }

    #[test]
    fn a_bomb_takes_no_more_memory_than_the_limit() {
        let limit = 1_000_000;
        let mut bounded = Bounded::new(limit, ample());
        let mut decoder = flate2::read::GzDecoder::new(io::Cursor::new(gzip(&vec![0; 20_000_000])));
        io::copy(&mut decoder, &mut bounded).unwrap_err();
        assert!(bounded.taken.capacity() <= limit);
    }

    #[test]
    fn a_bomb_takes_no_more_than_all_bodies_may() {
        let bodies = Bodies::new(1_000_000);
        let mut bomb = Body::from(gzip(&vec![0; 20_000_000]));
        let bomb = Limited::new(&mut bomb, 1 << 20);
        let bomb = inflate(bomb, 16 << 20, bodies.share(None));
        let refused = bomb.now_or_never().expect("all is there").unwrap_err();
        assert!(no_room(&refused), "{refused}");
        // What was taken is given back, and what is held counts until it is dropped.
        let read = |length| {
            let mut body = Body::from(vec![b'x'; length]);
            let body = Limited::new(&mut body, 1 << 20);
            gather(body, 1 << 20, bodies.share(None)).now_or_never()
        };
        let held = read(500_000).expect("all is there").unwrap();
        assert_eq!(held.len(), 500_000);
        let part = held.slice(..1);
        drop(held);
        assert!(no_room(&read(500_000).expect("all is there").unwrap_err()));
        drop(part);
        assert!(read(500_000).expect("all is there").is_ok());
    }

    #[test]
    fn one_coding_is_read_and_others_are_named() {
        let check = |values: &[&'static str], expected: Option<Coding>| {
            let mut headers = HeaderMap::new();
            for value in values {
                headers.append(header::CONTENT_ENCODING, HeaderValue::from_static(value));
            }
            assert_eq!(coding(&headers).ok(), expected, "{values:?}");
        };
        check(&[], Some(Coding::Identity));
        check(&["identity"], Some(Coding::Identity));
        check(&["GZip"], Some(Coding::Gzip));
        check(&["x-gzip"], Some(Coding::Gzip));
        check(&["gzip, gzip"], None);
        check(&["gzip", "gzip"], None);
        check(&["br"], None);
        check(&["deflate"], None);
    }
}

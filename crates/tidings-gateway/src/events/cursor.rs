//! Where a reader stands in its tenant's events, short enough for a header and a query.

use std::collections::BTreeMap;

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use sha2::{Digest as _, Sha256};
use tidings_event::Topic;

/// What the wire form begins with: another form gets another number.
const FORM: u8 = 1;
/// A topic is called by so many bytes of the hash of its name. Among 4,000 topics two share one with a chance of
/// 1 in 30 million, where the names alone would outgrow every header.
const NAME_BYTES: usize = 6;
/// Most characters of a cursor that are read. A head of 64 KiB takes it, and it takes 2,200 topics, whatever the offsets.
const MAX_LENGTH: usize = 49_152;

type Name = [u8; NAME_BYTES];

/// A place in a tenant's events: for each topic, the offset to read next. Opaque on the wire.
///
/// A topic that is not in it has not been read yet, which is also what offset 0 says.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Cursor(BTreeMap<Name, u64>);

impl Cursor {
    /// The offset to read next in a topic, unless it was not read yet.
    pub(super) fn offset(&self, topic: &Topic) -> Option<u64> {
        self.0.get(&name(topic)).copied()
    }

    /// Moves to an offset of a topic.
    pub(super) fn set(&mut self, topic: &Topic, offset: u64) {
        if offset == 0 {
            self.0.remove(&name(topic));
        } else {
            self.0.insert(name(topic), offset);
        }
    }

    /// The wire form.
    pub fn encode(&self) -> String {
        let mut bytes = vec![FORM];
        for (name, offset) in &self.0 {
            bytes.extend(name);
            let mut rest = *offset;
            while rest >= 0x80 {
                bytes.push(low_bits(rest) | 0x80);
                rest >>= 7;
            }
            bytes.push(low_bits(rest));
        }
        URL_SAFE_NO_PAD.encode(bytes)
    }

    /// From the wire form.
    pub fn decode(text: &str) -> Option<Self> {
        let bytes = (text.len() <= MAX_LENGTH).then(|| URL_SAFE_NO_PAD.decode(text).ok())??;
        let mut rest = bytes.strip_prefix(&[FORM])?;
        let mut offsets = BTreeMap::new();
        while let Some((name, behind)) = rest.split_first_chunk() {
            let (offset, behind) = number(behind)?;
            offsets.insert(*name, offset);
            rest = behind;
        }
        rest.is_empty().then_some(Self(offsets))
    }
}

fn name(topic: &Topic) -> Name {
    let hash: [u8; 32] = Sha256::digest(topic.as_str()).into();
    let mut name = Name::default();
    name.copy_from_slice(&hash[..NAME_BYTES]);
    name
}

fn low_bits(number: u64) -> u8 {
    number.to_le_bytes()[0] & 0x7f
}

/// A number in groups of 7 bits, the lowest first, and what is behind it.
fn number(bytes: &[u8]) -> Option<(u64, &[u8])> {
    let mut number = 0_u64;
    for (index, byte) in bytes.iter().enumerate() {
        let shift = 7 * u32::try_from(index).ok()?;
        let group = u64::from(byte & 0x7f);
        let shifted = group.checked_shl(shift)?;
        if shifted >> shift != group {
            return None;
        }
        number |= shifted;
        if byte & 0x80 == 0 {
            return Some((number, &bytes[index + 1..]));
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn topic(number: usize) -> Topic {
        format!("catalogue.channel.{number}").parse().unwrap()
    }

    proptest! {
        #[test]
        fn any_position_comes_back(
            positions in proptest::collection::vec((0..50_usize, any::<u64>()), 0..100),
        ) {
            let mut cursor = Cursor::default();
            let mut expected = BTreeMap::new();
            for (number, offset) in positions {
                cursor.set(&topic(number), offset);
                expected.insert(number, offset);
            }
            let decoded = Cursor::decode(&cursor.encode()).unwrap();
            prop_assert_eq!(&decoded, &cursor);
            for (number, offset) in expected {
                prop_assert_eq!(decoded.offset(&topic(number)).unwrap_or_default(), offset);
            }
        }

        #[test]
        fn bytes_of_others_are_no_cursor_or_one_that_comes_back(
            bytes in proptest::collection::vec(any::<u8>(), 0..60),
            form in any::<bool>(),
        ) {
            let bytes = if form { [&[FORM], &bytes[..]].concat() } else { bytes };
            if let Some(cursor) = Cursor::decode(&URL_SAFE_NO_PAD.encode(&bytes)) {
                prop_assert_eq!(bytes[0], FORM);
                prop_assert_eq!(Cursor::decode(&cursor.encode()), Some(cursor));
            }
        }
    }

    #[test]
    fn what_is_too_long_or_of_another_form_is_no_cursor() {
        let earlier = URL_SAFE_NO_PAD.encode("platform.data.events:17");
        for bad in ["", "!", &earlier, &"A".repeat(MAX_LENGTH + 1)] {
            assert_eq!(Cursor::decode(bad), None, "{bad}");
        }
    }

    #[test]
    fn every_channel_of_a_large_catalogue_fits() {
        let at = |offset: u64| {
            let mut cursor = Cursor::default();
            (0..1_000).for_each(|number| cursor.set(&topic(number), offset));
            let text = cursor.encode();
            assert_eq!(Cursor::decode(&text).unwrap().0.len(), 1_000);
            text.len()
        };
        assert!(at(u64::MAX) < MAX_LENGTH / 2);
        assert!(at(1_000_000) < 12_100);
    }
}

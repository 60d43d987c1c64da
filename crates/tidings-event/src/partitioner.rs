//! Kafka's own default partitioner, so that a tenant keeps its partition when its installation moves to Kafka.

/// The partition of a key: its [slot](slot_of) modulo the number of partitions.
///
/// # Panics
/// When `partitions` is 0: a topic has at least one.
pub fn partition_of(key: &[u8], partitions: u32) -> u32 {
    slot_of(key) % partitions
}

/// Where a key falls, whatever the number of partitions: murmur2 of its bytes, made positive.
pub fn slot_of(key: &[u8]) -> u32 {
    murmur2(key) & 0x7fff_ffff
}

/// MurmurHash2, 32 bits, with the seed that Kafka's Java client uses.
fn murmur2(data: &[u8]) -> u32 {
    const SEED: u32 = 0x9747_b28c;
    const M: u32 = 0x5bd1_e995;
    const R: u32 = 24;
    #[expect(
        clippy::cast_possible_truncation,
        reason = "the algorithm takes the length modulo 2^32"
    )]
    let mut hash = SEED ^ data.len() as u32;
    let mut words = data.chunks_exact(4);
    for word in &mut words {
        let mut k = u32::from_le_bytes([word[0], word[1], word[2], word[3]]);
        k = k.wrapping_mul(M);
        k ^= k >> R;
        k = k.wrapping_mul(M);
        hash = hash.wrapping_mul(M) ^ k;
    }
    let rest = words.remainder();
    if !rest.is_empty() {
        for (index, byte) in rest.iter().enumerate() {
            hash ^= u32::from(*byte) << (8 * index);
        }
        hash = hash.wrapping_mul(M);
    }
    hash ^= hash >> 13;
    hash = hash.wrapping_mul(M);
    hash ^ (hash >> 15)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The vectors of Kafka's own `UtilsTest.testMurmur2`.
    #[test]
    fn kafkas_vectors() {
        let check = |key: &str, expected: i32| {
            assert_eq!(murmur2(key.as_bytes()), expected.cast_unsigned(), "{key}");
        };
        check("21", -973_932_308);
        check("foobar", -790_332_482);
        check("a-little-bit-long-string", -985_981_536);
        check("a-little-bit-longer-string", -1_486_304_829);
        check(
            "lkjh234lh9fiuh90y23oiuhsafujhadof229phr9h19h89h8",
            -58_897_971,
        );
        check("abc", 479_470_107);
    }
}

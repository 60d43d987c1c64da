//! Tells a torn end of a write-ahead log, which is normal after a crash, from damage of what was
//! acknowledged.
//!
//! SQLite stops reading a WAL at the first frame whose checksum fails and silently drops the rest.
//! That is right for a transaction that was being written when the power went. But each of our
//! commits is synced before the next begins, so a frame that is bad *although a later transaction
//! follows it* was once whole and acknowledged. This check finds such frames before SQLite opens
//! the file and forgets them.
//!
//! What it cannot tell apart is damage of the very last transaction: that looks like a torn one.

use std::io::{self, Read};

const HEADER_BYTES: usize = 32;
const FRAME_HEADER_BYTES: usize = 24;
/// The lowest bit says whether checksums are over big-endian words.
const MAGIC: u32 = 0x377f_0682;

/// What a WAL's frames say.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// All that was ever acknowledged is there; this many frames will be read back.
    Sound {
        /// Frames up to and with the last whole transaction.
        frames: u64,
    },
    /// An acknowledged frame (counted from 1; 0 is the file's header) is damaged.
    Damaged {
        /// Its number.
        frame: u64,
    },
}

/// Two running sums, as SQLite's file format describes them.
type Checksum = (u32, u32);

/// What is known while walking the frames.
struct Walk {
    big_endian: bool,
    salts: Option<[u8; 8]>,
    /// The sum that the next frame continues.
    seed: Checksum,
    /// The first frame that did not continue the chain.
    broken: Option<u64>,
    /// A transaction ended at or after that frame.
    ended: bool,
    committed: u64,
}

/// Checks a whole WAL. Only reading it can fail.
pub fn check(mut wal: impl Read) -> io::Result<Verdict> {
    let mut header = [0; HEADER_BYTES];
    if !fill(&mut wal, &mut header)? {
        return Ok(Verdict::Sound { frames: 0 });
    }
    let magic = word(&header, 0, true);
    let big_endian = magic & 1 == 1;
    let sum = checksum(big_endian, (0, 0), &header[..24]);
    let page = word(&header, 8, true);
    let legal_page = page.is_power_of_two() && (512..=65_536).contains(&page);
    let whole = magic & !1 == MAGIC && legal_page && sum == stored(&header, 24);
    let page = if legal_page && whole {
        page
    } else {
        super::schema::PAGE_BYTES
    };
    let mut walk = Walk {
        big_endian: if whole {
            big_endian
        } else {
            cfg!(target_endian = "big")
        },
        salts: whole.then(|| header[16..24].try_into().expect("eight bytes")),
        seed: sum,
        broken: (!whole).then_some(0),
        ended: false,
        committed: 0,
    };
    let mut frame = vec![0; FRAME_HEADER_BYTES + usize::try_from(page).expect("fits")];
    let mut number = 0;
    while fill(&mut wal, &mut frame)? {
        number += 1;
        if walk.step(number, &frame) {
            return Ok(Verdict::Damaged {
                frame: walk.broken.unwrap_or(number),
            });
        }
    }
    Ok(Verdict::Sound {
        frames: walk.committed,
    })
}

impl Walk {
    /// Takes one frame; true when it proves an earlier one damaged.
    fn step(&mut self, number: u64, frame: &[u8]) -> bool {
        let (head, page) = frame.split_at(FRAME_HEADER_BYTES);
        // Behind a damaged header the salts are unknown; those of the first frame must do.
        let salts: [u8; 8] = head[8..16].try_into().expect("eight bytes");
        let known = *self.salts.get_or_insert(salts);
        let ours = salts == known;
        let sum = checksum(self.big_endian, self.seed, &head[..8]);
        let sum = checksum(self.big_endian, sum, page);
        let chained = ours && sum == stored(head, 16);
        let commit = ours && word(head, 4, true) != 0;
        if self.broken.is_none() && !chained {
            self.broken = Some(number);
        }
        if self.broken.is_none() {
            self.committed = if commit { number } else { self.committed };
        } else if chained && self.ended {
            return true;
        } else {
            self.ended |= commit;
        }
        self.seed = stored(head, 16);
        false
    }
}

/// Fills the buffer; false when the file ends before.
fn fill(from: &mut impl Read, buffer: &mut [u8]) -> io::Result<bool> {
    match from.read_exact(buffer) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Ok(false),
        Err(error) => Err(error),
    }
}

fn word(bytes: &[u8], at: usize, big_endian: bool) -> u32 {
    let word = bytes[at..at + 4].try_into().expect("four bytes");
    if big_endian {
        u32::from_be_bytes(word)
    } else {
        u32::from_le_bytes(word)
    }
}

/// The two sums stored at a place; always big-endian.
fn stored(bytes: &[u8], at: usize) -> Checksum {
    (word(bytes, at, true), word(bytes, at + 4, true))
}

fn checksum(big_endian: bool, (mut one, mut two): Checksum, bytes: &[u8]) -> Checksum {
    for pair in bytes.chunks_exact(8) {
        one = one
            .wrapping_add(word(pair, 0, big_endian))
            .wrapping_add(two);
        two = two
            .wrapping_add(word(pair, 4, big_endian))
            .wrapping_add(one);
    }
    (one, two)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use rusqlite::Connection;
    use rusqlite::config::DbConfig;

    use super::*;

    const FRAME: usize = FRAME_HEADER_BYTES + 4096;

    /// A real WAL of so many transactions, each of at least two frames.
    fn wal(transactions: u32) -> Vec<u8> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x.db");
        let connection = Connection::open(&path).unwrap();
        connection
            .set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, true)
            .unwrap();
        let setup = "PRAGMA journal_mode = WAL; PRAGMA wal_autocheckpoint = 0;
            CREATE TABLE t (x); CREATE TABLE u (x); PRAGMA wal_checkpoint(TRUNCATE);";
        connection.execute_batch(setup).unwrap();
        for x in 0..transactions {
            let sql =
                format!("BEGIN; INSERT INTO t VALUES ({x}); INSERT INTO u VALUES ({x}); COMMIT");
            connection.execute_batch(&sql).unwrap();
        }
        std::fs::read(folder.path().join("x.db-wal")).unwrap()
    }

    fn frames(wal: &[u8]) -> usize {
        (wal.len() - HEADER_BYTES) / FRAME
    }

    #[test]
    fn a_whole_log_is_sound() {
        let wal = wal(5);
        assert_eq!(
            check(&wal[..]).unwrap(),
            Verdict::Sound {
                frames: frames(&wal) as u64
            }
        );
        assert_eq!(check(&[][..]).unwrap(), Verdict::Sound { frames: 0 });
    }

    #[test]
    fn a_last_transaction_written_out_of_order_is_only_torn() {
        let mut wal = wal(5);
        let first_of_last = wal.len() - 2 * FRAME;
        wal[first_of_last..first_of_last + FRAME].fill(0);
        let sound = Verdict::Sound {
            frames: frames(&wal) as u64 - 2,
        };
        assert_eq!(check(&wal[..]).unwrap(), sound);
    }

    #[test]
    fn frames_left_by_an_earlier_round_of_the_log_are_not_damage() {
        let old = wal(5);
        let mut new = wal(2);
        new.extend_from_slice(&old[new.len()..]);
        assert_eq!(check(&new[..]).unwrap(), Verdict::Sound { frames: 4 });
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        /// A cut anywhere is a torn end.
        #[test]
        fn a_cut_is_never_damage(cut in 0_usize..(32 + 10 * FRAME)) {
            let wal = wal(5);
            let verdict = check(&wal[..cut.min(wal.len())]).unwrap();
            prop_assert!(matches!(verdict, Verdict::Sound { .. }), "{:?}", verdict);
        }

        /// A flipped bit before the last two transactions is always found.
        #[test]
        fn a_flip_before_the_last_transactions_is_damage(
            place in 0_usize..(32 + 6 * FRAME),
            bit in 0_u8..8,
        ) {
            let mut wal = wal(5);
            wal[place] ^= 1_u8 << bit;
            let verdict = check(&wal[..]).unwrap();
            prop_assert!(matches!(verdict, Verdict::Damaged { .. }), "{:?}", verdict);
        }
    }
}

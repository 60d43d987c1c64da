//! What the disk alone can do: the floor below every durable answer.

use std::fs::File;
use std::io::{self, Write as _};
use std::path::Path;
use std::time::Instant;

use hdrhistogram::Histogram;

use super::as_float;

const WRITES: usize = 300;
const BYTES: usize = 4096;

/// How long an append and its sync take.
#[derive(Debug)]
pub(super) struct Disk {
    pub(super) median_micros: f64,
    pub(super) p99_micros: f64,
}

/// Appends and syncs some hundred times in this folder.
pub(super) fn measure(folder: &Path) -> io::Result<Disk> {
    let path = folder.join("sync");
    let mut file = File::create_new(&path)?;
    let mut took = Histogram::<u64>::new(3).map_err(io::Error::other)?;
    for _ in 0..WRITES {
        let begun = Instant::now();
        file.write_all(&[b'x'; BYTES])?;
        file.sync_data()?;
        let micros = u64::try_from(begun.elapsed().as_micros()).unwrap_or(u64::MAX);
        took.record(micros).map_err(io::Error::other)?;
    }
    std::fs::remove_file(path)?;
    Ok(Disk {
        median_micros: as_float(took.value_at_quantile(0.5)),
        p99_micros: as_float(took.value_at_quantile(0.99)),
    })
}

//! Choices read from bytes: the same bytes make the same schemas, and fewer bytes make smaller ones.

/// A supply of choices. When the bytes are used up they are read again, stirred, so that payloads keep varying.
pub(crate) struct Choices<'b> {
    bytes: &'b [u8],
    read: usize,
}

impl<'b> Choices<'b> {
    pub(crate) fn new(bytes: &'b [u8]) -> Self {
        Self { bytes, read: 0 }
    }

    /// A number below `count`.
    pub(crate) fn below(&mut self, count: usize) -> usize {
        let byte = self
            .bytes
            .get(self.read % self.bytes.len().max(1))
            .copied()
            .unwrap_or(0);
        let round = self.read / self.bytes.len().max(1);
        self.read += 1;
        (usize::from(byte) + round * 31 + (self.read * round)) % count
    }

    /// Whether something happens that does so once in so many times.
    pub(crate) fn once_in(&mut self, count: usize) -> bool {
        self.below(count) == count - 1
    }

    /// One of several.
    pub(crate) fn one<'v, T>(&mut self, values: &'v [T]) -> &'v T {
        &values[self.below(values.len())]
    }
}

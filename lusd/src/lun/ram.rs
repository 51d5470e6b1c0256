//! `ram:`: a volatile logical unit, to measure and test the target itself. Its content is gone with the daemon.

use std::sync::RwLock;

use bytes::{BufMut, BytesMut};

/// Bytes under one lock; memory is taken when a chunk is first written.
const CHUNK: u64 = 1 << 20;

/// Memory of one `ram:` logical unit. Offsets and lengths in bytes; the caller has checked them against the capacity.
pub struct RamStore {
    chunks: Vec<RwLock<Option<Box<[u8]>>>>,
}

impl RamStore {
    /// A store of `capacity` bytes that reads as zeros.
    pub fn new(capacity: u64) -> Self {
        Self { chunks: (0..capacity.div_ceil(CHUNK)).map(|_| RwLock::new(None)).collect() }
    }

    /// A store of at least `capacity` bytes with this one's content, which it takes along: the caller has stopped all I/O. It never gets
    /// smaller: what was checked against the larger capacity a moment ago still finds its place.
    pub fn resized(&self, capacity: u64) -> Self {
        let store = Self::new(capacity.max(self.chunks.len() as u64 * CHUNK));
        let take = |chunk: &RwLock<Option<Box<[u8]>>>| {
            chunk.write().unwrap_or_else(|poisoned| poisoned.into_inner()).take()
        };
        for (new, old) in store.chunks.iter().zip(&self.chunks) {
            *new.write().unwrap_or_else(|poisoned| poisoned.into_inner()) = take(old);
        }
        store
    }

    /// Appends `len` bytes from `offset` on to `out`.
    pub fn read(&self, offset: u64, len: u64, out: &mut BytesMut) {
        self.each(offset, len, |chunk, at, n, _| {
            match chunk.read().unwrap_or_else(|poisoned| poisoned.into_inner()).as_deref() {
                Some(bytes) => out.extend_from_slice(&bytes[at..at + n]),
                None => out.put_bytes(0, n),
            }
        });
    }

    /// Writes `data` at `offset`.
    pub fn write(&self, offset: u64, data: &[u8]) {
        self.each(offset, data.len() as u64, |chunk, at, n, done| {
            let mut chunk = chunk.write().unwrap_or_else(|poisoned| poisoned.into_inner());
            let bytes = chunk.get_or_insert_with(|| vec![0; CHUNK as usize].into_boxed_slice());
            bytes[at..at + n].copy_from_slice(&data[done..done + n]);
        });
    }

    /// Makes `len` bytes from `offset` on read as zeros; whole chunks give their memory back.
    pub fn zero(&self, offset: u64, len: u64) {
        self.each(offset, len, |chunk, at, n, _| {
            let mut chunk = chunk.write().unwrap_or_else(|poisoned| poisoned.into_inner());
            if n == CHUNK as usize {
                *chunk = None;
            } else if let Some(bytes) = chunk.as_deref_mut() {
                bytes[at..at + n].fill(0);
            }
        });
    }

    /// Parts of `len` bytes from `offset` on for which memory is taken, in order, as (offset, bytes).
    pub fn extents(&self, offset: u64, len: u64) -> Vec<(u64, u64)> {
        let mut extents: Vec<(u64, u64)> = Vec::new();
        self.each(offset, len, |chunk, _, n, done| {
            if chunk.read().unwrap_or_else(|poisoned| poisoned.into_inner()).is_none() {
                return;
            }
            let (at, n) = (offset + done as u64, n as u64);
            match extents.last_mut() {
                Some((start, before)) if *start + *before == at => *before += n,
                _ => extents.push((at, n)),
            }
        });
        extents
    }

    /// Calls `f(chunk, offset in the chunk, bytes, bytes before these)` for each chunk touched.
    fn each(
        &self,
        offset: u64,
        len: u64,
        mut f: impl FnMut(&RwLock<Option<Box<[u8]>>>, usize, usize, usize),
    ) {
        let mut done = 0;
        while done < len {
            let at = (offset + done) % CHUNK;
            let n = (CHUNK - at).min(len - done);
            f(&self.chunks[((offset + done) / CHUNK) as usize], at as usize, n as usize, done as usize);
            done += n;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(store: &RamStore, offset: u64, len: u64) -> Vec<u8> {
        let mut out = BytesMut::new();
        store.read(offset, len, &mut out);
        out.to_vec()
    }

    #[test]
    fn reads_what_was_written_across_chunks() {
        let store = RamStore::new(3 * CHUNK);
        let data: Vec<u8> = (0..CHUNK + 1000).map(|i| (i % 251) as u8 + 1).collect();
        store.write(CHUNK - 500, &data);
        assert_eq!(read(&store, CHUNK - 500, data.len() as u64), data);
        assert_eq!(read(&store, CHUNK - 510, 10), [0; 10]);
        store.zero(CHUNK - 100, CHUNK + 200);
        assert_eq!(read(&store, CHUNK - 100, CHUNK + 200), vec![0; CHUNK as usize + 200]);
        assert_eq!(read(&store, CHUNK - 500, 400), data[..400]);
        assert!(store.chunks[1].read().unwrap().is_none(), "a whole zeroed chunk gives its memory back");
    }

    #[test]
    fn what_was_written_takes_memory() {
        let store = RamStore::new(5 * CHUNK);
        assert_eq!(store.extents(0, 5 * CHUNK), []);
        store.write(CHUNK - 1, b"ab");
        store.write(3 * CHUNK, b"c");
        assert_eq!(store.extents(0, 5 * CHUNK), [(0, 2 * CHUNK), (3 * CHUNK, CHUNK)]);
        assert_eq!(store.extents(512, CHUNK), [(512, CHUNK)]);
        store.zero(0, CHUNK);
        assert_eq!(store.extents(0, 4 * CHUNK - 512), [(CHUNK, CHUNK), (3 * CHUNK, CHUNK - 512)]);
    }

    #[test]
    fn a_resized_store_keeps_its_content() {
        let store = RamStore::new(2 * CHUNK);
        store.write(CHUNK + 5, b"abc");
        let store = store.resized(4 * CHUNK);
        assert_eq!(read(&store, CHUNK + 5, 3), b"abc");
        assert_eq!(read(&store, 3 * CHUNK, 3), [0; 3]);
        assert_eq!(store.resized(CHUNK).chunks.len(), 4);
    }
}

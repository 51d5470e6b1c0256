//! The way out: PDUs as pieces, headers and small data in one arena, large data by reference.
//!
//! Invariant: the arena's unsent bytes are those of the `Arena` pieces, in order.

use std::collections::VecDeque;
use std::io::IoSlice;

use bytes::{Bytes, BytesMut};
use smallvec::SmallVec;

use crate::bhs::{Bhs, pad_len};
use crate::digest::{self, Crc};

/// Data up to this length is copied beside its header, bytes: cheaper than a slice of its own.
const COPY_LEN_MAX: usize = 256;
/// The sent part of the arena is given back when it is this long and at least half of it, bytes.
const ARENA_RECLAIM: usize = 16 << 10;

#[derive(Debug)]
enum Piece {
    /// So many bytes of the arena.
    Arena(usize),
    /// Data of the daemon's.
    Data(Bytes),
    /// Data of ours, which counts against the bound on output.
    Own(Bytes),
}

impl Piece {
    fn len(&self) -> usize {
        match self {
            Self::Arena(len) => *len,
            Self::Data(data) | Self::Own(data) => data.len(),
        }
    }
}

#[derive(Debug, Default)]
pub(crate) struct Output {
    arena: BytesMut,
    /// Bytes of the arena that were sent.
    arena_sent: usize,
    pieces: VecDeque<Piece>,
    /// Bytes of the first piece that were sent.
    front_sent: usize,
    /// Bytes of `Own` pieces.
    own: usize,
    queued: usize,
    header_digest: bool,
    data_digest: bool,
}

impl Output {
    pub(crate) fn set_digests(&mut self, header: bool, data: bool) {
        (self.header_digest, self.data_digest) = (header, data);
    }

    /// Bytes that wait to be sent.
    pub(crate) fn queued(&self) -> usize {
        self.queued
    }

    /// Bytes that wait to be sent and that the daemon has not accounted for.
    pub(crate) fn overhead(&self) -> usize {
        self.arena.len() - self.arena_sent + self.own
    }

    fn put(&mut self, bytes: &[u8]) {
        self.arena.extend_from_slice(bytes);
        self.queued += bytes.len();
        match self.pieces.back_mut() {
            Some(Piece::Arena(len)) => *len += bytes.len(),
            _ => self.pieces.push_back(Piece::Arena(bytes.len())),
        }
    }

    /// A header whose DataSegmentLength is set here.
    fn put_header(&mut self, mut bhs: Bhs, data_len: usize) {
        bhs.set_data_segment_length(data_len as u32);
        self.put(&bhs.0);
        if self.header_digest {
            self.put(&digest::of(&bhs.0));
        }
    }

    /// Padding and digest of a data segment.
    fn trailer(&self, data: &[u8]) -> SmallVec<[u8; 8]> {
        let pad = &[0; 3][..pad_len(data.len() as u32)];
        let mut trailer = SmallVec::from_slice(pad);
        if self.data_digest {
            trailer.extend_from_slice(&Crc::new().append(data).append(pad).to_wire());
        }
        trailer
    }

    fn put_trailer(&mut self, trailer: &[u8]) {
        if !trailer.is_empty() {
            self.put(trailer);
        }
    }

    /// Queues a PDU with little or no data, which is copied.
    pub(crate) fn push(&mut self, bhs: Bhs, data: &[u8]) {
        self.put_header(bhs, data.len());
        if !data.is_empty() {
            self.put(data);
            let trailer = self.trailer(data);
            self.put_trailer(&trailer);
        }
    }

    /// Queues a PDU with data of the daemon's.
    pub(crate) fn push_data(&mut self, bhs: Bhs, data: Bytes) {
        self.push_piece(bhs, data, Piece::Data);
    }

    /// Queues a PDU with data of ours.
    pub(crate) fn push_own(&mut self, bhs: Bhs, data: Bytes) {
        self.push_piece(bhs, data, Piece::Own);
    }

    fn push_piece(&mut self, bhs: Bhs, data: Bytes, piece: fn(Bytes) -> Piece) {
        if data.len() <= COPY_LEN_MAX {
            return self.push(bhs, &data);
        }
        self.put_header(bhs, data.len());
        self.queued += data.len();
        let trailer = self.trailer(&data);
        let held = piece(data);
        if let Piece::Own(data) = &held {
            self.own += data.len();
        }
        self.pieces.push_back(held);
        self.put_trailer(&trailer);
    }

    /// What is to be written next, as far as `slices` reach.
    pub(crate) fn fill<'a>(&'a self, slices: &mut [IoSlice<'a>]) -> usize {
        let (mut skip, mut at, mut n) = (self.front_sent, self.arena_sent, 0);
        for (slice, piece) in slices.iter_mut().zip(&self.pieces) {
            *slice = match piece {
                Piece::Arena(len) => {
                    let start = at;
                    at += len - skip;
                    IoSlice::new(&self.arena[start..at])
                }
                Piece::Data(data) | Piece::Own(data) => IoSlice::new(&data[skip..]),
            };
            skip = 0;
            n += 1;
        }
        n
    }

    /// So many bytes have gone out. What they were in is let go.
    pub(crate) fn sent(&mut self, mut n: usize) {
        assert!(n <= self.queued, "more was sent than was queued");
        self.queued -= n;
        while n > 0 {
            let front = self.pieces.front().expect("there are pieces while bytes are queued");
            let step = n.min(front.len() - self.front_sent);
            let done = self.front_sent + step == front.len();
            match front {
                Piece::Arena(_) => self.arena_sent += step,
                Piece::Own(data) if done => self.own -= data.len(),
                Piece::Own(_) | Piece::Data(_) => {}
            }
            self.front_sent = if done { 0 } else { self.front_sent + step };
            if done {
                self.pieces.pop_front();
            }
            n -= step;
        }
        if self.arena_sent == self.arena.len() {
            self.arena.clear();
            self.arena_sent = 0;
        } else if self.arena_sent >= ARENA_RECLAIM && self.arena_sent * 2 >= self.arena.len() {
            let held = self.arena.len() - self.arena_sent;
            self.arena.copy_within(self.arena_sent.., 0);
            self.arena.truncate(held);
            self.arena_sent = 0;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bhs::{FINAL, Opcode};
    use proptest::prelude::*;

    fn next(output: &Output, count: usize) -> Vec<u8> {
        let mut slices = vec![IoSlice::new(&[]); count];
        let n = output.fill(&mut slices);
        slices[..n].iter().flat_map(|s| s.to_vec()).collect()
    }

    #[test]
    fn headers_of_consecutive_pdus_share_a_slice() {
        let mut output = Output::default();
        for _ in 0..3 {
            output.push(Bhs::new(Opcode::NopIn, FINAL), b"x");
        }
        output.push_data(Bhs::new(Opcode::DataIn, FINAL), Bytes::from(vec![1; 4096]));
        output.push(Bhs::new(Opcode::NopIn, FINAL), &[]);
        let mut slices = [IoSlice::new(&[]); 8];
        let n = output.fill(&mut slices);
        assert_eq!(slices[..n].iter().map(|s| s.len()).collect::<Vec<_>>(), [3 * 52 + 48, 4096, 48]);
        assert_eq!(output.overhead(), 3 * 52 + 48 + 48);
    }

    proptest! {
        /// However the bytes go out, they are the same, and at the end nothing is held.
        #[test]
        fn any_way_of_sending_sends_the_same(
            lens in proptest::collection::vec((0..700usize, any::<bool>()), 1..40),
            steps in proptest::collection::vec(1..900usize, 1..20),
            digests in any::<(bool, bool)>(),
            count in 1..9usize,
        ) {
            let build = || {
                let mut output = Output::default();
                output.set_digests(digests.0, digests.1);
                for &(len, own) in &lens {
                    let data = Bytes::from(vec![len as u8; len]);
                    let bhs = Bhs::new(Opcode::DataIn, FINAL);
                    if own { output.push_own(bhs, data) } else { output.push_data(bhs, data) }
                }
                output
            };
            let whole = next(&build(), 1000);
            let mut output = build();
            prop_assert_eq!(whole.len(), output.queued());
            let mut got = Vec::new();
            for step in steps.iter().cycle() {
                let bytes = next(&output, count);
                if bytes.is_empty() {
                    break;
                }
                let n = bytes.len().min(*step);
                got.extend_from_slice(&bytes[..n]);
                output.sent(n);
            }
            prop_assert_eq!(got, whole);
            prop_assert_eq!((output.queued(), output.overhead(), output.pieces.len()), (0, 0, 0));
        }
    }
}

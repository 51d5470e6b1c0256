//! Bytes to PDUs and back, for an initiator. Data of answers is passed on where it lies in the receive buffer, never gathered here.

use std::collections::VecDeque;
use std::io::IoSlice;
use std::ops::Range;

use anyhow::ensure;
use bytes::Bytes;
use lusd_iscsi::bhs::{BHS_LEN, Bhs, DIGEST_LEN, pad_len};
use lusd_iscsi::digest;

/// Size of the receive buffer, bytes: many answers of 4 KiB, and a good part of a large one.
const INPUT_BYTES: usize = 256 << 10;

/// Below this many bytes data is copied behind its header.
const COPIED_BYTES_MAX: usize = 1024;

/// From so many bytes on that were sent, what was not is moved to the buffer's start.
const SMALL_SENT_MAX: usize = 64 << 10;

/// Slices of one write.
const SLICES_MAX: usize = 128;

/// What [`Input::take`] found.
#[derive(Debug)]
pub enum Piece<'a> {
    /// A header; so many bytes of data follow.
    Header(Bhs),
    /// More of the data of the last header.
    Data(&'a [u8]),
    /// The last header's data has come to its end; also where there was none.
    End,
}

/// Framing of what a target sends.
#[derive(Debug)]
pub struct Input {
    buf: Vec<u8>,
    held: Range<usize>,
    header_digest: bool,
    /// Data and padding of the current PDU that have not been taken; None between PDUs.
    segment: Option<(usize, usize)>,
}

impl Default for Input {
    fn default() -> Self {
        Self { buf: vec![0; INPUT_BYTES], held: 0..0, header_digest: false, segment: None }
    }
}

impl Input {
    /// From the next header on there are digests.
    pub fn expect_header_digest(&mut self) {
        self.header_digest = true;
    }

    /// Where to receive: never empty.
    pub fn room(&mut self) -> &mut [u8] {
        if self.held.is_empty() {
            self.held = 0..0;
        } else if self.buf.len() - self.held.end < INPUT_BYTES / 4 {
            self.buf.copy_within(self.held.clone(), 0);
            self.held = 0..self.held.len();
        }
        &mut self.buf[self.held.end..]
    }

    /// So many bytes were received into [`Input::room`].
    pub fn received(&mut self, n: usize) {
        self.held.end += n;
    }

    /// The next piece; None if more has to be received first.
    ///
    /// # Errors
    /// A wrong header digest, additional headers, which no target sends.
    pub fn take(&mut self) -> anyhow::Result<Option<Piece<'_>>> {
        let Some((data, pad)) = &mut self.segment else {
            let held = &self.buf[self.held.clone()];
            let len = BHS_LEN + if self.header_digest { DIGEST_LEN } else { 0 };
            let Some(head) = held.get(..len) else { return Ok(None) };
            let bhs = Bhs::from_prefix(head).expect("as long as a header");
            ensure!(
                !self.header_digest || digest::of(&bhs.0) == head[BHS_LEN..],
                "a header digest is wrong: {bhs:?}"
            );
            ensure!(bhs.total_ahs_length() == 0, "a PDU with additional headers: {bhs:?}");
            self.held.start += len;
            let data = bhs.data_segment_length();
            self.segment = Some((data as usize, pad_len(data)));
            return Ok(Some(Piece::Header(bhs)));
        };
        if *data > 0 {
            let n = self.held.len().min(*data);
            if n == 0 {
                return Ok(None);
            }
            *data -= n;
            let start = self.held.start;
            self.held.start += n;
            return Ok(Some(Piece::Data(&self.buf[start..start + n])));
        }
        if self.held.len() < *pad {
            return Ok(None);
        }
        self.held.start += *pad;
        self.segment = None;
        Ok(Some(Piece::End))
    }
}

#[derive(Debug)]
enum Chunk {
    /// So many bytes of `small`.
    Small(usize),
    Data(Bytes),
}

/// What waits to be sent.
#[derive(Debug, Default)]
pub struct Output {
    small: Vec<u8>,
    small_sent: usize,
    chunks: VecDeque<Chunk>,
    header_digest: bool,
}

impl Output {
    /// From the next header on there are digests.
    pub fn send_header_digest(&mut self) {
        self.header_digest = true;
    }

    /// True if nothing waits.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.chunks.is_empty()
    }

    /// Queues a PDU.
    pub fn push(&mut self, mut bhs: Bhs, data: &Bytes) {
        bhs.set_data_segment_length(data.len() as u32);
        self.push_small(&bhs.0);
        if self.header_digest {
            self.push_small(&digest::of(&bhs.0));
        }
        if data.len() <= COPIED_BYTES_MAX {
            self.push_small(data);
        } else {
            self.chunks.push_back(Chunk::Data(data.clone()));
        }
        self.push_small(&[0; 3][..pad_len(data.len() as u32)]);
    }

    fn push_small(&mut self, bytes: &[u8]) {
        if bytes.is_empty() {
            return;
        }
        if self.small_sent > SMALL_SENT_MAX {
            self.small.drain(..self.small_sent);
            self.small_sent = 0;
        }
        self.small.extend_from_slice(bytes);
        match self.chunks.back_mut() {
            Some(Chunk::Small(len)) => *len += bytes.len(),
            _ => self.chunks.push_back(Chunk::Small(bytes.len())),
        }
    }

    /// Hands what waits to `write`, which says how many bytes it took.
    ///
    /// # Errors
    /// What `write` says.
    pub fn write_with(
        &mut self,
        write: impl FnOnce(&[IoSlice<'_>]) -> std::io::Result<usize>,
    ) -> std::io::Result<()> {
        let mut slices = [IoSlice::new(&[]); SLICES_MAX];
        let mut small = self.small_sent;
        let mut count = 0;
        for (slice, chunk) in slices.iter_mut().zip(&self.chunks) {
            *slice = match chunk {
                Chunk::Small(len) => IoSlice::new(&self.small[small..small + len]),
                Chunk::Data(data) => IoSlice::new(data),
            };
            small += if let Chunk::Small(len) = chunk { *len } else { 0 };
            count += 1;
        }
        let n = write(&slices[..count])?;
        self.sent(n);
        Ok(())
    }

    fn sent(&mut self, mut n: usize) {
        while n > 0 {
            match self.chunks.front_mut().expect("more was sent than waits") {
                Chunk::Small(len) => {
                    let part = n.min(*len);
                    *len -= part;
                    self.small_sent += part;
                    n -= part;
                    if *len > 0 {
                        return;
                    }
                }
                Chunk::Data(data) => {
                    let part = n.min(data.len());
                    *data = data.slice(part..);
                    n -= part;
                    if !data.is_empty() {
                        return;
                    }
                }
            }
            self.chunks.pop_front();
        }
        if self.chunks.is_empty() {
            self.small.clear();
            self.small_sent = 0;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use lusd_iscsi::bhs::{FINAL, Opcode};

    /// Headers, and the data of each.
    fn take(stream: &[u8], step: usize, header_digest: bool) -> anyhow::Result<Vec<(Bhs, Vec<u8>)>> {
        let mut input = Input::default();
        if header_digest {
            input.expect_header_digest();
        }
        let (mut taken, mut whole) = (Vec::<(Bhs, Vec<u8>)>::new(), 0);
        for piece in stream.chunks(step) {
            input.room()[..piece.len()].copy_from_slice(piece);
            input.received(piece.len());
            while let Some(piece) = input.take()? {
                match piece {
                    Piece::Header(bhs) => taken.push((bhs, Vec::new())),
                    Piece::Data(data) => taken.last_mut().unwrap().1.extend_from_slice(data),
                    Piece::End => whole += 1,
                }
            }
        }
        assert_eq!(whole, taken.len());
        Ok(taken)
    }

    fn sent(output: &mut Output, step: usize) -> Vec<u8> {
        let mut bytes = Vec::new();
        while !output.is_empty() {
            output
                .write_with(|slices| {
                    let all: Vec<u8> = slices.iter().flat_map(|slice| slice.to_vec()).collect();
                    let n = all.len().min(step);
                    bytes.extend_from_slice(&all[..n]);
                    Ok(n)
                })
                .unwrap();
        }
        bytes
    }

    #[test]
    fn what_is_sent_in_any_pieces_is_taken_in_any_pieces() {
        for header_digest in [false, true] {
            let data: Vec<Bytes> =
                [0, 1, 3, 4, 1024, 1025, 5000].map(|len| Bytes::from(vec![len as u8 | 1; len])).into();
            let streams: Vec<Vec<u8>> = [1, 7, 48, 1000, 1 << 20]
                .map(|step| {
                    let mut output = Output::default();
                    if header_digest {
                        output.send_header_digest();
                    }
                    data.iter().for_each(|data| output.push(Bhs::new(Opcode::DataIn, FINAL), data));
                    sent(&mut output, step)
                })
                .into();
            assert!(streams.iter().all(|stream| *stream == streams[0]));
            for step in [1, 5, 47, 48, 4096, 100_000] {
                let taken = take(&streams[0], step, header_digest).unwrap();
                assert!(taken.iter().map(|(_, data)| data).eq(&data), "{step}");
            }
        }
    }

    #[test]
    fn a_wrong_header_digest_is_seen() {
        let mut output = Output::default();
        output.send_header_digest();
        output.push(Bhs::new(Opcode::DataIn, FINAL), &Bytes::new());
        let mut stream = sent(&mut output, 100);
        assert!(take(&stream, 100, true).is_ok());
        stream[20] ^= 1;
        assert!(take(&stream, 100, true).is_err());
    }
}

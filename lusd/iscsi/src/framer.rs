//! Bytes to PDUs: headers and small data segments come through one staging buffer; what is left of a large data segment is
//! received where it is wanted.
//!
//! The framer knows lengths and digests, not meanings. Invariant: the staging buffer never grows.

use bytes::BytesMut;

use crate::bhs::{BHS_LEN, Bhs, DIGEST_LEN, field, pad_len};
use crate::digest::{self, Crc};

/// A header as it came, its digest checked.
#[derive(Debug)]
pub(crate) struct Head {
    pub bhs: Bhs,
    /// Additional header segments, if there are any.
    pub ahs: Option<Box<[u8]>>,
}

/// The digest of a header was wrong: where the next PDU starts is not known any more.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct HeaderDigestError;

/// A data segment that is being received.
#[derive(Debug)]
struct Segment {
    remaining: u32,
    pad: usize,
    /// Of what has come, if the segment has a digest.
    crc: Option<Crc>,
}

#[derive(Debug)]
pub(crate) struct Framer {
    staging: BytesMut,
    /// Bytes of the staging buffer that were taken.
    taken: usize,
    segment: Option<Segment>,
    header_digest: bool,
    data_digest: bool,
}

/// Below this much room at the buffer's end what it holds is moved to its start, bytes.
const ROOM_LOW: usize = 4096;

impl Framer {
    pub(crate) fn new(staging_bytes: usize) -> Self {
        Self {
            staging: BytesMut::with_capacity(staging_bytes),
            taken: 0,
            segment: None,
            header_digest: false,
            data_digest: false,
        }
    }

    /// From the next header on digests are expected as given.
    pub(crate) fn set_digests(&mut self, header: bool, data: bool) {
        (self.header_digest, self.data_digest) = (header, data);
    }

    /// The staging buffer and how many bytes may be added to it.
    pub(crate) fn staging(&mut self) -> (&mut BytesMut, usize) {
        if self.taken == self.staging.len() {
            self.discard();
        } else if self.staging.capacity() - self.staging.len() < ROOM_LOW && self.taken > 0 {
            let held = self.staging.len() - self.taken;
            self.staging.copy_within(self.taken.., 0);
            self.staging.truncate(held);
            self.taken = 0;
        }
        let room = self.staging.capacity() - self.staging.len();
        (&mut self.staging, room)
    }

    /// Forgets what was received.
    pub(crate) fn discard(&mut self) {
        self.staging.clear();
        self.taken = 0;
    }

    fn held(&self) -> &[u8] {
        &self.staging[self.taken..]
    }

    /// The next header, once it is here whole.
    pub(crate) fn next_head(&mut self) -> Result<Option<Head>, HeaderDigestError> {
        debug_assert!(self.segment.is_none());
        let held = self.held();
        let Some(bhs) = Bhs::from_prefix(held) else { return Ok(None) };
        let mut len = BHS_LEN;
        let mut ahs = None;
        if bhs.0[field::TOTAL_AHS_LENGTH] != 0 {
            len += bhs.total_ahs_length();
            let Some(bytes) = held.get(BHS_LEN..len) else { return Ok(None) };
            ahs = Some(bytes);
        }
        if self.header_digest {
            let Some(sent) = held.get(len..len + DIGEST_LEN) else { return Ok(None) };
            if digest::of(&held[..len]) != sent {
                return Err(HeaderDigestError);
            }
            len += DIGEST_LEN;
        }
        let ahs = ahs.map(Into::into);
        self.taken += len;
        let data = bhs.data_segment_length();
        if data > 0 {
            let crc = self.data_digest.then(Crc::new);
            self.segment = Some(Segment { remaining: data, pad: pad_len(data), crc });
        }
        Ok(Some(Head { bhs, ahs }))
    }

    /// True while the data segment of the last header has not come to its end.
    pub(crate) fn in_segment(&self) -> bool {
        self.segment.is_some()
    }

    /// Takes data of the segment, at most `limit` bytes, as far as it is here.
    pub(crate) fn take_data(&mut self, limit: usize) -> &[u8] {
        let Some(segment) = &mut self.segment else { return &[] };
        let held = self.staging.len() - self.taken;
        let n = held.min(segment.remaining as usize).min(limit);
        let bytes = &self.staging[self.taken..self.taken + n];
        self.taken += n;
        segment.remaining -= n as u32;
        if let Some(crc) = &mut segment.crc {
            *crc = crc.append(bytes);
        }
        bytes
    }

    /// How many bytes of the segment have yet to be received, if nothing of them waits in the staging buffer.
    pub(crate) fn direct_remaining(&self) -> u32 {
        match &self.segment {
            Some(segment) if self.taken == self.staging.len() => segment.remaining,
            _ => 0,
        }
    }

    /// Counts data of the segment that was received past the staging buffer.
    pub(crate) fn received_direct(&mut self, bytes: &[u8]) {
        let segment = self.segment.as_mut().expect("data is received directly within a segment only");
        assert!(bytes.len() <= segment.remaining as usize, "more was received than the limit");
        segment.remaining -= bytes.len() as u32;
        if let Some(crc) = &mut segment.crc {
            *crc = crc.append(bytes);
        }
    }

    /// Ends the segment, once its data, padding and digest have been taken: whether the digest was right.
    pub(crate) fn end_segment(&mut self) -> Option<bool> {
        let segment = self.segment.as_ref()?;
        let trailer = segment.pad + if segment.crc.is_some() { DIGEST_LEN } else { 0 };
        if segment.remaining > 0 || self.held().len() < trailer {
            return None;
        }
        let (pad, sent) = self.held()[..trailer].split_at(segment.pad);
        let good = segment.crc.is_none_or(|crc| crc.append(pad).to_wire() == sent);
        self.taken += trailer;
        self.segment = None;
        Some(good)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bhs::{FINAL, Opcode};
    use crate::config::STAGING_BYTES_MIN;

    fn pdu(ahs: &[u8], data: &[u8], header_digest: bool, data_digest: bool) -> Vec<u8> {
        let mut bhs = Bhs::new(Opcode::ScsiCommand, FINAL);
        bhs.0[field::TOTAL_AHS_LENGTH] = (ahs.len() / 4) as u8;
        bhs.set_data_segment_length(data.len() as u32);
        let mut out = [&bhs.0, ahs].concat();
        if header_digest {
            out.extend(digest::of(&out));
        }
        if !data.is_empty() {
            let start = out.len();
            out.extend_from_slice(data);
            out.resize(out.len() + pad_len(data.len() as u32), 0);
            if data_digest {
                out.extend(digest::of(&out[start..]));
            }
        }
        out
    }

    fn feed(framer: &mut Framer, mut bytes: &[u8]) -> usize {
        let (staging, room) = framer.staging();
        bytes = &bytes[..bytes.len().min(room)];
        staging.extend_from_slice(bytes);
        bytes.len()
    }

    /// Header, additional header, data, digest was right.
    type Taken = (Bhs, Option<Box<[u8]>>, Vec<u8>, bool);

    /// All PDUs of a stream that is fed in pieces of `step` bytes.
    fn run(bytes: &[u8], step: usize, digests: (bool, bool)) -> Vec<Taken> {
        let mut framer = Framer::new(STAGING_BYTES_MIN);
        framer.set_digests(digests.0, digests.1);
        let (mut out, mut fed) = (Vec::new(), 0);
        let mut current: Option<(Head, Vec<u8>)> = None;
        while fed < bytes.len() {
            fed += feed(&mut framer, &bytes[fed..bytes.len().min(fed + step)]);
            loop {
                if let Some((head, mut data)) = current.take() {
                    data.extend_from_slice(framer.take_data(usize::MAX));
                    if framer.in_segment() {
                        match framer.end_segment() {
                            Some(good) => out.push((head.bhs, head.ahs, data, good)),
                            None => {
                                current = Some((head, data));
                                break;
                            }
                        }
                    } else {
                        out.push((head.bhs, head.ahs, data, true));
                    }
                } else {
                    match framer.next_head().unwrap() {
                        Some(head) => current = Some((head, Vec::new())),
                        None => break,
                    }
                }
            }
            assert_eq!(framer.staging.capacity(), STAGING_BYTES_MIN);
        }
        assert!(current.is_none() && framer.held().is_empty());
        out
    }

    #[test]
    fn a_stream_cut_at_every_offset_gives_the_same_pdus() {
        let data: Vec<u8> = (0..203).map(|i| i as u8).collect();
        for digests in [(false, false), (true, false), (false, true), (true, true)] {
            let stream = [
                pdu(&[], &[], digests.0, digests.1),
                pdu(&[9; 12], &data, digests.0, digests.1),
                pdu(&[], &data[..1], digests.0, digests.1),
                pdu(&[1; 1020], &[], digests.0, digests.1),
            ]
            .concat();
            for step in 1..stream.len() {
                let got = run(&stream, step, digests);
                let shape: Vec<_> = got
                    .iter()
                    .map(|(_, ahs, data, ok)| (ahs.as_ref().map(|a| a.len()), data.len(), *ok))
                    .collect();
                assert_eq!(
                    shape,
                    [(None, 0, true), (Some(12), 203, true), (None, 1, true), (Some(1020), 0, true)]
                );
                assert_eq!(got[1].2, data);
            }
        }
    }

    #[test]
    fn every_wrong_bit_of_a_digest_is_seen() {
        let good = pdu(&[], b"data", true, true);
        for at in 0..good.len() {
            let mut bad = good.clone();
            bad[at] ^= 0x10;
            let mut framer = Framer::new(STAGING_BYTES_MIN);
            framer.set_digests(true, true);
            feed(&mut framer, &bad);
            match framer.next_head() {
                // The length of the additional header was hit: the digest is looked for further on.
                Ok(None) => assert_eq!(at, field::TOTAL_AHS_LENGTH),
                Err(HeaderDigestError) => assert!(at < BHS_LEN + DIGEST_LEN),
                Ok(Some(_)) => {
                    assert!(at >= BHS_LEN + DIGEST_LEN);
                    assert_eq!(framer.take_data(100).len(), 4);
                    assert_eq!(framer.end_segment(), Some(false));
                }
            }
        }
    }

    #[test]
    fn the_rest_of_a_segment_may_go_past_the_staging_buffer() {
        let data = vec![7; 100_000];
        let stream = pdu(&[], &data, false, true);
        let mut framer = Framer::new(STAGING_BYTES_MIN);
        framer.set_digests(false, true);
        let fed = feed(&mut framer, &stream);
        framer.next_head().unwrap().unwrap();
        assert_eq!(framer.direct_remaining(), 0);
        let staged = framer.take_data(usize::MAX).len();
        let rest = framer.direct_remaining() as usize;
        assert_eq!(staged + rest, data.len());
        framer.received_direct(&stream[fed..fed + rest]);
        assert_eq!(framer.end_segment(), None);
        feed(&mut framer, &stream[fed + rest..]);
        assert_eq!(framer.end_segment(), Some(true));
    }
}

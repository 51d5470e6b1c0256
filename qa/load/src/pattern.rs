//! Addresses, and the content of blocks: functions of a seed.

/// Bytes of one word of the pattern.
const WORD: usize = 8;

/// SplitMix64's finalizer: a number that depends on every bit of `x`.
const fn mix(x: u64) -> u64 {
    let x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 31)
}

/// Numbers that look random: SplitMix64.
#[derive(Clone, Debug)]
pub struct Random(u64);

impl Random {
    /// A sequence of its own for each seed.
    #[must_use]
    pub const fn new(seed: u64) -> Self {
        Self(mix(seed))
    }

    /// A number below `limit`, each as likely as the other but for less than 2^-32.
    pub fn below(&mut self, limit: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        ((u128::from(mix(self.0)) * u128::from(limit)) >> 64) as u64
    }
}

fn word(seed: u64, index: u64) -> [u8; WORD] {
    mix(seed.rotate_left(32) ^ index.wrapping_mul(0x9e37_79b9_7f4a_7c15)).to_le_bytes()
}

/// Fills `buf` with what is to be at byte `offset` of the unit; both are multiples of eight.
pub fn fill(buf: &mut [u8], seed: u64, offset: u64) {
    for (i, chunk) in buf.chunks_mut(WORD).enumerate() {
        chunk.copy_from_slice(&word(seed, offset / WORD as u64 + i as u64)[..chunk.len()]);
    }
}

/// The first byte of the unit that is not what [`fill`] puts there, of those in `buf`, which was read at `offset`.
#[must_use]
pub fn difference(buf: &[u8], seed: u64, offset: u64) -> Option<u64> {
    let at = buf.chunks(WORD).enumerate().find_map(|(i, chunk)| {
        let expected = word(seed, offset / WORD as u64 + i as u64);
        let at = chunk.iter().zip(expected).position(|(a, b)| *a != b)?;
        Some(i * WORD + at)
    })?;
    Some(offset + at as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_byte_counts_and_every_place_differs() {
        let (mut a, mut b) = ([0; 512], [0; 512]);
        fill(&mut a, 1, 4096);
        assert_eq!(difference(&a, 1, 4096), None);
        assert!(difference(&a, 2, 4096).is_some() && difference(&a, 1, 4104).is_some());
        for at in 0..a.len() {
            b = a;
            b[at] ^= 1;
            assert_eq!(difference(&b, 1, 4096), Some(4096 + at as u64));
        }
        fill(&mut b, 1, 4096 + 256);
        assert_eq!(a[256..], b[..256]);
    }

    #[test]
    fn random_numbers_cover_their_range() {
        let mut random = Random::new(7);
        let mut seen = [0; 10];
        (0..10_000).for_each(|_| seen[random.below(10) as usize] += 1);
        assert!(seen.iter().all(|n| (800..1200).contains(n)), "{seen:?}");
    }
}

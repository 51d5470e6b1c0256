//! Serial numbers: CmdSN, StatSN, DataSN and R2TSN wrap at 2^32 and compare as RFC 1982 says
//! (RFC 7143 4.2.2.1 names that arithmetic). The newtype has no `<`: there is no total order.

/// A 32-bit serial number (RFC 1982, SERIAL_BITS = 32).
#[derive(Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct Serial(pub u32);

impl Serial {
    /// The number that follows this one.
    #[must_use]
    pub const fn next(self) -> Self {
        self.add(1)
    }

    /// This number plus `n`, modulo 2^32.
    #[must_use]
    pub const fn add(self, n: u32) -> Self {
        Self(self.0.wrapping_add(n))
    }

    /// This number minus `n`, modulo 2^32.
    #[must_use]
    pub const fn sub(self, n: u32) -> Self {
        Self(self.0.wrapping_sub(n))
    }

    /// True if `self` comes before `other`. False in both directions for numbers that are 2^31 apart,
    /// whose order RFC 1982 leaves undefined.
    #[must_use]
    pub const fn is_before(self, other: Self) -> bool {
        let distance = other.0.wrapping_sub(self.0);
        distance != 0 && distance < 1 << 31
    }

    /// True if `self` comes after `other`.
    #[must_use]
    pub const fn is_after(self, other: Self) -> bool {
        other.is_before(self)
    }

    /// How many steps lead from `earlier` to `self`, modulo 2^32.
    #[must_use]
    pub const fn since(self, earlier: Self) -> u32 {
        self.0.wrapping_sub(earlier.0)
    }
}

impl std::fmt::Display for Serial {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}", self.0)
    }
}

impl std::fmt::Debug for Serial {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}", self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wraps_and_compares_across_the_wrap() {
        let last = Serial(u32::MAX);
        assert_eq!(last.next(), Serial(0));
        assert!(last.is_before(Serial(0)));
        assert!(Serial(0).is_after(last));
        assert!(Serial(5).is_after(last.sub(10)));
        assert_eq!(Serial(3).since(last), 4);
    }

    #[test]
    fn a_number_is_neither_before_nor_after_itself_or_its_antipode() {
        let n = Serial(7);
        assert!(!n.is_before(n) && !n.is_after(n));
        let far = n.add(1 << 31);
        assert!(!n.is_before(far) && !n.is_after(far));
        assert!(n.is_before(n.add((1 << 31) - 1)));
    }
}

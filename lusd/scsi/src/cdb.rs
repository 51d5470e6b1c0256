//! A CDB that has passed the table's check: long enough, no reserved bit set.

/// Longest CDB of the table. iSCSI carries 16 bytes in the header; longer ones (7Fh) are not offered.
pub(crate) const CDB_BYTES_MAX: usize = 16;

/// The first 16 bytes of a CDB, zero extended. Multi-byte fields are big-endian.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Cdb([u8; CDB_BYTES_MAX]);

impl Cdb {
    /// Bytes past the sixteenth belong to no command of the table and are dropped.
    #[inline]
    pub(crate) fn new(bytes: &[u8]) -> Cdb {
        let mut cdb = [0; CDB_BYTES_MAX];
        let len = bytes.len().min(CDB_BYTES_MAX);
        cdb[..len].copy_from_slice(&bytes[..len]);
        Cdb(cdb)
    }

    /// All 16 bytes as one number, byte 0 in the highest place.
    #[inline]
    pub(crate) fn bits(&self) -> u128 {
        u128::from_be_bytes(self.0)
    }

    #[inline]
    pub(crate) fn opcode(&self) -> u8 {
        self.0[0]
    }

    /// SERVICE ACTION of the CDBs that have it in byte 1.
    #[inline]
    pub(crate) fn service_action(&self) -> u8 {
        self.0[1] & 0x1f
    }

    /// Whether any bit of `mask` is set in byte `at`.
    #[inline]
    pub(crate) fn flag(&self, at: usize, mask: u8) -> bool {
        self.0[at] & mask != 0
    }

    #[inline]
    pub(crate) fn u8(&self, at: usize) -> u8 {
        self.0[at]
    }

    #[inline]
    pub(crate) fn u16(&self, at: usize) -> u16 {
        u16::from_be_bytes([self.0[at], self.0[at + 1]])
    }

    #[inline]
    pub(crate) fn u32(&self, at: usize) -> u32 {
        (u32::from(self.u16(at)) << 16) | u32::from(self.u16(at + 2))
    }

    #[inline]
    pub(crate) fn u64(&self, at: usize) -> u64 {
        (u64::from(self.u32(at)) << 32) | u64::from(self.u32(at + 4))
    }
}

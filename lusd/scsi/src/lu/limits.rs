//! How much one command may ask for; announced in the Block Limits page and enforced (SBC-3).

/// Bounds and geometry of a logical unit, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// How much of the image lies together in one RADOS object: the unit in which space is given back, so OPTIMAL UNMAP GRANULARITY,
    /// the largest transfer that one OSD serves, so OPTIMAL TRANSFER LENGTH, and what is written wholly or not at all.
    pub object_bytes: u64,
    /// OPTIMAL TRANSFER LENGTH GRANULARITY. 64 KiB is BlueStore's largest allocation unit in the field, and what
    /// the kernel's own rbd client announces as its minimum I/O size.
    pub optimal_granularity_bytes: u64,
    /// MAXIMUM TRANSFER LENGTH of READ, WRITE, VERIFY and their kind: bounds the memory of one command.
    pub transfer_bytes_max: u64,
    /// MAXIMUM WRITE SAME LENGTH: bounds the time of one command.
    pub write_same_bytes_max: u64,
    /// MAXIMUM UNMAP LBA COUNT, all descriptors of a command together: bounds the time of one command.
    pub unmap_bytes_max: u64,
    /// MAXIMUM UNMAP BLOCK DESCRIPTOR COUNT: bounds the parameter list and the number of backend operations.
    pub unmap_descriptors_max: u32,
}

/// Upper bound of [`Limits::transfer_bytes_max`], and its default: hosts cut their requests to it, and the daemon
/// holds one command's data in one piece.
pub const MAX_TRANSFER_BYTES: u64 = 8 << 20;
/// Default object size of RBD.
const OBJECT_BYTES_DEFAULT: u64 = 4 << 20;
/// Largest field of one block count in the Block Limits page that we ever announce.
const BLOCK_COUNT_FIELD_MAX: u64 = u32::MAX as u64;

impl Default for Limits {
    fn default() -> Limits {
        Limits {
            object_bytes: OBJECT_BYTES_DEFAULT,
            optimal_granularity_bytes: 64 << 10,
            transfer_bytes_max: MAX_TRANSFER_BYTES,
            write_same_bytes_max: 16 << 20,
            // 2^20 blocks of 512 bytes: 128 objects of the default size.
            unmap_bytes_max: 512 << 20,
            unmap_descriptors_max: 256,
        }
    }
}

/// Bytes of the UNMAP parameter list header (SBC-3).
pub(crate) const UNMAP_HEADER_BYTES: usize = 8;
/// Bytes of an UNMAP block descriptor.
pub(crate) const UNMAP_DESCRIPTOR_BYTES: usize = 16;
/// Most descriptors that the 16 bit lengths of the parameter list have room for.
const UNMAP_DESCRIPTORS_ON_WIRE: u32 =
    ((u16::MAX as usize - UNMAP_HEADER_BYTES) / UNMAP_DESCRIPTOR_BYTES) as u32;

impl Limits {
    /// Whether every limit is at least one block, a whole number of blocks, and fits its field.
    pub(crate) fn fits(&self, block_bytes: u64) -> bool {
        let in_blocks = [
            self.object_bytes,
            self.optimal_granularity_bytes,
            self.transfer_bytes_max,
            self.write_same_bytes_max,
            self.unmap_bytes_max,
        ];
        in_blocks.iter().all(|bytes| {
            *bytes > 0 && bytes.is_multiple_of(block_bytes) && bytes / block_bytes <= BLOCK_COUNT_FIELD_MAX
        }) && self.transfer_bytes_max <= MAX_TRANSFER_BYTES
            && self.optimal_granularity_bytes / block_bytes <= u64::from(u16::MAX)
            && (1..=UNMAP_DESCRIPTORS_ON_WIRE).contains(&self.unmap_descriptors_max)
    }
}

//! Block Limits, Block Device Characteristics, Logical Block Provisioning (SBC-3).

use crate::lu::{THRESHOLD_RANGE_TENTHS, threshold_exponent};
use crate::{LogicalUnit, TargetPort};

/// PAGE LENGTH of B0h and B1h.
const PAGE_BYTES: usize = 0x3c;

/// B0h. Offsets in the standard count the header of 4 bytes, hence the `- 4`.
pub(super) fn limits(lu: &LogicalUnit, _: &TargetPort) -> Vec<u8> {
    const WSNZ: u8 = 0x01;
    const UGAVALID: u32 = 1 << 31;
    let limits = lu.limits();
    let shift = lu.block_size().shift();
    let blocks = |bytes: u64| (bytes >> shift) as u32;
    let mut body = vec![0; PAGE_BYTES];
    body[0] = WSNZ;
    body[5 - 4] = blocks(lu.compare_and_write_bytes_max()) as u8;
    let granularity = blocks(limits.optimal_granularity_bytes) as u16;
    body[6 - 4..8 - 4].copy_from_slice(&granularity.to_be_bytes());
    put(&mut body, 8, blocks(limits.transfer_bytes_max));
    put(&mut body, 12, blocks(limits.object_bytes.min(limits.transfer_bytes_max)));
    // MAXIMUM PREFETCH LENGTH stays 0: no limit is reported.
    if lu.is_thin() {
        put(&mut body, 20, blocks(limits.unmap_bytes_max));
        put(&mut body, 24, limits.unmap_descriptors_max);
        put(&mut body, 28, blocks(limits.object_bytes));
        put(&mut body, 32, UGAVALID); // UNMAP GRANULARITY ALIGNMENT 0: objects begin at LBA 0
    }
    let write_same = limits.write_same_bytes_max >> shift;
    body[36 - 4..44 - 4].copy_from_slice(&write_same.to_be_bytes());
    // No alignment, no granularity, and no ATOMIC BOUNDARY is offered: those stay 0.
    put(&mut body, 44, blocks(lu.atomic_bytes_max()));
    body
}

fn put(body: &mut [u8], at: usize, value: u32) {
    body[at - 4..at].copy_from_slice(&value.to_be_bytes());
}

/// B1h.
pub(super) fn characteristics(_: &LogicalUnit, _: &TargetPort) -> Vec<u8> {
    /// MEDIUM ROTATION RATE: does not rotate. Many disks serve one image in parallel, so hosts must not sort by LBA.
    const NON_ROTATING: u16 = 0x0001;
    /// WABEREQ 01b: after SANITIZE, BLOCK ERASE reads end with GOOD, without a write before.
    const READ_AFTER_BLOCK_ERASE: u8 = 0x40;
    let mut body = vec![0; PAGE_BYTES];
    body[..2].copy_from_slice(&NON_ROTATING.to_be_bytes());
    body[7 - 4] = READ_AFTER_BLOCK_ERASE;
    body
}

/// B2h.
pub(super) fn provisioning(lu: &LogicalUnit, _: &TargetPort) -> Vec<u8> {
    const LBPU: u8 = 0x80;
    const LBPWS: u8 = 0x40;
    const LBPWS10: u8 = 0x20;
    const LBPRZ: u8 = 0x04;
    const FULLY_PROVISIONED: u8 = 0;
    const THIN: u8 = 2;
    if !lu.is_thin() {
        return vec![0, 0, FULLY_PROVISIONED, 0];
    }
    // Zeroes: no thresholds.
    let (exponent, range) = match lu.soft_threshold_percent() {
        Some(_) => (threshold_exponent(lu.block_size().shift()), THRESHOLD_RANGE_TENTHS),
        None => (0, 0),
    };
    // No anchors, no descriptor.
    vec![exponent, LBPU | LBPWS | LBPWS10 | LBPRZ, THIN, range]
}

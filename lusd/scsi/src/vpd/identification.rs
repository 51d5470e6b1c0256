//! Device Identification (SPC-4): by these designators hosts recognize one logical unit on many paths.

use crate::{LogicalUnit, TargetPort};

/// CODE SET.
const BINARY: u8 = 1;
const ASCII: u8 = 2;
const UTF_8: u8 = 3;

/// ASSOCIATION, in place.
const LOGICAL_UNIT: u8 = 0 << 4;
const TARGET_PORT: u8 = 1 << 4;
const TARGET_DEVICE: u8 = 2 << 4;

/// DESIGNATOR TYPE.
const T10_VENDOR_ID: u8 = 1;
const NAA: u8 = 3;
const RELATIVE_TARGET_PORT: u8 = 4;
const TARGET_PORT_GROUP: u8 = 5;
const SCSI_NAME: u8 = 8;
const UUID: u8 = 0x0a;

/// Of a designator: CODE SET, and ASSOCIATION with DESIGNATOR TYPE.
pub(super) type Kind = (u8, u8);
/// SCSI name of a target port.
pub(super) const TARGET_PORT_NAME: Kind = (UTF_8, TARGET_PORT | SCSI_NAME);

pub(crate) fn device_identification(lu: &LogicalUnit, port: &TargetPort) -> Vec<u8> {
    let identity = lu.identity();
    let mut page = Vec::new();
    push(&mut page, (BINARY, LOGICAL_UNIT | NAA), identity.naa.as_bytes());
    let t10 = [&identity.vendor[..], &identity.product, identity.serial.as_bytes()].concat();
    push(&mut page, (ASCII, LOGICAL_UNIT | T10_VENDOR_ID), &t10);
    // UUID TYPE 1h in the high nibble, one reserved byte.
    let uuid = [&[0x10, 0], &identity.id[..]].concat();
    push(&mut page, (BINARY, LOGICAL_UNIT | UUID), &uuid);
    let [high, low] = port.relative_target_port.to_be_bytes();
    push(&mut page, (BINARY, TARGET_PORT | RELATIVE_TARGET_PORT), &[0, 0, high, low]);
    let [high, low] = port.target_port_group.to_be_bytes();
    push(&mut page, (BINARY, TARGET_PORT | TARGET_PORT_GROUP), &[0, 0, high, low]);
    push_names(&mut page, port);
    page
}

/// Of the REPORT LUNS well-known logical unit: of the device and its port only (SPC-4 7.8.6.2.2).
pub(super) fn without_unit(port: &TargetPort) -> Vec<u8> {
    let mut page = Vec::new();
    push_names(&mut page, port);
    page
}

fn push_names(page: &mut Vec<u8>, port: &TargetPort) {
    push(page, TARGET_PORT_NAME, &scsi_name(&port.scsi_port_name()));
    push(page, (UTF_8, TARGET_DEVICE | SCSI_NAME), &scsi_name(port.bounded_name()));
}

/// SCSI name string designator: null terminated, padded to a multiple of 4 bytes. Names are bounded, so it is at most 236 bytes.
pub(super) fn scsi_name(name: &str) -> Vec<u8> {
    let mut bytes = name.as_bytes().to_vec();
    bytes.resize((name.len() + 1).next_multiple_of(4), 0);
    bytes
}

pub(super) fn push(page: &mut Vec<u8>, (code_set, association_and_type): Kind, designator: &[u8]) {
    const ISCSI: u8 = 5 << 4;
    const PIV: u8 = 0x80;
    // The protocol goes with ports and devices; for a logical unit it says nothing.
    let of_port = association_and_type & (TARGET_PORT | TARGET_DEVICE) != 0;
    let (protocol, piv) = if of_port { (ISCSI, PIV) } else { (0, 0) };
    let length = u8::try_from(designator.len()).unwrap_or(u8::MAX);
    page.extend_from_slice(&[protocol | code_set, piv | association_and_type, 0, length]);
    page.extend_from_slice(&designator[..usize::from(length)]);
}

//! SCSI Ports (SPC-4 7.8.15): the target ports through which the logical unit can be reached, one for each daemon.

use super::identification::{TARGET_PORT_NAME, push, scsi_name};
use crate::{LogicalUnit, TARGET_NAME_BYTES_MAX, TargetPort};

/// Longest descriptor of a port: two headers, and the longest name with its tag, padded.
const PORT_BYTES_MAX: usize = 12 + 4 + (TARGET_NAME_BYTES_MAX + ",t,0x0000".len() + 1).next_multiple_of(4);

/// 88h. A logical unit without target port groups is reached through this port only.
pub(super) fn scsi_ports(lu: &LogicalUnit, port: &TargetPort) -> Vec<u8> {
    let mut page = Vec::new();
    lu.each_port_group(|tag, _| {
        if page.len() + PORT_BYTES_MAX <= usize::from(u16::MAX) {
            push_port(&mut page, port, tag);
        }
    });
    if page.is_empty() {
        push_port(&mut page, port, port.relative_target_port);
    }
    page
}

/// SCSI port descriptor: no initiator port, and the name of the target port. The tag of a daemon is its relative port identifier and
/// its portal group tag at once.
fn push_port(page: &mut Vec<u8>, port: &TargetPort, tag: u16) {
    let mut designator = Vec::new();
    push(&mut designator, TARGET_PORT_NAME, &scsi_name(&port.scsi_port_name_of(tag)));
    let [high, low] = tag.to_be_bytes();
    let [length_high, length_low] = (designator.len() as u16).to_be_bytes();
    page.extend_from_slice(&[0, 0, high, low, 0, 0, 0, 0, 0, 0, length_high, length_low]);
    page.extend_from_slice(&designator);
}

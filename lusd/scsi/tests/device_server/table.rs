//! One table: reserved bits, the opcode report and the dispatcher agree; COMMANDS.md is made from it.

use std::fmt::Write as _;

use lusd_scsi::*;

use crate::bed::*;

/// A CDB of the row that is accepted, with as little set as possible.
pub(crate) fn accepted(row: &Row) -> [u8; 16] {
    let mut cdb = [0; 16];
    cdb[0] = row.opcode();
    cdb[1] = row.service_action_code();
    match row.name {
        "MODE SENSE (6)" | "MODE SENSE (10)" => cdb[2] = 0x3f,
        "REPORT SUPPORTED TASK MANAGEMENT FUNCTIONS" => cdb[9] = 4,
        "WRITE SAME (10)" => cdb[8] = 1,
        "WRITE SAME (16)" => cdb[13] = 1,
        "READ (6)" | "WRITE (6)" => cdb[4] = 1,
        "SANITIZE, OVERWRITE" => cdb[8] = 5,
        name if name.starts_with("PERSISTENT RESERVE OUT") => (cdb[2], cdb[8]) = (1, 24),
        _ => {}
    }
    cdb
}

fn rows(bed: &Bed) -> impl Iterator<Item = &'static Row> {
    commands().iter().filter(|row| row.is_offered(&bed.lu))
}

fn usage(row: &Row, thin: bool) -> Vec<u8> {
    let mut usage = row.usage.to_vec();
    if !thin {
        usage[1] &= !row.thin_bits;
    }
    usage
}

#[test]
fn rows_are_sorted_unique_and_as_long_as_their_group_says() {
    let keys: Vec<_> = commands().iter().map(|row| (row.opcode(), row.service_action_code())).collect();
    assert!(keys.is_sorted_by(|a, b| a < b));
    for row in commands() {
        let len = match row.opcode() >> 5 {
            0 => 6,
            1 | 2 => 10,
            4 => 16,
            5 => 12,
            group => panic!("group {group}"),
        };
        assert_eq!(row.usage.len(), len, "{}", row.name);
        assert_eq!(row.usage[len - 1], 0, "{}: NACA is not supported", row.name);
        assert!(row.thin_bits & !row.usage[1] == 0, "{}", row.name);
    }
}

#[test]
fn every_command_is_accepted() {
    for bed in [Bed::new(), Bed::thick(), Bed::b4096()] {
        for row in rows(&bed) {
            let plan = bed.plan(&accepted(row));
            assert!(plan.is_ok(), "{}: {plan:?}", row.name);
        }
    }
}

#[test]
fn each_reserved_bit_is_refused_with_its_place() {
    for (bed, thin) in [(Bed::new(), true), (Bed::thick(), false), (Bed::b4096(), true)] {
        for row in rows(&bed) {
            for (byte, usage) in usage(row, thin).into_iter().enumerate().skip(1) {
                let service_action = if byte == 1 && row.has_service_action { 0x1f } else { 0 };
                for bit in (0..8).filter(|bit| (usage | service_action) & 1 << bit == 0) {
                    let mut cdb = accepted(row);
                    cdb[byte] |= 1 << bit;
                    assert_eq!(
                        bed.plan(&cdb),
                        Err(in_cdb(byte as u16, bit)),
                        "{} thin={thin} byte {byte} bit {bit}",
                        row.name
                    );
                }
            }
        }
    }
}

#[test]
fn padding_behind_a_cdb_is_not_looked_at_and_a_short_cdb_is_refused() {
    let bed = Bed::new();
    for row in commands() {
        let mut cdb = accepted(row);
        let len = row.usage.len();
        assert_eq!(bed.plan(&cdb[..len]), bed.plan(&cdb), "{}", row.name);
        cdb[len..].fill(0xff);
        assert!(bed.plan(&cdb).is_ok(), "{}", row.name);
        for short in 2..len {
            assert_eq!(bed.plan(&cdb[..short]), Err(in_cdb(short as u16, None)), "{}", row.name);
        }
        assert!(bed.plan(&cdb[..1]).is_err());
    }
    assert_eq!(bed.error(&[]), fault(Fault::InvalidOperationCode));
    let mut long = [0; 32];
    long[0] = 0x28;
    assert!(bed.plan(&long).is_ok());
}

fn report(options: u8, opcode: u8, service_action: u16, allocation_length: u32) -> [u8; 16] {
    let mut cdb = [0; 16];
    cdb[..4].copy_from_slice(&[0xa3, 0x0c, options, opcode]);
    cdb[4..6].copy_from_slice(&service_action.to_be_bytes());
    cdb[6..10].copy_from_slice(&allocation_length.to_be_bytes());
    cdb
}

#[test]
fn the_list_of_all_commands_is_what_plan_knows() {
    for bed in [Bed::new(), Bed::thick(), Bed::b4096()] {
        let data = bed.data(&report(0, 0, 0, 0xffff));
        assert_eq!(data[..4], ((data.len() - 4) as u32).to_be_bytes());
        let listed: Vec<_> = data[4..]
            .chunks(8)
            .map(|entry| {
                assert_eq!((entry[1], entry[2], entry[4]), (0, 0, 0));
                (entry[0], entry[3], entry[5], u16::from_be_bytes([entry[6], entry[7]]))
            })
            .collect();
        let expected: Vec<_> = rows(&bed)
            .map(|row| {
                let flags = u8::from(row.has_service_action);
                (row.opcode(), row.service_action_code(), flags, row.usage.len() as u16)
            })
            .collect();
        assert_eq!(listed, expected);
        // And nothing else is known: every other operation code and service action.
        for opcode in 0..=0xff {
            let known: Vec<_> = listed.iter().filter(|entry| entry.0 == opcode).collect();
            let mut cdb = [0; 16];
            cdb[0] = opcode;
            if known.is_empty() {
                assert_eq!(bed.error(&cdb), fault(Fault::InvalidOperationCode), "{opcode:02x}");
            } else if known[0].2 != 0 {
                for action in (0..0x20).filter(|action| known.iter().all(|entry| entry.1 != *action)) {
                    cdb[1] = action;
                    assert_eq!(bed.error(&cdb), in_cdb(1, 4), "{opcode:02x}/{action:02x}");
                }
            }
        }
    }
}

#[test]
fn one_command_reports_its_usage() {
    for (bed, thin) in [(Bed::new(), true), (Bed::thick(), false), (Bed::b4096(), true)] {
        for row in rows(&bed) {
            let (opcode, action) = (row.opcode(), u16::from(row.service_action_code()));
            let mut expected = vec![0, 3, 0, row.usage.len() as u8];
            expected.extend(usage(row, thin));
            let (right, wrong) = if row.has_service_action { (2, 1) } else { (1, 2) };
            assert_eq!(bed.data(&report(right, opcode, action, 0xffff)), expected, "{}", row.name);
            assert_eq!(bed.data(&report(3, opcode, action, 0xffff)), expected, "{}", row.name);
            let field = if row.has_service_action { 3 } else { 4 };
            assert_eq!(
                bed.error(&report(wrong, opcode, action, 0xffff)),
                in_cdb(field, None),
                "{}",
                row.name
            );
            // With timeouts: CTDP, and the descriptor behind the usage data.
            expected[1] = 0x83;
            expected.extend([0, 10, 0, 0, 0, 0, 0, 0]);
            expected.extend(row.timeout_s.to_be_bytes());
            assert_eq!(bed.data(&report(0x80 | right, opcode, action, 0xffff)), expected, "{}", row.name);
        }
    }
}

#[test]
fn unknown_commands_are_reported_as_such() {
    let bed = Bed::new();
    let not_supported = [0, 1, 0, 0];
    // SET TARGET PORT GROUPS.
    for opcode in [0xa4, 0xff] {
        for options in 1..=3 {
            assert_eq!(bed.data(&report(options, opcode, 0, 0xffff)), not_supported, "{opcode:02x}");
        }
    }
    assert_eq!(bed.data(&report(2, 0x9e, 0x11, 0xffff)), not_supported, "READ LONG (16)");
    assert_eq!(bed.data(&report(2, 0xa3, 0x010c, 0xffff)), not_supported, "16 bit service action");
    assert_eq!(bed.data(&report(3, 0x28, 1, 0xffff)), not_supported, "READ (10) has no service action");
    assert_eq!(Bed::thick().data(&report(1, 0x42, 0, 0xffff)), not_supported, "UNMAP of a thick unit");
    assert_eq!(
        Bed::thick().data(&report(2, 0xa3, 0x0a, 0xffff)),
        not_supported,
        "without target port groups"
    );
    for options in 4..8 {
        assert_eq!(bed.error(&report(options, 0x28, 0, 0xffff)), in_cdb(2, 2));
    }
}

#[test]
fn all_commands_with_timeouts_have_20_byte_descriptors() {
    let bed = Bed::new();
    let data = bed.data(&report(0x80, 0, 0, 0xffff));
    assert_eq!((data.len() - 4) % 20, 0);
    for (entry, row) in data[4..].chunks(20).zip(commands()) {
        assert_eq!(entry[0], row.opcode());
        assert_eq!(entry[5] & 0x02, 0x02);
        assert_eq!(entry[8..16], [0, 10, 0, 0, 0, 0, 0, 0]);
        assert_eq!(entry[16..], row.timeout_s.to_be_bytes());
    }
}

/// COMMANDS.md is the table for people; `LUS_UPDATE=1 cargo test -p lusd-scsi` writes it anew.
#[test]
fn commands_md_is_up_to_date() {
    let mut text = String::from(
        "# SCSI commands\n\n\
         Made from the table in src/table.rs by the test `commands_md_is_up_to_date` (`LUS_UPDATE=1 cargo test -p lusd-scsi`).\n\n\
         CDB usage: a bit is one if it is looked at; byte 0 is the operation code, a service action stands in its place. Any\n\
         other bit must be zero (INVALID FIELD IN CDB). Flags: *without unit*: answered where the LUN has no logical unit; *not\n\
         serving*: answered in every access state; *standby*: answered in standby too; *during attention*: not interrupted by a\n\
         unit attention; *reads*, *writes*: the medium; *thin*: offered by thin provisioned logical units only; *asymmetric*:\n\
         offered by logical units with target port groups only.\n\n\
         Reserved: what it meets under reservations of other nexuses. *always* is allowed, or decides itself; *persistent* is allowed under\n\
         persistent reservations, and not under RESERVE; *write exclusive* is allowed under persistent reservations that leave reading;\n\
         *conflict* never is.\n\n\
         | command | CDB usage | timeout, s | flags | reserved |\n|---|---|---|---|---|\n",
    );
    for row in commands() {
        let usage: Vec<_> = row.usage.iter().map(|byte| format!("{byte:02x}")).collect();
        let mut reserved = row.reserved.to_string();
        if let Some((mask, value, other)) = row.reserved_if {
            write!(reserved, "; {other} where byte 4 & {mask:02x} is {value:02x}").unwrap();
        }
        let usage = usage.join(" ");
        writeln!(text, "| {} | `{usage}` | {} | {} | {reserved} |", row.name, row.timeout_s, row.flags)
            .unwrap();
    }
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/COMMANDS.md");
    if std::env::var_os("LUS_UPDATE").is_some() {
        std::fs::write(path, &text).unwrap();
    }
    assert_eq!(std::fs::read_to_string(path).unwrap(), text, "run with LUS_UPDATE=1");
}

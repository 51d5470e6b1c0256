//! Standard INQUIRY data and the vital product data pages, byte by byte.

use lusd_scsi::*;

use crate::bed::*;

#[test]
fn standard_inquiry_data() {
    let bed = Bed::new();
    let data = bed.data(&cdb_inquiry(0, 0, 0xff));
    let mut expected = vec![0x00, 0x00, 0x06, 0x12, 91, 0x18, 0x10, 0x02];
    expected.extend(b"CEPH    LUS             0001");
    expected.resize(58, 0);
    expected.extend([0x00, 0xa0, 0x09, 0x60, 0x04, 0x60, 0x04, 0xc0]);
    expected.resize(96, 0);
    assert_eq!(data, expected);
    expected[5] = 0x08;
    assert_eq!(Bed::thick().data(&cdb_inquiry(0, 0, 0xff)), expected, "TPGS without target port groups");
    assert_eq!(bed.error(&cdb_inquiry(0, 0x80, 0xff)), in_cdb(2, None), "a page code without EVPD");
}

#[test]
fn announced_pages_are_the_served_pages() {
    for bed in [Bed::new(), Bed::thick(), Bed::b4096()] {
        let announced = bed.data(&vpd(0));
        assert_eq!(announced[..2], [0, 0]);
        assert!(vpd_pages().eq(announced[4..].iter().copied()));
        assert_eq!(announced[4..], [0x00, 0x80, 0x83, 0x86, 0x87, 0x88, 0x8f, 0xb0, 0xb1, 0xb2]);
        for page in 0..=0xff {
            match bed.plan(&vpd(page)) {
                Ok(plan) => {
                    let page_data = data(plan);
                    assert!(announced[4..].contains(&page), "{page:02x} is served");
                    assert_eq!(page_data[..2], [0, page]);
                    assert_eq!(page_data[2..4], ((page_data.len() - 4) as u16).to_be_bytes(), "{page:02x}");
                }
                Err(check) => {
                    assert!(!announced[4..].contains(&page), "{page:02x} is announced");
                    assert_eq!(check, in_cdb(2, None));
                }
            }
        }
    }
}

#[test]
fn serial_number() {
    assert_eq!(Bed::new().data(&vpd(0x80))[4..], *b"6ba7b8109dad41d180b400c04fd430c8");
}

/// (code set with protocol, association and type with PIV, designator) of each descriptor.
fn designators(page: &[u8]) -> Vec<(u8, u8, Vec<u8>)> {
    let mut rest = &page[4..];
    let mut found = Vec::new();
    while let [first, second, 0, length, tail @ ..] = rest {
        let (designator, next) = tail.split_at(usize::from(*length));
        found.push((*first, *second, designator.to_vec()));
        rest = next;
    }
    assert!(rest.is_empty());
    found
}

#[test]
fn designators_name_unit_port_and_device() {
    let mut bed = Bed::new();
    bed.port.relative_target_port = 7;
    let mut port_name = b"iqn.2026-11.io.lus:demo,t,0x0102".to_vec();
    port_name.resize(36, 0);
    let mut device_name = b"iqn.2026-11.io.lus:demo".to_vec();
    device_name.resize(24, 0);
    let expected = vec![
        (0x01, 0x03, vec![0x3b, 0x13, 0xb8, 0xd0, 0xd2, 0x79, 0x71, 0x19]),
        (0x02, 0x01, b"CEPH    LUS             6ba7b8109dad41d180b400c04fd430c8".to_vec()),
        (0x01, 0x0a, [&[0x10, 0], &ID[..]].concat()),
        (0x51, 0x94, vec![0, 0, 0, 7]),
        (0x51, 0x95, vec![0, 0, 0, 9]),
        (0x53, 0x98, port_name),
        (0x53, 0xa8, device_name),
    ];
    assert_eq!(designators(&bed.data(&vpd(0x83))), expected);
}

/// The ports of page 88h: relative port identifier, and name.
fn scsi_ports(page: &[u8]) -> Vec<(u16, String)> {
    let mut rest = &page[4..];
    let mut found = Vec::new();
    while let [0, 0, high, low, 0, 0, 0, 0, 0, 0, length_high, length_low, tail @ ..] = rest {
        let (descriptors, next) = tail.split_at(usize::from(u16::from_be_bytes([*length_high, *length_low])));
        let with_header = [&[0; 4], descriptors].concat();
        let [(0x53, 0x98, name)] = &designators(&with_header)[..] else { panic!("{descriptors:x?}") };
        let name = String::from_utf8(name.clone()).unwrap();
        found.push((u16::from_be_bytes([*high, *low]), name.trim_end_matches('\0').to_owned()));
        rest = next;
    }
    assert!(rest.is_empty());
    found
}

#[test]
fn scsi_ports_are_those_of_all_daemons() {
    let expected = TAGS.map(|tag| (tag, format!("iqn.2026-11.io.lus:demo,t,0x{tag:04x}")));
    assert_eq!(scsi_ports(&Bed::new().data(&vpd(0x88))), expected);
    let mut bed = Bed::thick();
    bed.port.portal_group_tag = bed.port.relative_target_port;
    assert_eq!(scsi_ports(&bed.data(&vpd(0x88))), expected[..1], "without port groups: its own");
    // As many as the page has room for.
    let mut bed = Bed::new();
    bed.port.target_name = "x".repeat(TARGET_NAME_BYTES_MAX);
    let groups: Vec<_> = (1..=1000).map(|tag| PortGroup { tag, up: true }).collect();
    bed.lu.set_port_groups(PortGroups::new(groups.into(), 1, Some(1)));
    let page = bed.data(&cdb_inquiry(1, 0x88, 0xffff));
    let ports = scsi_ports(&page[..4 + usize::from(u16::from_be_bytes([page[2], page[3]]))]);
    assert_eq!((ports.len(), ports[259].0), (260, 260));
}

#[test]
fn a_given_wwn_and_long_names_fit() {
    let identity = Identity::new(ID)
        .with_naa("6001405a1b2c3d4e5f60718293a4b5c6".parse().unwrap())
        .with_vendor("LIO-ORG")
        .and_then(|identity| identity.with_product("TCMU device"))
        .and_then(|identity| identity.with_serial(&"s".repeat(SERIAL_BYTES_MAX)))
        .unwrap();
    let mut bed = Bed::with(LogicalUnitConfig { identity, ..config() });
    bed.port.target_name = "é".repeat(TARGET_NAME_BYTES_MAX);
    let found = designators(&bed.data(&vpd(0x83)));
    assert_eq!(found[0].2.len(), 16);
    assert!(found[1].2.starts_with(b"LIO-ORG TCMU device     sss"));
    for (_, _, designator) in &found[5..] {
        assert!(designator.len() % 4 == 0 && designator.ends_with(&[0]));
        assert!(std::str::from_utf8(designator).is_ok());
    }
    bed.port.target_name = "x".repeat(4);
    let found = designators(&bed.data(&vpd(0x83)));
    assert_eq!(found[6].2, b"xxxx\0\0\0\0", "null terminated even where the length is a multiple of 4");
}

fn be32(page: &[u8], at: usize) -> u32 {
    u32::from_be_bytes(page[at..at + 4].try_into().unwrap())
}

#[test]
fn block_limits_announce_the_limits() {
    for (bed, shift) in [(Bed::new(), 9), (Bed::b4096(), 12)] {
        let page = bed.data(&vpd(0xb0));
        assert_eq!(page[..8], [0, 0xb0, 0, 0x3c, 1, 0xff, 0, (65536u32 >> shift) as u8]);
        assert_eq!(be32(&page, 8), 8 << 20 >> shift, "MAXIMUM TRANSFER LENGTH");
        assert_eq!(be32(&page, 12), 4 << 20 >> shift, "OPTIMAL TRANSFER LENGTH");
        assert_eq!(be32(&page, 16), 0, "MAXIMUM PREFETCH LENGTH");
        assert_eq!(be32(&page, 20), 512 << 20 >> shift, "MAXIMUM UNMAP LBA COUNT");
        assert_eq!(be32(&page, 24), 256, "MAXIMUM UNMAP BLOCK DESCRIPTOR COUNT");
        assert_eq!(be32(&page, 28), 4 << 20 >> shift, "OPTIMAL UNMAP GRANULARITY: an object");
        assert_eq!(be32(&page, 32), 1 << 31, "UNMAP GRANULARITY ALIGNMENT 0, valid");
        assert_eq!(page[36..44], (16u64 << 20 >> shift).to_be_bytes(), "MAXIMUM WRITE SAME LENGTH");
        assert_eq!(be32(&page, 44), 4 << 20 >> shift, "MAXIMUM ATOMIC TRANSFER LENGTH: an object");
        assert_eq!(page[48..], [0; 16]);
    }
    let limits = Limits { object_bytes: 32 << 20, ..Limits::default() };
    let page = Bed::with(LogicalUnitConfig { limits, ..config() }).data(&vpd(0xb0));
    assert_eq!(be32(&page, 28), 65536, "the image's object size");
    assert_eq!(be32(&page, 12), be32(&page, 8), "never above the maximum");
    let page = Bed::thick().data(&vpd(0xb0));
    assert_eq!(page[20..36], [0; 16], "a thick unit announces no UNMAP");
}

#[test]
fn provisioning_and_characteristics() {
    assert_eq!(Bed::new().data(&vpd(0xb2)), [0, 0xb2, 0, 4, 11, 0xe4, 2, 20]);
    assert_eq!(Bed::thick().data(&vpd(0xb2)), [0, 0xb2, 0, 4, 0, 0, 0, 0]);
    let page = Bed::new().data(&vpd(0xb1));
    assert_eq!(page[..8], [0, 0xb1, 0, 0x3c, 0, 1, 0, 0x40], "WABEREQ 01b");
    assert!(page[8..].iter().all(|byte| *byte == 0));
    assert_eq!(Bed::new().data(&vpd(0x87)), [0, 0x87, 0, 4, 0x3f, 0xff, 0, 0]);
    for (write_cache, v_sup) in [(false, 0), (true, 1)] {
        let bed = Bed::with(LogicalUnitConfig { write_cache, ..config() });
        let page = bed.data(&vpd(0x86));
        assert_eq!(
            (page.len(), page[4], page[5], page[6]),
            (64, 0, 7, v_sup),
            "SIMPLE, ORDERED, HEAD OF QUEUE"
        );
        assert!(page[7..].iter().all(|byte| *byte == 0));
    }
}

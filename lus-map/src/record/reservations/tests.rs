use proptest::prelude::*;

use super::*;
use crate::record::{Holder, LuRecord, RecordError};
use crate::{Epoch, Fenced, LuId};

const LU: LuId = LuId(uuid::Uuid::from_u128(7));

fn holder(nonce: u32) -> Holder {
    Holder {
        daemon: "a".parse().unwrap(),
        up_from: Epoch(3),
        addr: format!("127.0.0.1:0/{nonce}").parse().unwrap(),
    }
}

fn registration(isid: u8, target_port: Option<u16>, holder: bool) -> Registration {
    let initiator = "iqn.2026-11.example:host".to_owned();
    Registration { initiator, isid: [0, 2, 0x3d, 0, 0, isid], target_port, key: 0xabc, holder }
}

fn reserved() -> Reservations {
    Reservations {
        generation: 7,
        aptpl: true,
        kind: Some(ReservationKind::WriteExclusiveRegistrantsOnly),
        registrations: vec![registration(1, Some(2), true), registration(2, None, false)],
    }
}

#[test]
fn they_go_from_holder_to_holder() {
    let (a, b) = (holder(1), holder(2));
    let record = LuRecord::new(LU).claim(&a).unwrap();
    assert_eq!(
        (record.min_writer, record.encode()),
        (1, LuRecord { min_writer: 1, ..record.clone() }.encode())
    );
    let with = record.reserve(&a, reserved()).unwrap();
    assert_eq!(
        (with.version, with.lu_epoch, &with.state),
        (record.version + 1, record.lu_epoch, &record.state)
    );
    assert_eq!(with.min_writer, RESERVATIONS_WRITER, "who does not know them must not write");
    assert_eq!(LuRecord::decode(&LU, &with.encode()), Ok(with.clone()));
    assert!(matches!(with.reserve(&b, reserved()), Err(RecordError::NotHolder { .. })));

    let fenced = Fenced { addr: a.addr.clone(), osd_epoch: 9 };
    let taken = with.take_over(&b, &fenced).unwrap();
    let moving = taken.begin_move(&"c".parse().unwrap()).unwrap();
    assert_eq!(moving.reserve(&b, reserved()).unwrap().state, moving.state, "it serves on while it moves");
    let claimed = moving.release(&b).unwrap().claim(&a).unwrap();
    assert_eq!((&claimed.reservations, claimed.min_writer), (&reserved(), RESERVATIONS_WRITER));
    assert!(matches!(
        moving.release(&b).unwrap().reserve(&b, reserved()),
        Err(RecordError::WrongState { .. })
    ));

    let cleared = claimed.clear_reservations().unwrap();
    assert_eq!(cleared.reservations, Reservations { generation: 8, ..Reservations::default() });
    assert_eq!((cleared.min_writer, &cleared.state), (1, &claimed.state));
    assert_eq!(LuRecord::decode(&LU, &cleared.encode()), Ok(cleared));
}

#[test]
fn what_cannot_be_is_corrupt() {
    let record = LuRecord::new(LU).claim(&holder(1)).unwrap();
    let flawed = |change: fn(&mut Reservations)| {
        let mut reservations = reserved();
        change(&mut reservations);
        // Nor is it written.
        match record.reserve(&holder(1), reservations.clone()).unwrap_err() {
            RecordError::Flawed { .. } => {}
            other => panic!("{other}"),
        }
        let raw = LuRecord { reservations, ..record.clone() }.encode();
        LuRecord::decode(&LU, &raw).unwrap_err().to_string()
    };
    for (change, why) in [
        ((|r| r.kind = None) as fn(&mut Reservations), "holder"),
        (|r| r.kind = Some(ReservationKind::ExclusiveAccessAllRegistrants), "holder"),
        (|r| r.registrations[0].holder = false, "holder"),
        (|r| r.registrations[1].holder = true, "holder"),
        (|r| r.registrations[1].key = 0, "key"),
        (|r| r.registrations[1].initiator.clear(), "name"),
        (|r| r.registrations[1].initiator = "x".repeat(224), "name"),
        (|r| r.registrations[1].isid = r.registrations[0].isid, "two registrations"),
        (|r| r.registrations.resize(REGISTRATIONS_MAX + 1, registration(2, None, false)), "too many"),
    ] {
        let error = flawed(change);
        assert!(error.contains(why), "{why}: {error}");
    }
}

#[test]
fn the_largest_fits() {
    let registrations = (0..REGISTRATIONS_MAX)
        .map(|at| Registration {
            initiator: "i".repeat(NAME_BYTES_MAX),
            isid: [0xff, 0xff, 0xff, 0xff, (at >> 8) as u8, at as u8],
            target_port: Some(u16::MAX),
            key: u64::MAX,
            holder: at == 0,
        })
        .collect();
    let kind = Some(ReservationKind::ExclusiveAccess);
    let reservations = Reservations { generation: u32::MAX, aptpl: true, kind, registrations };
    let record = LuRecord::new(LU).claim(&holder(1)).unwrap().reserve(&holder(1), reservations).unwrap();
    let raw = record.encode();
    assert!(raw.len() < 160 << 10, "{} bytes", raw.len());
    assert_eq!(LuRecord::decode(&LU, &raw), Ok(record));
}

#[test]
fn people_and_scripts_read_them() {
    let json = serde_json::to_value(reserved()).unwrap();
    assert_eq!(json["kind"], "write-exclusive-registrants-only");
    assert_eq!(json["registrations"][0]["key"], "0xabc");
    assert_eq!(json["registrations"][0]["isid"], "0x00023d000001");
    assert_eq!(
        ReservationKind::ExclusiveAccessAllRegistrants.to_string(),
        "exclusive access, all registrants"
    );
}

proptest! {
    #[test]
    fn noise_does_no_harm(mut raw in proptest::collection::vec(any::<u8>(), 0..200), at: proptest::sample::Index) {
        let _ = LuRecord::decode(&LU, &raw);
        let record = LuRecord::new(LU).claim(&holder(1)).unwrap().reserve(&holder(1), reserved()).unwrap();
        let mut good = record.encode();
        if let Some(byte) = raw.pop() {
            let at = at.index(good.len());
            good[at] = byte;
        }
        let _ = LuRecord::decode(&LU, &good);
    }
}

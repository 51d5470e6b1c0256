//! Reservations seen from outside: CDBs and parameter lists of several nexuses, carried out as the daemon does.

use lusd_scsi::*;

use crate::bed::*;

const REGISTER: u8 = 0;
const RESERVE: u8 = 1;
const RELEASE: u8 = 2;
const CLEAR: u8 = 3;
const PREEMPT: u8 = 4;
const PREEMPT_AND_ABORT: u8 = 5;
const REGISTER_AND_IGNORE: u8 = 6;
const REGISTER_AND_MOVE: u8 = 7;

const CONFLICT: Result<(), Refusal> = Err(Refusal::Conflict);

/// A logical unit with nexuses 0, 1, 2 of three initiator ports.
struct Shared {
    bed: Bed,
    nexuses: Vec<NexusLu>,
}

fn cdb_in(service: u8, allocation_length: u16) -> [u8; 16] {
    let mut cdb = [0; 16];
    (cdb[0], cdb[1]) = (0x5e, service);
    cdb[7..9].copy_from_slice(&allocation_length.to_be_bytes());
    cdb
}

fn cdb_out(service: u8, kind: u8, length: u32) -> [u8; 16] {
    let mut cdb = [0; 16];
    (cdb[0], cdb[1], cdb[2]) = (0x5f, service, kind);
    cdb[5..9].copy_from_slice(&length.to_be_bytes());
    cdb
}

fn list(key: u64, new_key: u64, flags: u8) -> Vec<u8> {
    let mut list = [&key.to_be_bytes()[..], &new_key.to_be_bytes()].concat();
    list.resize(24, 0);
    list[20] = flags;
    list
}

/// TransportID of [`initiator`].
fn transport_id(isid: u8) -> Vec<u8> {
    let mut id = vec![0x45, 0, 0, 0];
    id.extend_from_slice(format!("iqn.2026-11.example:host,i,0x00023d0000{isid:02x}\0").as_bytes());
    id.resize(id.len().next_multiple_of(4), 0);
    id[3] = (id.len() - 4) as u8;
    id
}

impl Shared {
    fn new() -> Shared {
        Shared::with(Bed::new())
    }

    fn with(bed: Bed) -> Shared {
        let nexuses = (100..103)
            .map(|isid| {
                NexusLu::new(&bed.lu, Nexus { initiator: initiator(isid), target_port: TAGS[0] }, None)
            })
            .collect();
        Shared { bed, nexuses }
    }

    fn unit(&self, who: usize) -> Unit<'_> {
        Unit { lu: &self.bed.lu, nexus: &self.nexuses[who] }
    }

    fn plan(&self, who: usize, cdb: &[u8]) -> Result<Plan, CheckCondition> {
        plan(cdb, &self.bed.context(Some(Lun::ZERO)), Some(self.unit(who)))
    }

    /// Carries a request out as the daemon does.
    fn request(&self, who: usize, request: &ReserveRequest) -> Result<(), Refusal> {
        let (lu, nexus) = (&self.bed.lu, self.nexuses[who].handle());
        match lu.decide(&nexus, request) {
            Decision::Answer(answer) => return answer,
            Decision::Persist(change) => {
                assert!(change.next.is_sound(), "{:?}", change.next);
                lu.publish(change);
            }
            Decision::Hold => assert!(lu.hold(&nexus, nexus.aborts())),
            Decision::LetGo => lu.let_go(&nexus),
        }
        Ok(())
    }

    fn run(&self, who: usize, cdb: &[u8], data_out: &[u8]) -> Result<(), Refusal> {
        let plan = self.plan(who, cdb)?;
        let request = match plan.step {
            Step::Reserve(request) => request,
            Step::Status(Status::ReservationConflict) => return CONFLICT,
            Step::Reply(_) | Step::Block(_) => return Ok(()),
            Step::Parameters(parameters) => match parameters.finish(self.unit(who), data_out)? {
                After::Reserve(request) => request,
                After::Status(Status::ReservationConflict) => return CONFLICT,
                other => panic!("{other:?}"),
            },
            other => panic!("{other:?}"),
        };
        self.request(who, &request)
    }

    /// PERSISTENT RESERVE OUT without TransportIDs.
    fn out(&self, who: usize, service: u8, kind: u8, key: u64, new_key: u64) -> Result<(), Refusal> {
        self.run(who, &cdb_out(service, kind, 24), &list(key, new_key, 0))
    }

    /// Registers nexus n with key n + 1.
    fn registered(&self, nexuses: impl IntoIterator<Item = usize>) {
        for who in nexuses {
            self.out(who, REGISTER, 0, 0, who as u64 + 1).unwrap();
        }
    }

    fn read(&self, who: usize, service: u8) -> Vec<u8> {
        data(self.plan(who, &cdb_in(service, 0xffff)).unwrap())
    }

    fn generation(&self) -> u32 {
        self.bed.lu.reservations().generation
    }

    fn keys(&self) -> Vec<u64> {
        self.bed.lu.reservations().registrations.iter().map(|own| own.key).collect()
    }

    /// Type and key of READ RESERVATION.
    fn reservation(&self) -> Option<(u8, u64)> {
        let data = self.bed.data(&cdb_in(1, 0xffff));
        assert_eq!(data[4..8], ((data.len() - 8) as u32).to_be_bytes());
        (data.len() > 8).then(|| (data[21], u64::from_be_bytes(data[8..16].try_into().unwrap())))
    }

    /// The unit attentions of a nexus, read away.
    fn attentions(&self, who: usize) -> Vec<(u8, u8)> {
        let mut found = Vec::new();
        while let Err(check) = self.plan(who, &[0, 0, 0, 0, 0, 0]) {
            assert_eq!(check.code.key, SenseKey::UnitAttention);
            found.push((check.code.asc, check.code.ascq));
        }
        found
    }

    fn is_allowed(&self, who: usize, cdb: &[u8]) -> bool {
        match self.plan(who, cdb).unwrap().step {
            Step::Status(status) => {
                assert_eq!(status, Status::ReservationConflict);
                false
            }
            _ => true,
        }
    }

    fn may_read(&self, who: usize) -> bool {
        self.is_allowed(who, &cdb10(0x28, 0, 0, 1))
    }

    fn may_write(&self, who: usize) -> bool {
        self.is_allowed(who, &cdb10(0x2a, 0, 0, 1))
    }
}

const PREEMPTED: (u8, u8) = (0x2a, 0x03);
const RELEASED: (u8, u8) = (0x2a, 0x04);
const UNREGISTERED: (u8, u8) = (0x2a, 0x05);

#[test]
fn registering_goes_by_tables_67_and_68() {
    let lu = Shared::new();
    assert_eq!(lu.out(0, REGISTER, 0, 0, 0), Ok(()), "does nothing");
    assert_eq!(lu.out(0, REGISTER, 0, 5, 1), CONFLICT, "not registered, and a key");
    assert_eq!((lu.generation(), lu.keys()), (0, vec![]));
    assert_eq!(lu.out(0, REGISTER, 0xff, 0, 0xabc), Ok(()), "SCOPE and TYPE are ignored");
    assert_eq!((lu.generation(), lu.keys()), (1, vec![0xabc]));
    for (key, new_key) in [(0, 1), (0xdef, 1), (0, 0)] {
        assert_eq!(lu.out(0, REGISTER, 0, key, new_key), CONFLICT);
    }
    assert_eq!(lu.out(0, REGISTER, 0, 0xabc, 0xdef), Ok(()));
    assert_eq!(lu.out(1, REGISTER_AND_IGNORE, 0, 77, 0xdef), Ok(()), "RESERVATION KEY is ignored");
    assert_eq!(lu.out(1, REGISTER_AND_IGNORE, 0, 77, 0x123), Ok(()));
    assert_eq!((lu.generation(), lu.keys()), (4, vec![0xdef, 0x123]));
    assert_eq!(lu.out(1, REGISTER_AND_IGNORE, 0, 77, 0), Ok(()));
    assert_eq!(lu.out(1, REGISTER_AND_IGNORE, 0, 77, 0), Ok(()), "does nothing");
    assert_eq!((lu.generation(), lu.keys()), (5, vec![0xdef]));
    assert_eq!(lu.out(0, REGISTER, 0, 0xdef, 0), Ok(()));
    assert_eq!((lu.generation(), lu.keys()), (6, vec![]));
}

#[test]
fn who_is_not_registered_or_has_another_key_conflicts() {
    let lu = Shared::new();
    lu.registered([0]);
    for service in [RESERVE, RELEASE, CLEAR, PREEMPT, PREEMPT_AND_ABORT] {
        assert_eq!(lu.out(1, service, 1, 0, 0), CONFLICT);
        assert_eq!(lu.out(0, service, 1, 9, 1), CONFLICT);
    }
    assert_eq!((lu.generation(), lu.reservation()), (1, None));
}

#[test]
fn a_reservation_is_made_and_released_by_its_holder() {
    for kind in ReservationType::ALL {
        let lu = Shared::new();
        lu.registered([0, 1]);
        let code = kind.code();
        assert_eq!(lu.out(0, RESERVE, code, 1, 0), Ok(()));
        assert_eq!(lu.out(0, RESERVE, code, 1, 0), Ok(()), "once more the same");
        let key = if kind.is_all_registrants() { 0 } else { 1 };
        assert_eq!(lu.reservation(), Some((code, key)));
        let other = if code == 1 { 3 } else { 1 };
        assert_eq!(lu.out(0, RESERVE, other, 1, 0), CONFLICT, "the holder cannot change the type");
        let again = if kind.is_all_registrants() { Ok(()) } else { CONFLICT };
        assert_eq!(lu.out(1, RESERVE, code, 2, 0), again, "all registrants hold it");
        let invalid = CheckCondition::from(Fault::InvalidReleaseOfPersistentReservation);
        for wrong in [other, 0, 0x10 | code] {
            assert_eq!(lu.out(0, RELEASE, wrong, 1, 0), Err(Refusal::Check(invalid)));
        }
        if !kind.is_all_registrants() {
            assert_eq!(lu.out(1, RELEASE, code, 2, 0), Ok(()), "not the holder: GOOD, and nothing happens");
        }
        assert_eq!(lu.reservation(), Some((code, key)));
        assert_eq!(lu.out(0, RELEASE, code, 1, 0), Ok(()));
        assert_eq!((lu.reservation(), lu.keys()), (None, vec![1, 2]));
        let told = if kind.admits_registrants() { vec![RELEASED] } else { vec![] };
        assert_eq!((lu.attentions(0), lu.attentions(1), lu.attentions(2)), (vec![], told, vec![]));
        assert_eq!(lu.out(0, RELEASE, code, 1, 0), Ok(()), "there is none");
        assert_eq!(lu.generation(), 2, "RESERVE and RELEASE do not count");
    }
}

#[test]
fn a_scope_or_type_that_is_not_there_is_refused() {
    let lu = Shared::new();
    lu.registered([0]);
    for kind in [0, 2, 4, 9, 15, 0x11, 0x21] {
        assert_eq!(lu.out(0, RESERVE, kind, 1, 0), Err(Refusal::Check(in_cdb(2, None))), "{kind:02x}");
    }
    assert_eq!(lu.out(0, RESERVE, 1, 1, 0), Ok(()));
    assert_eq!(lu.out(0, PREEMPT, 0, 1, 1), Err(Refusal::Check(in_cdb(2, None))));
    assert_eq!(lu.reservation(), Some((1, 1)));
}

#[test]
fn what_is_left_to_others() {
    // Type, what a registered and a not registered nexus may: read, write.
    for (code, registered, other) in [
        (1, (true, false), (true, false)),
        (3, (false, false), (false, false)),
        (5, (true, true), (true, false)),
        (6, (true, true), (false, false)),
        (7, (true, true), (true, false)),
        (8, (true, true), (false, false)),
    ] {
        let lu = Shared::new();
        lu.registered([0, 1]);
        lu.out(0, RESERVE, code, 1, 0).unwrap();
        assert!(lu.may_read(0) && lu.may_write(0), "type {code}: the holder");
        assert_eq!((lu.may_read(1), lu.may_write(1)), registered, "type {code}");
        assert_eq!((lu.may_read(2), lu.may_write(2)), other, "type {code}");
        // A nexus that comes later finds the same.
        let new = NexusLu::new(&lu.bed.lu, nexus(), None);
        assert_eq!(new.access(), lu.nexuses[2].access());
        let always: &[&[u8]] = &[
            &[0, 0, 0, 0, 0, 0],
            &[0x25; 1],
            &[0x12, 0, 0, 0, 96, 0],
            &[0xa0],
            &[0x03, 0, 0, 0, 18, 0],
            &[0x1b, 0, 0, 0, 1, 0],
            &[0x1e],
            &[0xa3, 0x0a],
            &[0xa3, 0x0c],
            &[0x5e, 0],
        ];
        let never: &[&[u8]] = &[
            &[0x1b, 0, 0, 0, 0, 0],
            &[0x1e, 0, 0, 0, 1, 0],
            &[0x35],
            &[0x15, 0x10, 0, 0, 4],
            &[0x42, 0, 0, 0, 0, 0, 0, 0, 24],
        ];
        let reads: &[&[u8]] = &[&[0x1a, 0, 0x3f, 0, 255, 0], &[0x34], &[0x2f], &[0x88], &[0x9e, 0x12]];
        let padded = |cdb: &[u8]| {
            let mut padded = [0; 16];
            padded[..cdb.len()].copy_from_slice(cdb);
            padded
        };
        for (cdbs, allowed) in [(always, true), (never, false), (reads, other.0)] {
            for cdb in cdbs {
                assert_eq!(lu.is_allowed(2, &padded(cdb)), allowed, "type {code}: {cdb:02x?}");
            }
        }
    }
}

#[test]
fn unregistering_the_holder_ends_the_reservation() {
    for kind in ReservationType::ALL {
        let lu = Shared::new();
        lu.registered([0, 1]);
        lu.out(0, RESERVE, kind.code(), 1, 0).unwrap();
        lu.out(0, REGISTER, 0, 1, 0).unwrap();
        if kind.is_all_registrants() {
            assert_eq!(lu.reservation(), Some((kind.code(), 0)), "another registrant holds it");
            assert!(!lu.may_write(0));
            lu.out(1, REGISTER, 0, 2, 0).unwrap();
            assert_eq!((lu.reservation(), lu.attentions(1)), (None, vec![]));
        } else {
            assert_eq!(lu.reservation(), None);
            let told = if kind.admits_registrants() { vec![RELEASED] } else { vec![] };
            assert_eq!(lu.attentions(1), told, "{kind:?}");
        }
        assert_eq!(lu.attentions(2), vec![]);
        assert!(lu.may_write(2));
    }
}

#[test]
fn the_holders_new_key_is_the_reservations() {
    let lu = Shared::new();
    lu.registered([0]);
    lu.out(0, RESERVE, 1, 1, 0).unwrap();
    lu.out(0, REGISTER, 0, 1, 0xb0b).unwrap();
    assert_eq!(lu.reservation(), Some((1, 0xb0b)));
    lu.out(0, REGISTER_AND_IGNORE, 0, 0, 0xdad).unwrap();
    assert_eq!(lu.reservation(), Some((1, 0xdad)));
    assert_eq!(lu.out(0, RELEASE, 1, 0xb0b, 0), CONFLICT);
    assert_eq!(lu.out(0, RELEASE, 1, 0xdad, 0), Ok(()));
}

#[test]
fn clear_takes_everything_and_tells_all_that_were_registered() {
    let lu = Shared::new();
    lu.registered([0, 1]);
    lu.out(0, RESERVE, 3, 1, 0).unwrap();
    assert_eq!(lu.out(1, CLEAR, 0xff, 2, 0), Ok(()), "by any registrant; SCOPE and TYPE are ignored");
    assert_eq!((lu.attentions(0), lu.attentions(1), lu.attentions(2)), (vec![PREEMPTED], vec![], vec![]));
    assert_eq!((lu.generation(), lu.keys(), lu.reservation()), (3, vec![], None));
    assert!(lu.may_write(2));
}

#[test]
fn preempting_the_holder_takes_its_reservation() {
    for (old, new) in [(1, 1), (1, 3), (5, 5), (5, 6), (6, 7)] {
        let lu = Shared::new();
        lu.registered([0, 1, 2]);
        lu.out(0, RESERVE, old, 1, 0).unwrap();
        assert_eq!(lu.out(1, PREEMPT, new, 2, 1), Ok(()));
        assert_eq!((lu.generation(), lu.keys()), (4, vec![2, 3]));
        assert_eq!(lu.attentions(0), vec![UNREGISTERED]);
        assert_eq!(lu.attentions(1), vec![]);
        assert_eq!(lu.attentions(2), if old == new { vec![] } else { vec![RELEASED] });
        assert_eq!(lu.reservation(), Some((new, if new < 7 { 2 } else { 0 })));
        assert!(!lu.may_write(0) && lu.may_write(1));
        assert_eq!(lu.out(0, RELEASE, new, 1, 0), CONFLICT);
    }
}

#[test]
fn a_holder_may_preempt_itself() {
    let lu = Shared::new();
    lu.registered([0]);
    lu.out(1, REGISTER, 0, 0, 1).unwrap();
    lu.out(0, RESERVE, 1, 1, 0).unwrap();
    assert_eq!(lu.out(0, PREEMPT, 3, 1, 1), Ok(()));
    assert_eq!((lu.reservation(), lu.keys()), (Some((3, 1)), vec![1]), "others of its key go, it stays");
    assert_eq!((lu.attentions(0), lu.attentions(1)), (vec![], vec![UNREGISTERED]));
}

#[test]
fn preempting_another_key_removes_registrations_only() {
    let lu = Shared::new();
    lu.registered([0, 1, 2]);
    lu.out(0, RESERVE, 5, 1, 0).unwrap();
    assert_eq!(lu.out(0, PREEMPT, 0, 1, 2), Ok(()), "TYPE is ignored");
    assert_eq!((lu.reservation(), lu.keys()), (Some((5, 1)), vec![1, 3]));
    assert_eq!((lu.attentions(1), lu.attentions(2)), (vec![UNREGISTERED], vec![]));
    assert_eq!(lu.out(0, PREEMPT, 5, 1, 99), CONFLICT, "nobody's key");
    let zero = Err(Refusal::Check(in_list(8, None)));
    assert_eq!(lu.out(0, PREEMPT, 5, 1, 0), zero);
    assert_eq!(lu.out(2, PREEMPT, 5, 3, 3), Ok(()), "its own key, and it does not hold the reservation");
    assert_eq!((lu.keys(), lu.attentions(2)), (vec![1], vec![]));
    // Without a reservation.
    lu.out(0, RELEASE, 5, 1, 0).unwrap();
    lu.registered([1]);
    assert_eq!(lu.out(1, PREEMPT, 1, 2, 1), Ok(()));
    assert_eq!((lu.reservation(), lu.keys()), (None, vec![2]));
    assert_eq!(lu.out(1, PREEMPT, 1, 2, 0), zero);
}

#[test]
fn preempting_all_registrants() {
    for old in [7, 8] {
        let lu = Shared::new();
        lu.registered([0, 1, 2]);
        lu.out(0, RESERVE, old, 1, 0).unwrap();
        assert_eq!(lu.out(1, PREEMPT, 1, 2, 3), Ok(()), "a key removes registrations");
        assert_eq!((lu.reservation(), lu.keys()), (Some((old, 0)), vec![1, 2]));
        assert_eq!(lu.attentions(2), vec![UNREGISTERED]);
        assert_eq!(lu.out(1, PREEMPT, 1, 2, 0), Ok(()), "zero takes the reservation from all");
        assert_eq!((lu.reservation(), lu.keys()), (Some((1, 2)), vec![2]));
        assert_eq!((lu.attentions(0), lu.attentions(1)), (vec![UNREGISTERED], vec![]));
    }
    // The last registrant removes itself: nobody holds it any more.
    let lu = Shared::new();
    lu.registered([0]);
    lu.out(0, RESERVE, 8, 1, 0).unwrap();
    assert_eq!(lu.out(0, PREEMPT, 8, 1, 1), Ok(()));
    assert_eq!((lu.reservation(), lu.keys()), (None, vec![]));
}

#[test]
fn preempt_and_abort_ends_the_tasks_of_whom_it_removes() {
    let lu = Shared::new();
    lu.registered([0, 1, 2]);
    let aborts = || lu.nexuses.iter().map(NexusLu::aborts).collect::<Vec<_>>();
    lu.out(0, PREEMPT, 1, 1, 2).unwrap();
    assert_eq!(aborts(), [0, 0, 0], "PREEMPT aborts nothing");
    lu.out(0, RESERVE, 1, 1, 0).unwrap();
    lu.out(2, PREEMPT_AND_ABORT, 1, 3, 1).unwrap();
    assert_eq!(aborts(), [1, 0, 0]);
    assert_eq!((lu.reservation(), lu.attentions(0)), (Some((1, 3)), vec![UNREGISTERED]));
    lu.out(2, PREEMPT_AND_ABORT, 1, 3, 3).unwrap();
    assert_eq!(aborts(), [1, 0, 0], "not its own");
}

#[test]
fn spec_i_pt_registers_others_too() {
    let lu = Shared::new();
    let with = |key, new_key, ids: &[u8]| {
        let list = [&list(key, new_key, 0x08)[..], &(ids.len() as u32).to_be_bytes(), ids].concat();
        (cdb_out(REGISTER, 0, list.len() as u32), list)
    };
    let others = [transport_id(101), transport_id(200)].concat();
    let (cdb, ids) = with(0, 7, &others);
    assert_eq!(lu.run(0, &cdb, &ids), Ok(()));
    let ports: Vec<_> =
        lu.bed.lu.reservations().registrations.iter().map(|own| (own.initiator.isid[5], own.key)).collect();
    assert_eq!((ports, lu.generation()), (vec![(100, 7), (101, 7), (200, 7)], 1));
    assert_eq!(lu.run(0, &cdb, &ids), CONFLICT);
    let (cdb, ids) = with(7, 8, &others);
    assert_eq!(lu.run(0, &cdb, &ids), Err(Refusal::Check(in_list(20, 3))), "registered already");
    let (cdb, ids) = with(0, 8, &others);
    assert_eq!(lu.run(2, &cdb, &ids), Err(Refusal::Check(in_list(28, None))), "one of them is registered");
    assert_eq!(lu.keys(), vec![7, 7, 7], "none is made");
    // All ports of a name: those that are logged in, and those that are registered.
    let mut name = [&[0x05, 0, 0, 28][..], b"iqn.2026-11.example:host"].concat();
    name.resize(32, 0);
    let lu = Shared::new();
    let (cdb, ids) = with(0, 9, &name);
    assert_eq!(lu.run(0, &cdb, &ids), Ok(()));
    // The bed has a nexus of its own.
    assert_eq!(lu.keys(), vec![9; 4]);
    let nobody = [&[0x05, 0, 0, 20][..], b"iqn.a:nobody\0\0\0\0\0\0\0\0"].concat();
    let lu = Shared::new();
    let (cdb, ids) = with(0, 9, &nobody);
    assert_eq!(lu.run(0, &cdb, &ids), Err(Refusal::Check(in_list(28, None))));
    // Cut off, beyond the list, of another protocol.
    let error = Fault::ParameterListLength.into();
    assert_eq!(lu.run(0, &cdb_out(REGISTER, 0, 24), &list(0, 1, 0x08)), Err(Refusal::Check(error)));
    let (mut cdb, mut ids) = with(0, 9, &others);
    ids[27] += 1;
    assert_eq!(lu.run(0, &cdb, &ids), Err(Refusal::Check(error)));
    ids[27] -= 5;
    assert_eq!(lu.run(0, &cdb, &ids), Err(Refusal::Check(in_list(28 + 48, None))));
    ids[27] += 4;
    ids[28] = 0x46;
    assert_eq!(lu.run(0, &cdb, &ids), Err(Refusal::Check(in_list(28, None))));
    for service in [RESERVE, CLEAR, PREEMPT, REGISTER_AND_IGNORE] {
        cdb = cdb_out(service, 1, 24);
        assert_eq!(lu.run(0, &cdb, &list(0, 1, 0x08)), Err(Refusal::Check(in_list(20, 3))));
    }
    assert_eq!(lu.keys(), vec![]);
}

#[test]
fn all_target_ports() {
    let lu = Shared::new();
    assert_eq!(lu.run(0, &cdb_out(REGISTER, 0, 24), &list(0, 7, 0x04)), Ok(()));
    let elsewhere = Nexus { initiator: initiator(100), target_port: TAGS[1] };
    let there = NexusLu::new(&lu.bed.lu, elsewhere.clone(), None);
    lu.out(0, RESERVE, 1, 7, 0).unwrap();
    assert_eq!((there.access(), lu.nexuses[1].access()), (Access::Free, Access::WriteExclusive));
    let data = lu.read(0, 3);
    assert_eq!((data[20], data[21], &data[26..28]), (0x03, 1, &[0, 0][..]), "ALL_TG_PT, R_HOLDER");
    // One that registers with all ports after it did with one.
    lu.registered([1]);
    assert_eq!(lu.run(1, &cdb_out(REGISTER, 0, 24), &list(2, 3, 0x04)), Ok(()));
    let of_1 = Nexus { initiator: initiator(101), target_port: TAGS[2] };
    assert_eq!(lu.bed.lu.reservations().registration(&of_1).map(|own| own.key), Some(3));
    assert_eq!(lu.keys(), vec![7, 3]);
    lu.out(0, REGISTER, 0, 7, 0).unwrap();
    assert_eq!(lu.bed.lu.reservations().registration(&elsewhere), None, "it goes on all ports");
}

fn move_list(key: u64, new_key: u64, flags: u8, port: u16, id: &[u8]) -> Vec<u8> {
    let mut list = list(key, new_key, 0);
    list[17] = flags;
    list[18..20].copy_from_slice(&port.to_be_bytes());
    list[20..24].copy_from_slice(&(id.len() as u32).to_be_bytes());
    list.extend_from_slice(id);
    list
}

#[test]
fn register_and_move() {
    let lu = Shared::new();
    let run = |who, list: &[u8]| lu.run(who, &cdb_out(REGISTER_AND_MOVE, 0, list.len() as u32), list);
    let to_1 = |flags| move_list(1, 9, flags, TAGS[0], &transport_id(101));
    assert_eq!(run(0, &to_1(0)), CONFLICT, "not registered");
    lu.registered([0, 2]);
    assert_eq!(run(0, &to_1(0)), Err(Refusal::Check(in_cdb(1, 4))), "no reservation");
    lu.out(2, RESERVE, 8, 3, 0).unwrap();
    assert_eq!(run(0, &to_1(0)), CONFLICT, "all registrants");
    lu.out(2, RELEASE, 8, 3, 0).unwrap();
    lu.attentions(0);
    lu.out(2, RESERVE, 5, 3, 0).unwrap();
    assert_eq!(run(0, &to_1(0)), CONFLICT, "not the holder");
    lu.out(2, RELEASE, 5, 3, 0).unwrap();
    lu.attentions(0);
    lu.out(0, RESERVE, 3, 1, 0).unwrap();
    for (list, check) in [
        (move_list(1, 0, 0, TAGS[0], &transport_id(101)), in_list(8, None)),
        (move_list(1, 9, 0, 4711, &transport_id(101)), in_list(18, None)),
        (move_list(1, 9, 0, TAGS[0], &transport_id(100)), in_list(24, None)),
        (
            move_list(1, 9, 0, TAGS[0], &[&[0x05, 0, 0, 20][..], b"iqn.a:somebody\0\0\0\0\0\0"].concat()),
            in_list(24, None),
        ),
        (move_list(1, 9, 0, TAGS[0], &transport_id(101)[..12]), in_list(24, None)),
        (move_list(1, 9, 0, TAGS[0], &[transport_id(101), vec![0; 4]].concat()), in_list(24, None)),
    ] {
        assert_eq!(run(0, &list), Err(Refusal::Check(check)));
    }
    assert_eq!(run(0, &move_list(2, 9, 0, TAGS[0], &transport_id(101))), CONFLICT, "another key");
    let generation = lu.generation();
    assert_eq!(run(0, &to_1(0x01)), Ok(()));
    assert_eq!((lu.reservation(), lu.keys()), (Some((3, 9)), vec![1, 3, 9]));
    assert_eq!((lu.generation(), lu.bed.lu.reservations().aptpl), (generation + 1, true));
    assert!(lu.may_write(1) && !lu.may_read(0) && !lu.may_read(2));
    // Back, to one that is registered, which changes its key; who moves it unregisters.
    let back = move_list(9, 5, 0x02, TAGS[0], &transport_id(100));
    assert_eq!(run(1, &back), Ok(()));
    assert_eq!((lu.reservation(), lu.keys()), (Some((3, 5)), vec![5, 3]));
    assert!((0..3).all(|who| lu.attentions(who).is_empty()));
}

#[test]
fn parameter_lists_have_their_length() {
    let lu = Shared::new();
    let error = Refusal::Check(Fault::ParameterListLength.into());
    for service in 0..8 {
        for length in [0, 23, 25, 1 << 20] {
            if length == 25 && [REGISTER, REGISTER_AND_MOVE].contains(&service) {
                continue;
            }
            assert_eq!(lu.run(0, &cdb_out(service, 1, length), &[]), Err(error), "{service} {length}");
        }
        assert_eq!(lu.run(0, &cdb_out(service, 1, 24), &[0; 23]), Err(error), "less than the CDB says");
    }
    assert_eq!(lu.run(0, &cdb_out(REGISTER, 0, 28), &[&list(0, 1, 0)[..], &[0; 4]].concat()), Err(error));
}

#[test]
fn reports_count_what_they_do_not_return() {
    let lu = Shared::new();
    lu.registered([0, 1]);
    lu.run(0, &cdb_out(REGISTER, 0, 24), &list(1, 1, 0x01)).unwrap();
    lu.out(1, RESERVE, 6, 2, 0).unwrap();
    let keys = lu.read(0, 0);
    assert_eq!(keys, [[0, 0, 0, 3], [0, 0, 0, 16], [0; 4], [0, 0, 0, 1], [0; 4], [0, 0, 0, 2]].concat());
    for length in [0, 4, 8, 12, 16] {
        let plan = lu.plan(2, &cdb_in(0, length)).unwrap();
        assert_eq!(data(plan), keys[..usize::from(length)], "truncated, the length is not");
    }
    let mut reservation = vec![0, 0, 0, 3, 0, 0, 0, 16, 0, 0, 0, 0, 0, 0, 0, 2];
    reservation.extend([0, 0, 0, 0, 0, 6, 0, 0]);
    assert_eq!(lu.read(2, 1), reservation);
    assert_eq!(lu.read(2, 2), [0, 8, 0x1d, 0xc1, 0xea, 0x01, 0, 0]);
    let full = lu.read(2, 3);
    let id = transport_id(100);
    let size = 24 + id.len();
    assert_eq!((full.len(), &full[4..8]), (8 + 2 * size, &((2 * size) as u32).to_be_bytes()[..]));
    let second = &full[8 + size..];
    assert_eq!((&second[..8], second[12], second[13]), (&2u64.to_be_bytes()[..], 0x01, 6));
    assert_eq!(
        (&second[18..20], &second[20..24]),
        (&TAGS[0].to_be_bytes()[..], &(id.len() as u32).to_be_bytes()[..])
    );
    assert_eq!(second[24..], transport_id(101));
    assert_eq!((full[20], full[21]), (0, 0), "the first holds nothing");
    assert_eq!(lu.bed.error(&cdb_in(4, 8)), in_cdb(1, 4));
}

#[test]
fn reserve_and_release_without_registrations() {
    let reserve = [[0x16, 0, 0, 0, 0, 0, 0, 0, 0, 0], [0x56, 0, 0, 0, 0, 0, 0, 0, 0, 0]];
    let release = [[0x17, 0, 0, 0, 0, 0, 0, 0, 0, 0], [0x57, 0, 0, 0, 0, 0, 0, 0, 0, 0]];
    for form in 0..2 {
        let lu = Shared::new();
        assert_eq!(lu.run(1, &release[form], &[]), Ok(()), "nothing to release");
        for _ in 0..2 {
            assert_eq!(lu.run(0, &reserve[form], &[]), Ok(()));
        }
        assert_eq!(lu.run(1, &reserve[form], &[]), CONFLICT);
        assert!(lu.may_write(0) && !lu.may_read(1));
        for cdb in [[0; 16], cdb10(0x25, 0, 0, 0), cdb_in(0, 8), cdb_out(REGISTER, 0, 24)] {
            assert!(!lu.is_allowed(1, &cdb), "{cdb:02x?}");
        }
        for cdb in [cdb_inquiry(0, 0, 96), cdb6(0x1e, 0, 0), cdb6(0x03, 0, 18), cdb12(0xa0, 0, 0, 16)] {
            assert!(lu.is_allowed(1, &cdb), "{cdb:02x?}");
        }
        assert_eq!(lu.out(0, REGISTER, 0, 0, 1), CONFLICT, "not even by the holder (SPC-2)");
        assert!(!lu.is_allowed(0, &cdb_in(0, 8)));
        assert_eq!(lu.run(1, &release[form], &[]), Ok(()), "GOOD, and nothing is released");
        assert!(!lu.may_read(1));
        assert_eq!(lu.run(0, &release[form], &[]), Ok(()));
        assert!(lu.may_write(1));
    }
}

#[test]
fn what_ends_a_reservation_by_reserve() {
    let mut lu = Shared::new();
    let reserve = [0x16, 0, 0, 0, 0, 0];
    // A reset.
    lu.run(0, &reserve, &[]).unwrap();
    lu.bed.lu.reset(UnitAttention::DeviceReset, None);
    assert_eq!((0..3).map(|who| lu.attentions(who)).collect::<Vec<_>>(), vec![vec![(0x29, 0x03)]; 3]);
    assert!(lu.may_write(1));
    // The loss of the nexus; and a handle of it reserves nothing any more.
    lu.run(2, &reserve, &[]).unwrap();
    let gone = lu.nexuses[2].handle();
    lu.nexuses.truncate(2);
    assert!(lu.may_write(1) && gone.has_left());
    assert!(!lu.bed.lu.hold(&gone, gone.aborts()));
    assert!(lu.may_write(1));
    // That it is served elsewhere: the holder hears of it.
    lu.run(0, &reserve, &[]).unwrap();
    lu.bed.lu.forget_reserve();
    assert_eq!((lu.attentions(0), lu.attentions(1)), (vec![RELEASED], vec![]));
    assert!(lu.may_write(1));
}

#[test]
fn reserve_of_registered_nexuses_is_compatible() {
    // SPC-4 5.13.3: GOOD, and nothing happens, for whom a persistent reservation does not restrict by its type.
    let lu = Shared::new();
    lu.registered([0, 1]);
    let both = |who| {
        let answers = [[0x16, 0, 0, 0, 0, 0], [0x17, 0, 0, 0, 0, 0]].map(|cdb| lu.run(who, &cdb, &[]));
        assert_eq!(answers[0], answers[1]);
        answers[0]
    };
    assert_eq!((both(0), both(2)), (CONFLICT, CONFLICT), "without a reservation");
    for (kind, registrant) in
        [(1, CONFLICT), (3, CONFLICT), (5, Ok(())), (6, Ok(())), (7, Ok(())), (8, Ok(()))]
    {
        lu.out(0, RESERVE, kind, 1, 0).unwrap();
        assert_eq!((both(0), both(1), both(2)), (Ok(()), registrant, CONFLICT), "type {kind}");
        assert_eq!(lu.reservation().map(|(kind, _)| kind), Some(kind));
        lu.out(0, RELEASE, kind, 1, 0).unwrap();
        lu.attentions(1);
    }
}

#[test]
fn late_parameters_meet_the_reservation() {
    let lu = Shared::new();
    lu.registered([0]);
    let mut unmap = cdb10(0x42, 0, 0, 24);
    unmap[8] = 24;
    let Step::Parameters(parameters) = lu.plan(1, &unmap).unwrap().step else { panic!("UNMAP has a list") };
    lu.out(0, RESERVE, 1, 1, 0).unwrap();
    let conflict = After::Status(Status::ReservationConflict);
    assert_eq!(parameters.finish(lu.unit(1), &[0; 24]), Ok(conflict));
    let (read, write) = (BlockOp::Read(Range { offset: 0, len: 512 }), BlockOp::Flush);
    assert!(lu.nexuses[1].may(&read) && !lu.nexuses[1].may(&write) && lu.nexuses[0].may(&write));
}

#[test]
fn registrations_are_bounded() {
    let bed = Bed::new();
    let name = |at: usize| InitiatorPort { name: format!("iqn.a:{at}"), isid: [0; 6] };
    let registrations = (0..REGISTRATIONS_MAX)
        .map(|at| Registration { initiator: name(at), target_port: None, key: 1, holder: false })
        .collect();
    bed.lu.adopt(Reservations { registrations, ..Reservations::default() });
    let lu = Shared::with(bed);
    let full = Fault::InsufficientRegistrationResources.into();
    assert_eq!(lu.out(0, REGISTER, 0, 0, 1), Err(Refusal::Check(full)));
    assert_eq!(lu.keys().len(), REGISTRATIONS_MAX);
    assert_eq!(data(lu.plan(0, &cdb_in(0, 8)).unwrap())[4..], (8 * REGISTRATIONS_MAX as u32).to_be_bytes());
}

#[test]
fn what_others_changed_is_told_when_it_is_found() {
    let lu = Shared::new();
    lu.registered([0, 1]);
    lu.out(0, RESERVE, 5, 1, 0).unwrap();
    let mut elsewhere = (*lu.bed.lu.reservations()).clone();
    elsewhere.registrations.remove(0);
    elsewhere.kind = None;
    lu.bed.lu.adopt(elsewhere);
    assert_eq!(
        (lu.attentions(0), lu.attentions(1), lu.attentions(2)),
        (vec![UNREGISTERED], vec![RELEASED], vec![])
    );
    assert!(lu.may_write(2));
}

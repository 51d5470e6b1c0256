//! Whatever nexuses do: the invariants hold, and PRgeneration rises as it must.

use proptest::prelude::*;

use super::action::Known;
use super::*;
use crate::attention::UnitAttention;

const PORTS: [u16; 2] = [1, 2];

fn port(isid: u8) -> InitiatorPort {
    InitiatorPort { name: format!("iqn.a:{}", isid % 2), isid: [0, 0, 0, 0, 0, isid] }
}

fn nexus() -> impl Strategy<Value = Nexus> {
    (0..4u8, 0..2usize).prop_map(|(isid, at)| Nexus { initiator: port(isid), target_port: PORTS[at] })
}

fn kind() -> impl Strategy<Value = Option<ReservationType>> {
    proptest::option::weighted(0.9, proptest::sample::select(ReservationType::ALL.to_vec()))
}

fn specified() -> impl Strategy<Value = Specified> {
    prop_oneof![
        (0..6u8).prop_map(|isid| Specified::Port(port(isid))),
        (0..3u8).prop_map(|isid| Specified::Device(format!("iqn.a:{isid}"))),
    ]
}

/// Keys from so few that they often fit.
fn key() -> std::ops::Range<u64> {
    0..4
}

fn action() -> impl Strategy<Value = Action> {
    let also = proptest::option::weighted(0.2, proptest::collection::vec(specified(), 0..3));
    let register = (proptest::option::of(key()), key(), also, any::<bool>(), any::<bool>()).prop_map(
        |(key, new_key, also, all_target_ports, aptpl)| Action::Register {
            key,
            new_key,
            also,
            all_target_ports,
            aptpl,
        },
    );
    let moved = (key(), key(), specified(), 1..4u16, any::<bool>(), any::<bool>()).prop_map(
        |(key, new_key, to, target_port, unregister, aptpl)| Action::Move {
            key,
            new_key,
            to,
            target_port,
            unregister,
            aptpl,
        },
    );
    prop_oneof![
        4 => register,
        3 => (key(), kind()).prop_map(|(key, kind)| Action::Reserve { key, kind }),
        2 => (key(), kind()).prop_map(|(key, kind)| Action::Release { key, kind }),
        1 => key().prop_map(|key| Action::Clear { key }),
        3 => (key(), key(), kind(), any::<bool>())
            .prop_map(|(key, victim, kind, abort)| Action::Preempt { key, victim, kind, abort }),
        2 => moved,
    ]
}

/// What the standard says of a nexus, told in another way than `access_of`.
fn model_access(state: &Reservations, nexus: &Nexus) -> Access {
    let own = state.registrations.iter().find(|own| own.is_of(nexus));
    match (state.kind.map(ReservationType::code), own) {
        (None, _) => Access::Free,
        (Some(5..=8), Some(_)) => Access::Free,
        (Some(1 | 3), Some(own)) if own.holder => Access::Free,
        (Some(1 | 5 | 7), _) => Access::WriteExclusive,
        (Some(_), _) => Access::ExclusiveAccess,
    }
}

fn all_nexuses() -> impl Iterator<Item = Nexus> {
    (0..6).flat_map(|isid| PORTS.map(|target_port| Nexus { initiator: port(isid), target_port }))
}

fn counts(action: &Action) -> bool {
    !matches!(action, Action::Reserve { .. } | Action::Release { .. })
}

fn check(
    before: &Reservations,
    from: &Nexus,
    action: &Action,
    change: &super::Change,
) -> Result<(), TestCaseError> {
    let next = &change.next;
    prop_assert!(next.is_sound(), "{next:?}");
    let rise = u32::from(counts(action));
    prop_assert_eq!(next.generation, before.generation.wrapping_add(rise));
    prop_assert!(next != before, "{action:?} is said to do something");
    // Only the five that name it change APTPL.
    if !matches!(action, Action::Register { .. } | Action::Move { .. } | Action::Clear { .. }) {
        prop_assert_eq!(next.aptpl, before.aptpl);
    }
    for nexus in all_nexuses() {
        prop_assert_eq!(next.access_of(&nexus), model_access(next, &nexus));
        let narrower = next.access_of(&nexus) as u8 > before.access_of(&nexus) as u8;
        prop_assert!(change.narrows || !narrower, "{action:?}: {nexus:?} may do less");
        let told = |what| change.tell.iter().any(|(who, told)| who.is_of(&nexus) && *told == what);
        prop_assert!(nexus != *from || change.tell.iter().all(|(who, _)| !who.is_of(&nexus)), "told itself");
        let lost = before.registration(&nexus).is_some() && next.registration(&nexus).is_none();
        let by_preempt = lost && nexus != *from && matches!(action, Action::Preempt { .. });
        let own = before.registration(from).is_some_and(|own| own.is_of(&nexus));
        prop_assert_eq!(told(UnitAttention::RegistrationsPreempted), by_preempt && !own);
        let by_clear = lost && !own && matches!(action, Action::Clear { .. });
        prop_assert_eq!(told(UnitAttention::ReservationsPreempted), by_clear);
        let aborted = change.abort.iter().any(|who| who.is_of(&nexus));
        prop_assert_eq!(aborted, by_preempt && !own && matches!(action, Action::Preempt { abort: true, .. }));
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn invariants_hold(steps in proptest::collection::vec((nexus(), action()), 1..40)) {
        let initiators: Vec<_> = (0..4).map(port).collect();
        let known = Known { initiators: &initiators, target_ports: &PORTS };
        let mut state = Reservations::default();
        for (from, action) in steps {
            if let Ok(Some(change)) = state.apply(&from, &action, known) {
                check(&state, &from, &action, &change)?;
                state = change.next;
            }
        }
    }

    #[test]
    fn nobody_unregistered_changes_anything_but_by_registering(
        from in nexus(), action in action(), kind in kind(), key in 1u64..4,
    ) {
        let other = Nexus { initiator: port(9), target_port: 1 };
        let known = Known { initiators: &[], target_ports: &PORTS };
        let register =
            Action::Register { key: None, new_key: key, also: None, all_target_ports: false, aptpl: false };
        let mut state = Reservations::default().apply(&other, &register, known).unwrap().unwrap().next;
        if let Ok(Some(change)) = state.apply(&other, &Action::Reserve { key, kind }, known) {
            state = change.next;
        }
        let answer = state.apply(&from, &action, known);
        if !matches!(action, Action::Register { .. }) {
            prop_assert_eq!(answer, Err(Refusal::Conflict));
        } else if let Ok(Some(change)) = answer {
            prop_assert_eq!(change.next.kind, state.kind);
            prop_assert!(state.registrations.iter().all(|own| change.next.registrations.contains(own)));
        }
    }
}

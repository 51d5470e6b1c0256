//! Which daemon should own a logical unit: weighted rendezvous hashing, a pure function of names and weights.
//!
//! Each daemon draws a number for the unit from a hash of both names; the best draw by weight wins. So a daemon that
//! goes takes only its own units with it, and those spread over all others; one that comes takes its share from each.
//! All arithmetic is of integers: every program computes the same, everywhere.

use xxhash_rust::xxh3::{xxh3_64, xxh3_64_with_seed};

use crate::id::{DaemonId, LuId};
use crate::map::LusMap;
use crate::model::Placement;

/// Bits after the point of [`minus_log2`]. 24 leave 2^-24 of error in the share of a daemon.
const LOG_FRACTION_BITS: u32 = 24;

/// `-log2(draw / 2^64)` with [`LOG_FRACTION_BITS`] bits after the point, for a draw above 0: at most 64.
fn minus_log2(draw: u64) -> u64 {
    let zeros = draw.leading_zeros();
    // The draw as a number in [1, 2) with 63 bits after the point; squared, it gives a bit of the logarithm each time.
    let mut mantissa = draw << zeros;
    let mut fraction = 0u64;
    for _ in 0..LOG_FRACTION_BITS {
        let square = (u128::from(mantissa) * u128::from(mantissa)) >> 63;
        let carry = u64::from(square >> 64 != 0);
        fraction = (fraction << 1) | carry;
        mantissa = u64::try_from(square >> carry).unwrap_or(u64::MAX);
    }
    // log2(draw) = 63 - zeros + fraction.
    ((u64::from(zeros) + 1) << LOG_FRACTION_BITS) - fraction
}

/// The one of `daemons` (id and weight, a weight of 0 takes nothing) that should own `lu`; none if there is none.
pub fn choose<'a>(lu: &LuId, daemons: impl IntoIterator<Item = (&'a DaemonId, u32)>) -> Option<&'a DaemonId> {
    let seed = xxh3_64(lu.0.as_bytes());
    let mut best: Option<(u64, u32, &DaemonId)> = None;
    for (id, weight) in daemons.into_iter().filter(|(_, weight)| *weight > 0) {
        let cost = minus_log2(xxh3_64_with_seed(id.as_str().as_bytes(), seed).max(1));
        let better = best.is_none_or(|(best_cost, best_weight, best_id)| {
            // cost / weight < best_cost / best_weight, without the division; equal costs go by name.
            let (a, b) =
                (u128::from(cost) * u128::from(best_weight), u128::from(best_cost) * u128::from(weight));
            a < b || a == b && id < best_id
        });
        if better {
            best = Some((cost, weight, id));
        }
    }
    best.map(|(_, _, id)| id)
}

/// The daemons that may have units, with their weights.
pub(crate) struct Takers<'a>(Vec<(&'a DaemonId, u32)>);

impl<'a> Takers<'a> {
    /// Those of a map.
    pub(crate) fn of(map: &'a LusMap) -> Self {
        Self::of_others(map, |_| false)
    }

    /// Those of a map but for some.
    pub(crate) fn of_others(map: &'a LusMap, but: impl Fn(&DaemonId) -> bool) -> Self {
        let takers = map.daemons().filter(|daemon| daemon.takes_units() && !but(&daemon.id));
        Self(takers.map(|daemon| (&daemon.id, daemon.weight)).collect())
    }

    /// Where a unit belongs: where it is pinned, if that one is among them, or else where the hash says.
    pub(crate) fn wanted(&self, lu: &LuId, pin: Option<&DaemonId>) -> Option<&'a DaemonId> {
        let pinned = pin.and_then(|pin| self.0.iter().find(|(id, _)| *id == pin));
        pinned.map(|(id, _)| *id).or_else(|| choose(lu, self.0.iter().copied()))
    }
}

impl LusMap {
    /// The daemon where a placed unit belongs by the map alone: its pin, if that daemon may have units, or else
    /// [`choose_owner`](Self::choose_owner)'s answer.
    pub fn wanted_owner(&self, placement: &Placement) -> Option<&DaemonId> {
        Takers::of(self).wanted(&placement.lu, placement.pin.as_ref())
    }

    /// The daemon that should own `lu` by the map alone: among those that are up, in, and of some weight.
    pub fn choose_owner(&self, lu: &LuId) -> Option<&DaemonId> {
        choose(lu, self.daemons().filter(|d| d.takes_units()).map(|d| (&d.id, d.weight)))
    }

    /// The logical units that have no placement.
    pub fn unplaced(&self) -> impl Iterator<Item = &LuId> {
        self.lus.iter().map(|(id, _)| id).filter(|id| self.placements.get(*id).is_none())
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use uuid::Uuid;

    use super::*;

    fn ids(n: usize) -> Vec<DaemonId> {
        (0..n).map(|n| format!("d{n}").parse().unwrap()).collect()
    }

    fn units() -> impl Iterator<Item = LuId> {
        (0..10_000u128).map(|n| LuId(Uuid::from_u128(n)))
    }

    #[test]
    fn logarithms() {
        let one = 1u64 << LOG_FRACTION_BITS;
        assert_eq!(minus_log2(1 << 63), one);
        assert_eq!(minus_log2(1), 64 * one);
        for draw in [3u64, 12_345, 1 << 40, u64::MAX / 3, u64::MAX / 2 + 7, u64::MAX - 1] {
            let exact = (64.0 - (draw as f64).log2()) * one as f64;
            assert!((minus_log2(draw) as f64 - exact).abs() <= 4.0, "{draw}");
        }
    }

    #[test]
    fn shares_follow_weights() {
        let ids = ids(4);
        let weights = [1000, 1000, 2000, 0];
        let mut counts = BTreeMap::new();
        for lu in units() {
            *counts.entry(choose(&lu, ids.iter().zip(weights)).unwrap()).or_insert(0usize) += 1;
        }
        assert!((2300..2700).contains(&counts[&ids[0]]), "{counts:?}");
        assert!((2300..2700).contains(&counts[&ids[1]]), "{counts:?}");
        assert!((4700..5300).contains(&counts[&ids[2]]), "{counts:?}");
        assert!(!counts.contains_key(&ids[3]), "{counts:?}");
    }

    #[test]
    fn a_loss_moves_only_what_was_lost() {
        let ids = ids(5);
        let all = || ids.iter().map(|id| (id, 1000));
        let mut moved_to = BTreeMap::new();
        for lu in units() {
            let before = choose(&lu, all()).unwrap();
            let after = choose(&lu, all().filter(|(id, _)| **id != ids[2])).unwrap();
            if *before == ids[2] {
                *moved_to.entry(after).or_insert(0usize) += 1;
            } else {
                assert_eq!(before, after);
            }
        }
        assert_eq!(moved_to.len(), 4);
        assert!(moved_to.values().all(|count| (400..600).contains(count)), "{moved_to:?}");
    }

    /// A stored map holds choices of older programs: another choice today would move units tomorrow.
    #[test]
    fn the_choice_is_fixed_for_ever() {
        let ids = ids(3);
        let pick = |lu| choose(&lu, ids.iter().map(|id| (id, 1000))).unwrap().as_str();
        let picks: Vec<&str> = units().take(12).map(pick).collect();
        assert_eq!(picks.join(" "), "d1 d2 d0 d2 d1 d2 d0 d2 d2 d2 d1 d0");
        assert!(choose(&LuId(Uuid::nil()), []).is_none());
    }
}

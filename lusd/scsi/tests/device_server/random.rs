//! Whatever a peer sends: no panic, and what comes out keeps its promises.

use lusd_scsi::*;
use proptest::prelude::*;

use crate::bed::*;

/// Bytes that look like a CDB more often than not: a known operation code, few bits set.
fn cdb() -> impl Strategy<Value = Vec<u8>> {
    let known = (0..commands().len(), proptest::collection::vec(any::<u8>(), 16), 0..=16usize).prop_map(
        |(row, noise, from)| {
            let row = &commands()[row];
            let mut cdb = crate::table::accepted(row);
            for (byte, usage) in row.usage.iter().enumerate().skip(from.max(1)) {
                cdb[byte] |= noise[byte] & usage;
            }
            cdb.to_vec()
        },
    );
    prop_oneof![4 => known, 1 => proptest::collection::vec(any::<u8>(), 0..40)]
}

/// A list that begins as UNMAP's or a mode parameter list, or noise.
fn list() -> impl Strategy<Value = Vec<u8>> {
    let noise = proptest::collection::vec(any::<u8>(), 0..300);
    let pages = proptest::collection::vec(
        proptest::sample::select(vec![0x08u8, 0x0a, 0x4a, 0x1c, 18, 10, 1, 0, 4]),
        0..64,
    );
    prop_oneof![noise, pages]
}

fn keeps_its_promises(bed: &Bed, plan: &Plan) -> Result<(), TestCaseError> {
    prop_assert!(plan.transfer_out == 0 || plan.transfer_in == 0);
    prop_assert!(plan.transfer_out <= MAX_TRANSFER_BYTES);
    match &plan.step {
        Step::Block(op) => op_keeps_its_promises(bed, op),
        Step::Reply(data) => {
            prop_assert_eq!(data.len() as u64, plan.transfer_in);
            Ok(())
        }
        Step::Reserve(_) => {
            prop_assert_eq!((plan.transfer_out, plan.transfer_in), (0, 0));
            Ok(())
        }
        Step::Status(status) => Err(TestCaseError::fail(format!("{status:?} without a reservation"))),
        Step::Parameters(_) => Ok(()),
    }
}

fn op_keeps_its_promises(bed: &Bed, op: &BlockOp) -> Result<(), TestCaseError> {
    for range in op.ranges() {
        prop_assert!(range.len > 0);
        prop_assert!(range.offset % 512 == 0 && range.len % 512 == 0);
        prop_assert!(range.end() <= bed.lu.capacity_bytes());
    }
    prop_assert_eq!(bed.lu.admit(op), Ok(()));
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(4096))]

    #[test]
    fn no_cdb_and_no_list_does_harm(cdb in cdb(), list in list(), thin: bool, available in 0u64..20_000) {
        let bed = if thin { Bed::new() } else { Bed::thick() };
        if let Ok(plan) = bed.plan(&cdb) {
            keeps_its_promises(&bed, &plan)?;
            if let Step::Parameters(parameters) = plan.step {
                let len = list.len().min(plan.transfer_out as usize);
                if let Ok(After::Block(op)) = parameters.finish(bed.unit(), &list[..len]) {
                    op_keeps_its_promises(&bed, &op)?;
                }
            }
        }
        if let Ok(mut plan) = bed.plan(&cdb) {
            let (out, back) = (plan.transfer_out, plan.transfer_in);
            plan.limit_data_in(&bed.lu, available);
            if let Ok(wanted) = plan.limit_data_out(&bed.lu, available) {
                prop_assert!(wanted <= out.min(available));
                prop_assert_eq!((plan.transfer_out, plan.transfer_in), (out, back));
                prop_assert!(plan.exact_at.is_none() || available == out);
                if let Step::Block(op) = &plan.step {
                    op_keeps_its_promises(&bed, op)?;
                    if let BlockOp::Write { range, .. } = op {
                        prop_assert_eq!(range.len, wanted);
                        prop_assert!(out.min(available) - wanted < bed.lu.block_size().bytes());
                    }
                }
            }
        }
        for lun in [Some(Lun::ZERO), None] {
            if let Ok(plan) = bed.plan_absent(lun, &cdb) {
                prop_assert!(matches!(plan.step, Step::Reply(_)));
            }
        }
    }

    #[test]
    fn sense_is_well_formed(cdb in cdb()) {
        let bed = Bed::new();
        if let Err(check) = bed.plan(&cdb) {
            let fixed = check.sense(SenseFormat::Fixed);
            prop_assert_eq!((fixed.len(), fixed[0] & 0x7f, fixed[7]), (18, 0x70, 10));
            let descriptor = check.sense(SenseFormat::Descriptor);
            prop_assert_eq!(usize::from(descriptor[7]) + 8, descriptor.len());
            prop_assert_eq!((fixed[2], fixed[12], fixed[13]), (descriptor[1], descriptor[2], descriptor[3]));
        }
    }

    #[test]
    fn wwns_print_as_they_parse(text in "[0-9a-fA-Fx.]{0,36}") {
        if let Ok(naa) = Naa::parse(&text) {
            prop_assert_eq!(Naa::parse(&naa.to_string()), Ok(naa));
        }
    }

    #[test]
    fn wire_luns_round_trip(wire: [u8; 8]) {
        if let Some(lun) = Lun::from_wire(wire) {
            prop_assert_eq!(Lun::from_wire(lun.to_wire()), Some(lun));
        }
    }
}

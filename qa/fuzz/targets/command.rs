//! One command after the other at one logical unit: CDB, lengths and data-out as the input has them.

#![no_main]

use arbitrary::Unstructured;
use libfuzzer_sys::fuzz_target;
use lusd_scsi::{
    AccessState, After, BlockOp, BlockSize, Context, Identity, InitiatorPort, LogicalUnit, LogicalUnitConfig,
    Lun, MAX_TRANSFER_BYTES, Nexus, NexusLu, Plan, PortGroup, PortGroups, SenseFormat, SessionView, Step,
    TargetPort, TaskManagementFunctions, Unit, UnitAttention, commands, plan,
};

/// One logical unit, LUN 0 of its session.
struct Bed {
    lu: LogicalUnit,
    nexus: NexusLu,
    port: TargetPort,
}

impl SessionView for Bed {
    fn visit(&self, each: &mut dyn FnMut(Lun, Option<&NexusLu>)) {
        each(Lun::ZERO, Some(&self.nexus));
    }
}

impl Bed {
    fn new(kind: u8) -> Self {
        let mut config = LogicalUnitConfig::new(Identity::new([7; 16]), 1 << 30);
        if kind & 1 == 1 {
            (config.block_size, config.physical_block_exponent) = (BlockSize::B4096, 0);
        }
        config.thin = kind & 2 == 0;
        config.read_only = kind & 12 == 12;
        let lu = LogicalUnit::new(config, AccessState::Serving).expect("a good configuration");
        let groups = [PortGroup { tag: 1, up: true }, PortGroup { tag: 2, up: false }];
        lu.set_port_groups(PortGroups::new(groups.into(), 1, Some(1)));
        let initiator = InitiatorPort { name: "iqn.2026-11.io.lus:host".into(), isid: [0, 2, 0x3d, 0, 0, 1] };
        let nexus = Nexus { initiator, target_port: 1 };
        let nexus = NexusLu::new(&lu, nexus, (kind & 16 == 16).then_some(UnitAttention::PowerOn));
        let port = TargetPort {
            target_name: "iqn.2026-11.io.lus:disk".into(),
            portal_group_tag: 1,
            relative_target_port: 1,
            target_port_group: 1,
            task_management: TaskManagementFunctions::RFC_7143,
        };
        Self { lu, nexus, port }
    }

    fn unit(&self) -> Unit<'_> {
        Unit { lu: &self.lu, nexus: &self.nexus }
    }

    fn command(&self, cdb: &[u8], available: u64, data_out: &[u8]) {
        for unit in [Some(self.unit()), None] {
            let context = Context { lun: Some(Lun::ZERO), port: &self.port, session: self };
            match plan(cdb, &context, unit) {
                Ok(plan) => self.carry_out(plan, available, data_out),
                Err(check) => {
                    let _ = (check.sense(SenseFormat::Fixed), check.sense(SenseFormat::Descriptor));
                }
            }
        }
    }

    fn carry_out(&self, mut plan: Plan, available: u64, data_out: &[u8]) {
        assert!(plan.transfer_out == 0 || plan.transfer_in == 0);
        assert!(plan.transfer_out <= MAX_TRANSFER_BYTES);
        if plan.limit_data_out(&self.lu, available).is_err() {
            return;
        }
        plan.limit_data_in(&self.lu, available);
        match plan.step {
            Step::Block(op) => self.look_at(&op),
            Step::Parameters(parameters) => {
                let data_out = &data_out[..data_out.len().min(plan.transfer_out.min(available) as usize)];
                if let Ok(After::Block(op)) = parameters.finish(self.unit(), data_out) {
                    self.look_at(&op);
                }
            }
            _ => {}
        }
    }

    fn look_at(&self, op: &BlockOp) {
        for range in op.ranges() {
            assert!(
                range.len > 0
                    && range.offset % 512 == 0
                    && range.len % 512 == 0
                    && range.end() <= self.lu.capacity_bytes()
            );
        }
        assert_eq!(self.lu.admit(op), Ok(()));
    }
}

fuzz_target!(|data: &[u8]| {
    let mut input = Unstructured::new(data);
    let bed = Bed::new(input.arbitrary().unwrap_or(0));
    while !input.is_empty() {
        let mut cdb = [0; 16];
        let (shape, row): (u8, u8) = (input.arbitrary().unwrap_or(0), input.arbitrary().unwrap_or(0));
        let _ = input.fill_buffer(&mut cdb);
        if shape & 1 == 0 {
            // One that is in the table, with nothing but what may be set.
            let row = &commands()[usize::from(row) % commands().len()];
            cdb[0] = row.opcode();
            for (byte, usage) in cdb.iter_mut().zip(row.usage).skip(1) {
                *byte &= usage;
            }
            if row.has_service_action {
                cdb[1] = cdb[1] & !0x1f | row.service_action_code();
            }
        }
        let available = u64::from(input.arbitrary::<u32>().unwrap_or(0)) >> (shape >> 3);
        let len = usize::from(input.arbitrary::<u8>().unwrap_or(0)) * usize::from(1 + (shape >> 1 & 3));
        let data_out = input.bytes(len.min(input.len())).unwrap_or(&[]);
        bed.command(&cdb, available, data_out);
    }
});

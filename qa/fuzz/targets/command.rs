//! One command after the other, of several initiators, at one logical unit: CDB, lengths and data-out as the input has them. Reservations are
//! carried out.

#![no_main]

use arbitrary::Unstructured;
use libfuzzer_sys::fuzz_target;
use lusd_scsi::{
    Access, AccessState, After, BlockOp, BlockSize, Context, Decision, Identity, InitiatorPort, LogicalUnit,
    LogicalUnitConfig, Lun, MAX_TRANSFER_BYTES, Nexus, NexusLu, Operation, Plan, PortGroup, PortGroups,
    Reservations, ReserveRequest, Room, SenseFormat, SessionView, Step, TargetPort, TaskManagementFunctions,
    Unit, UnitAttention, commands, plan,
};

fn name(who: u8) -> Nexus {
    let initiator = InitiatorPort { name: "iqn.2026-11.io.lus:host".into(), isid: [0, 2, 0x3d, 0, 0, who] };
    Nexus { initiator, target_port: 1 }
}

fn nexus(lu: &LogicalUnit, who: u8, first: Option<UnitAttention>) -> NexusLu {
    NexusLu::new(lu, name(who), first)
}

/// Initiator ports that see the logical unit.
const NEXUSES: u8 = 3;

/// One logical unit, LUN 0 of the sessions of several initiators.
struct Bed {
    lu: LogicalUnit,
    nexuses: Vec<NexusLu>,
    port: TargetPort,
}

/// What one of them sees.
struct Session<'a>(&'a NexusLu);

impl SessionView for Session<'_> {
    fn visit(&self, each: &mut dyn FnMut(Lun, Option<&NexusLu>)) {
        each(Lun::ZERO, Some(self.0));
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
        config.soft_threshold_percent = (kind & 32 == 0).then_some(20);
        let lu = LogicalUnit::new(config, AccessState::Serving).expect("a good configuration");
        let groups = [PortGroup { tag: 1, up: true }, PortGroup { tag: 2, up: false }];
        lu.set_port_groups(PortGroups::new(groups.into(), 1, Some(1)));
        let first = (kind & 16 == 16).then_some(UnitAttention::PowerOn);
        let nexuses = (0..NEXUSES).map(|who| nexus(&lu, who, first)).collect();
        let port = TargetPort {
            target_name: "iqn.2026-11.io.lus:disk".into(),
            portal_group_tag: 1,
            relative_target_port: 1,
            target_port_group: 1,
            task_management: TaskManagementFunctions::RFC_7143,
        };
        Self { lu, nexuses, port }
    }

    fn unit(&self, who: usize) -> Unit<'_> {
        Unit { lu: &self.lu, nexus: &self.nexuses[who] }
    }

    fn command(&self, who: usize, cdb: &[u8], available: u64, data_out: &[u8]) {
        let session = Session(&self.nexuses[who]);
        for unit in [Some(self.unit(who)), None] {
            let context = Context { lun: Some(Lun::ZERO), port: &self.port, session: &session };
            match plan(cdb, &context, unit) {
                Ok(plan) => self.carry_out(who, plan, available, data_out),
                Err(check) => {
                    let _ = (check.sense(SenseFormat::Fixed), check.sense(SenseFormat::Descriptor));
                }
            }
        }
    }

    /// Something that befalls the logical unit, or that another session does.
    fn happening(&mut self, what: u8) {
        let which = usize::from(what >> 4);
        match what & 15 {
            // A session ends, and another one begins in its place.
            0..4 => {
                let who = which % self.nexuses.len();
                self.nexuses.remove(who);
                self.nexuses.insert(who, nexus(&self.lu, who as u8, Some(UnitAttention::NexusLoss)));
            }
            4 => self.lu.reset(UnitAttention::DeviceReset, None),
            // It is handed over and comes back, with what is on record.
            5 => {
                self.lu.set_access(AccessState::Standby);
                self.lu.forget_reserve();
                let reservations = (*self.lu.reservations()).clone();
                self.lu.adopt(if which & 1 == 0 { reservations } else { Reservations::default() });
            }
            6 | 7 => self.lu.set_access(AccessState::Serving),
            8 => self.lu.set_operation(Operation::SanitizeFailed { may_exit: which & 1 == 0 }),
            9 => self.lu.set_operation(Operation::Formatting(which as u16)),
            10 => self.lu.set_operation(Operation::None),
            11 => {
                self.lu.set_capacity_bytes((1 << 20) << which);
            }
            12 => {
                let which = which as u64;
                self.lu.set_room(Room { available_bytes: which << 30, used_bytes: (15 - which) << 30 });
            }
            _ => {}
        }
    }

    /// As the daemon does where nothing is kept beyond it.
    fn reserve(&self, who: usize, request: &ReserveRequest) {
        let (before, handle) = (self.lu.reservations(), self.nexuses[who].handle());
        match self.lu.decide(&handle, request) {
            Decision::Answer(_) => return,
            Decision::Persist(change) => {
                assert!(change.next.is_sound(), "{:?} after {before:?}", change.next);
                assert!(change.next.generation.wrapping_sub(before.generation) <= 1);
                self.lu.publish(change);
            }
            Decision::Hold => drop(self.lu.hold(&handle, handle.aborts())),
            Decision::LetGo => self.lu.let_go(&handle),
        }
        // Whoever holds it is left everything.
        let now = self.lu.reservations();
        for (at, nexus) in self.nexuses.iter().enumerate() {
            let registration = now.registration(&name(at as u8));
            if now.kind.is_some() && registration.is_some_and(|registration| now.holds(registration)) {
                assert_eq!(nexus.access(), Access::Free, "{now:?}");
            }
        }
    }

    fn carry_out(&self, who: usize, mut plan: Plan, available: u64, data_out: &[u8]) {
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
                match parameters.finish(self.unit(who), data_out) {
                    Ok(After::Block(op)) => self.look_at(&op),
                    Ok(After::Reserve(request)) => self.reserve(who, &request),
                    _ => {}
                }
            }
            Step::Reserve(request) => self.reserve(who, &request),
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
    let mut bed = Bed::new(input.arbitrary().unwrap_or(0));
    while !input.is_empty() {
        let who: u8 = input.arbitrary().unwrap_or(0);
        if who >= 0xe0 {
            bed.happening(input.arbitrary().unwrap_or(0));
            continue;
        }
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
        bed.command(usize::from(who % NEXUSES), &cdb, available, data_out);
    }
});

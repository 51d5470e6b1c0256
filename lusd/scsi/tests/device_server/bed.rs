//! A logical unit, a nexus and a port to test with, and short ways to say what is expected.

use std::sync::atomic::{AtomicU8, Ordering};

use lusd_scsi::*;

/// Blocks of the logical unit on the bench: not a whole number of objects.
pub(crate) const BLOCKS: u64 = 100_000;

pub(crate) const ID: [u8; 16] =
    [0x6b, 0xa7, 0xb8, 0x10, 0x9d, 0xad, 0x41, 0xd1, 0x80, 0xb4, 0x00, 0xc0, 0x4f, 0xd4, 0x30, 0xc8];

pub(crate) struct Bed {
    pub(crate) lu: LogicalUnit,
    pub(crate) nexus: NexusLu,
    pub(crate) port: TargetPort,
}

/// The session sees LUNs 0, 3 and 300; the nexus is the one of all of them.
impl SessionView for Bed {
    fn visit(&self, each: &mut dyn FnMut(Lun, Option<&NexusLu>)) {
        for number in [0, 3, 300] {
            each(Lun::new(number).unwrap(), Some(&self.nexus));
        }
    }
}

pub(crate) fn config() -> LogicalUnitConfig {
    LogicalUnitConfig {
        soft_threshold_percent: Some(20),
        ..LogicalUnitConfig::new(Identity::new(ID), BLOCKS * 512)
    }
}

pub(crate) fn port() -> TargetPort {
    TargetPort {
        target_name: "iqn.2026-11.io.lus:demo".into(),
        portal_group_tag: 0x0102,
        relative_target_port: TAGS[0],
        target_port_group: TAGS[0],
        task_management: TaskManagementFunctions::RFC_7143,
    }
}

/// A nexus of its own: the same initiator with another ISID each time, and none of [`initiator`].
pub(crate) fn nexus() -> Nexus {
    static NEXT: AtomicU8 = AtomicU8::new(0);
    let mut initiator = initiator(NEXT.fetch_add(1, Ordering::Relaxed));
    initiator.isid[4] = 1;
    Nexus { initiator, target_port: TAGS[0] }
}

pub(crate) fn initiator(isid: u8) -> InitiatorPort {
    InitiatorPort { name: "iqn.2026-11.example:host".into(), isid: [0, 2, 0x3d, 0, 0, isid] }
}

/// The tags of three daemons, in the order in which they are reported.
pub(crate) const TAGS: [u16; 3] = [9, 0x0102, 0xffff];

/// All of them up.
pub(crate) fn port_groups(own: u16, owner: Option<u16>) -> PortGroups {
    PortGroups::new(TAGS.map(|tag| PortGroup { tag, up: true }).into(), own, owner)
}

impl Bed {
    /// Served, three target port groups, nothing pending.
    pub(crate) fn new() -> Bed {
        Bed::with(config())
    }

    pub(crate) fn with(config: LogicalUnitConfig) -> Bed {
        let lu = LogicalUnit::new(config, AccessState::Serving).unwrap();
        if lu.is_thin() {
            lu.set_port_groups(port_groups(TAGS[0], Some(TAGS[0])));
        }
        let nexus = NexusLu::new(&lu, nexus(), None);
        let bed = Bed { lu, nexus, port: port() };
        bed.copy_nothing();
        bed
    }

    /// A copy with the list identifier 0 that has ended, for RECEIVE COPY RESULTS to tell of.
    fn copy_nothing(&self) {
        let mut cdb = [0; 16];
        (cdb[0], cdb[13]) = (0x83, 16);
        match self.finish(&cdb, &[0; 16]) {
            Ok(After::Copy(copy)) => copy.record.end(Ok(())),
            other => panic!("{other:?} is no copy"),
        }
    }

    /// Neither thin provisioned nor asymmetric.
    pub(crate) fn thick() -> Bed {
        Bed::with(LogicalUnitConfig { thin: false, ..config() })
    }

    pub(crate) fn b4096() -> Bed {
        Bed::with(LogicalUnitConfig { block_size: BlockSize::B4096, physical_block_exponent: 0, ..config() })
    }

    pub(crate) fn unit(&self) -> Unit<'_> {
        Unit { lu: &self.lu, nexus: &self.nexus }
    }

    pub(crate) fn context(&self, lun: Option<Lun>) -> Context<'_> {
        Context { lun, port: &self.port, session: self }
    }

    pub(crate) fn plan(&self, cdb: &[u8]) -> Result<Plan, CheckCondition> {
        plan(cdb, &self.context(Some(Lun::ZERO)), Some(self.unit()))
    }

    /// To a LUN without a logical unit.
    pub(crate) fn plan_absent(&self, lun: Option<Lun>, cdb: &[u8]) -> Result<Plan, CheckCondition> {
        plan(cdb, &self.context(lun), None)
    }

    /// Data-in of a command that must end with GOOD.
    pub(crate) fn data(&self, cdb: &[u8]) -> Vec<u8> {
        data(self.plan(cdb).unwrap())
    }

    /// The operation of a command that must ask the backend; with the bytes it moves out and in.
    pub(crate) fn op(&self, cdb: &[u8]) -> (BlockOp, u64, u64) {
        let Plan { transfer_out, transfer_in, step, .. } = self.plan(cdb).unwrap();
        match step {
            Step::Block(op) => (op, transfer_out, transfer_in),
            other => panic!("{other:?} is no block operation"),
        }
    }

    /// Plans, and finishes with `data_out`, which must be what the plan wants.
    pub(crate) fn finish(&self, cdb: &[u8], data_out: &[u8]) -> Result<After, CheckCondition> {
        let plan = self.plan(cdb)?;
        assert_eq!(plan.transfer_out, data_out.len() as u64);
        match plan.step {
            Step::Parameters(parameters) => parameters.finish(self.unit(), data_out),
            Step::Reply(data) if data.is_empty() => Ok(After::Done),
            other => panic!("{other:?} takes no parameters"),
        }
    }

    pub(crate) fn error(&self, cdb: &[u8]) -> CheckCondition {
        self.plan(cdb).unwrap_err()
    }
}

pub(crate) fn data(plan: Plan) -> Vec<u8> {
    match plan.step {
        Step::Reply(data) => {
            assert_eq!((plan.transfer_out, plan.transfer_in), (0, data.len() as u64));
            data.to_vec()
        }
        other => panic!("{other:?} is no reply"),
    }
}

pub(crate) fn in_cdb(byte: u16, bit: impl Into<Option<u8>>) -> CheckCondition {
    CheckCondition::invalid_field(byte, bit.into())
}

pub(crate) fn in_list(byte: u16, bit: impl Into<Option<u8>>) -> CheckCondition {
    CheckCondition::invalid_parameter(byte, bit.into())
}

pub(crate) fn fault(fault: Fault) -> CheckCondition {
    fault.into()
}

/// A 6 byte CDB.
pub(crate) fn cdb6(opcode: u8, lba: u32, blocks: u8) -> [u8; 16] {
    let mut cdb = [0; 16];
    cdb[..4].copy_from_slice(&lba.to_be_bytes());
    cdb[0] = opcode;
    cdb[4] = blocks;
    cdb
}

/// A 10 byte CDB: LBA at 2, length at 7.
pub(crate) fn cdb10(opcode: u8, flags: u8, lba: u32, blocks: u16) -> [u8; 16] {
    let mut cdb = [0; 16];
    (cdb[0], cdb[1]) = (opcode, flags);
    cdb[2..6].copy_from_slice(&lba.to_be_bytes());
    cdb[7..9].copy_from_slice(&blocks.to_be_bytes());
    cdb
}

/// A 12 byte CDB: LBA at 2, length at 6.
pub(crate) fn cdb12(opcode: u8, flags: u8, lba: u32, blocks: u32) -> [u8; 16] {
    let mut cdb = [0; 16];
    (cdb[0], cdb[1]) = (opcode, flags);
    cdb[2..6].copy_from_slice(&lba.to_be_bytes());
    cdb[6..10].copy_from_slice(&blocks.to_be_bytes());
    cdb
}

/// A 16 byte CDB: LBA at 2, length at 10.
pub(crate) fn cdb16(opcode: u8, flags: u8, lba: u64, blocks: u32) -> [u8; 16] {
    let mut cdb = [0; 16];
    (cdb[0], cdb[1]) = (opcode, flags);
    cdb[2..10].copy_from_slice(&lba.to_be_bytes());
    cdb[10..14].copy_from_slice(&blocks.to_be_bytes());
    cdb
}

/// INQUIRY for a VPD page.
pub(crate) fn vpd(page: u8) -> [u8; 16] {
    cdb_inquiry(1, page, 0xffff)
}

pub(crate) fn cdb_inquiry(evpd: u8, page: u8, allocation_length: u16) -> [u8; 16] {
    let [high, low] = allocation_length.to_be_bytes();
    let mut cdb = [0; 16];
    cdb[..5].copy_from_slice(&[0x12, evpd, page, high, low]);
    cdb
}

//! A logical unit: identity, geometry, limits, and the few facts that change while hosts use it.
//!
//! Reads and writes look at atomics only. What sits behind a lock (identity, the order of MODE SELECTs) is for
//! INQUIRY and for changes.

mod access;
mod identity;
mod limits;
mod operation;
mod reserved;
mod room;

use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};

pub use self::access::AccessState;
use self::access::TRANSITION;
pub use self::identity::{Identity, IdentityError, Naa, SERIAL_BYTES_MAX};
pub use self::limits::{Limits, MAX_TRANSFER_BYTES};
pub(crate) use self::limits::{UNMAP_DESCRIPTOR_BYTES, UNMAP_HEADER_BYTES};
pub use self::operation::Operation;
use self::operation::{FORMAT_UNIT, OperationCell, SANITIZE};
pub use self::room::Room;
use self::room::RoomCell;
pub(crate) use self::room::{THRESHOLD_RANGE_TENTHS, threshold_exponent};
use crate::alua::{PortGroupState, PortGroups, Shown};
use crate::attention::{AttentionLog, UnitAttention};
use crate::block::{BlockOp, EraseKind};
use crate::nexus::NexusLu;
use crate::reservation::Book;
use crate::sense::{CheckCondition, Fault, SenseFormat};

/// LOGICAL BLOCK LENGTH.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum BlockSize {
    /// 512 bytes.
    B512,
    /// 4096 bytes.
    B4096,
}

impl BlockSize {
    /// `None` for a size that is not offered.
    pub const fn from_bytes(bytes: u32) -> Option<BlockSize> {
        match bytes {
            512 => Some(BlockSize::B512),
            4096 => Some(BlockSize::B4096),
            _ => None,
        }
    }

    /// Base 2 logarithm of the size in bytes.
    pub const fn shift(self) -> u32 {
        match self {
            BlockSize::B512 => 9,
            BlockSize::B4096 => 12,
        }
    }

    /// Size in bytes.
    pub const fn bytes(self) -> u64 {
        1 << self.shift()
    }
}

/// What a logical unit is made from.
#[derive(Clone, Debug)]
pub struct LogicalUnitConfig {
    /// What INQUIRY says.
    pub identity: Identity,
    /// Logical block length.
    pub block_size: BlockSize,
    /// LOGICAL BLOCKS PER PHYSICAL BLOCK EXPONENT, 0 to 15.
    pub physical_block_exponent: u8,
    /// Size in bytes; a last part that fills no whole block is not offered.
    pub capacity_bytes: u64,
    /// Refuse whatever modifies the medium.
    pub read_only: bool,
    /// Thin provisioned: UNMAP and WRITE SAME give space back, and such blocks read as zeroes.
    pub thin: bool,
    /// Of a thin one over storage whose room is told by [`LogicalUnit::set_room`]: the percentage of it that is available when hosts
    /// are told that little is left, 0 for never. `None`: nothing is known of its room, and it has no thresholds.
    pub soft_threshold_percent: Option<u8>,
    /// A volatile write cache lies below (WCE=1): writes are durable after a flush only.
    pub write_cache: bool,
    /// Bounds.
    pub limits: Limits,
}

impl LogicalUnitConfig {
    /// A writable, thin logical unit of 512 byte blocks in 4 KiB physical blocks, without a write cache.
    pub fn new(identity: Identity, capacity_bytes: u64) -> LogicalUnitConfig {
        LogicalUnitConfig {
            identity,
            block_size: BlockSize::B512,
            physical_block_exponent: 3,
            capacity_bytes,
            read_only: false,
            thin: true,
            soft_threshold_percent: None,
            write_cache: false,
            limits: Limits::default(),
        }
    }
}

/// Why a logical unit cannot be made.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LogicalUnitError {
    /// LOGICAL BLOCKS PER PHYSICAL BLOCK EXPONENT has four bits.
    #[error("physical block exponent {0} is above 15")]
    PhysicalBlockExponent(u8),
    /// A percentage.
    #[error("soft threshold of {0} percent")]
    SoftThreshold(u8),
    /// A limit is zero, no whole number of blocks, or more than its field on the wire holds.
    #[error("a limit is zero, not a whole number of blocks, or too large: {0:?}")]
    Limits(Limits),
}

/// A logical unit; shared by all sessions and shards.
#[derive(Debug)]
pub struct LogicalUnit {
    identity: RwLock<Arc<Identity>>,
    /// What hosts are told of target port groups; `access` is written under its lock.
    shown: RwLock<Shown>,
    block_size: BlockSize,
    physical_block_exponent: u8,
    thin: bool,
    room: Option<RoomCell>,
    write_cache: bool,
    limits: Limits,
    /// Whole blocks only.
    capacity_bytes: AtomicU64,
    access: AtomicU8,
    operation: OperationCell,
    read_only: AtomicBool,
    /// SWP of the Control mode page.
    software_write_protect: AtomicBool,
    /// D_SENSE of the Control mode page.
    descriptor_sense: AtomicBool,
    /// TAS of the Control mode page.
    task_aborted_status: AtomicBool,
    /// Held while a MODE SELECT is checked and applied, so that two of them do not mix.
    mode_select: Mutex<()>,
    pub(crate) attentions: AttentionLog,
    pub(crate) book: Arc<Book>,
}

impl LogicalUnit {
    /// Starts in `access`; the daemon changes that as it opens and loses the logical unit.
    pub fn new(config: LogicalUnitConfig, access: AccessState) -> Result<LogicalUnit, LogicalUnitError> {
        const EXPONENT_MAX: u8 = 15;
        if config.physical_block_exponent > EXPONENT_MAX {
            return Err(LogicalUnitError::PhysicalBlockExponent(config.physical_block_exponent));
        }
        if let Some(percent) = config.soft_threshold_percent.filter(|percent| *percent > 100) {
            return Err(LogicalUnitError::SoftThreshold(percent));
        }
        if !config.limits.fits(config.block_size.bytes()) {
            return Err(LogicalUnitError::Limits(config.limits));
        }
        Ok(LogicalUnit {
            identity: RwLock::new(Arc::new(config.identity)),
            shown: RwLock::new(Shown { groups: PortGroups::default(), access }),
            block_size: config.block_size,
            physical_block_exponent: config.physical_block_exponent,
            thin: config.thin,
            room: config.soft_threshold_percent.filter(|_| config.thin).map(RoomCell::new),
            write_cache: config.write_cache,
            limits: config.limits,
            capacity_bytes: AtomicU64::new(whole_blocks(config.capacity_bytes, config.block_size)),
            access: AtomicU8::new(access as u8),
            operation: OperationCell::default(),
            read_only: AtomicBool::new(config.read_only),
            software_write_protect: AtomicBool::new(false),
            descriptor_sense: AtomicBool::new(false),
            task_aborted_status: AtomicBool::new(false),
            mode_select: Mutex::new(()),
            attentions: AttentionLog::default(),
            book: Arc::default(),
        })
    }

    /// What INQUIRY says.
    pub fn identity(&self) -> Arc<Identity> {
        self.identity.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Changes what INQUIRY says; a difference is told to every nexus.
    pub fn set_identity(&self, identity: Identity) {
        {
            let mut current = self.identity.write().unwrap_or_else(PoisonError::into_inner);
            if **current == identity {
                return;
            }
            *current = Arc::new(identity);
        }
        self.raise(UnitAttention::InquiryDataHasChanged, None);
    }

    /// Logical block length.
    pub fn block_size(&self) -> BlockSize {
        self.block_size
    }

    /// LOGICAL BLOCKS PER PHYSICAL BLOCK EXPONENT.
    pub fn physical_block_exponent(&self) -> u8 {
        self.physical_block_exponent
    }

    /// Whether UNMAP is offered.
    pub fn is_thin(&self) -> bool {
        self.thin
    }

    /// The available percentage of its room at which hosts are told, 0 for never; `None` if it has no thresholds.
    pub fn soft_threshold_percent(&self) -> Option<u8> {
        self.room.as_ref().map(RoomCell::threshold_percent)
    }

    /// The room below it, where that is known.
    pub fn room(&self) -> Option<Room> {
        self.room.as_ref().and_then(RoomCell::room)
    }

    /// Takes over how much room there is now. Whether so little is left that every nexus is told: once, until there was more. Without
    /// effect where there are no thresholds.
    pub fn set_room(&self, room: Room) -> bool {
        let reached = self.room.as_ref().is_some_and(|cell| cell.set(room));
        if reached {
            self.raise(UnitAttention::ThinProvisioningSoftThresholdReached, None);
        }
        reached
    }

    /// Whether a volatile write cache lies below.
    pub fn has_write_cache(&self) -> bool {
        self.write_cache
    }

    /// Bounds.
    pub fn limits(&self) -> &Limits {
        &self.limits
    }

    /// MAXIMUM COMPARE AND WRITE LENGTH: as many blocks as its field of one byte holds, but no more than one object.
    pub fn compare_and_write_bytes_max(&self) -> u64 {
        (u64::from(u8::MAX) << self.block_size.shift())
            .min(self.limits.object_bytes)
            .min(self.limits.transfer_bytes_max / 2)
    }

    /// MAXIMUM ATOMIC TRANSFER LENGTH: one object, as far as one command moves that much, and as its TRANSFER LENGTH holds.
    pub fn atomic_bytes_max(&self) -> u64 {
        let field = u64::from(u16::MAX) << self.block_size.shift();
        self.limits.object_bytes.min(self.limits.transfer_bytes_max).min(field)
    }

    /// Size in bytes, whole blocks.
    pub fn capacity_bytes(&self) -> u64 {
        self.capacity_bytes.load(Ordering::Acquire)
    }

    /// Size in logical blocks.
    pub fn blocks(&self) -> u64 {
        self.capacity_bytes() >> self.block_size.shift()
    }

    /// Takes a new size over while hosts go on; a difference, which it says there is, is told to every nexus.
    pub fn set_capacity_bytes(&self, capacity_bytes: u64) -> bool {
        let capacity_bytes = whole_blocks(capacity_bytes, self.block_size);
        let differs = self.capacity_bytes.swap(capacity_bytes, Ordering::AcqRel) != capacity_bytes;
        if differs {
            self.raise(UnitAttention::CapacityDataHasChanged, None);
        }
        differs
    }

    /// Whether commands run here.
    pub fn access(&self) -> AccessState {
        AccessState::from_discriminant(self.access.load(Ordering::Acquire))
    }

    /// Opens or shuts the logical unit for commands that are planned from now on. Those already under way are the
    /// business of the daemon's gate, and of [`LogicalUnit::displaced`]. A difference in the state of a target port group is told
    /// to every nexus.
    pub fn set_access(&self, access: AccessState) {
        self.show(|shown| {
            shown.access = access;
            self.access.store(access as u8, Ordering::Release);
        });
    }

    /// What it is busy with as a whole, or has not come through.
    #[inline]
    pub fn operation(&self) -> Operation {
        self.operation.get()
    }

    /// Notes progress, end or failure of an operation, and what is known of one when the logical unit begins to be served.
    pub fn set_operation(&self, operation: Operation) {
        self.operation.set(operation);
    }

    /// Begins an operation on the whole medium.
    ///
    /// # Errors
    /// Another one is under way: what a command is told that meets it.
    pub fn begin_operation(&self, operation: Operation) -> Result<(), CheckCondition> {
        self.operation.begin(operation).map_err(|other| other.check().unwrap_or(Fault::Aborted.into()))
    }

    /// Err where the command with this operation code cannot run for an operation on the whole medium.
    #[inline]
    pub(crate) fn check_operation(&self, opcode: u8) -> Result<(), CheckCondition> {
        let operation = self.operation();
        match operation.check() {
            Some(check) if !operation.is_put_right_by(opcode) => Err(check),
            _ => Ok(()),
        }
    }

    /// The target port groups as the map has them now; without any the logical unit is not asymmetric. What REPORT TARGET PORT
    /// GROUPS says follows from these and the access state alone; a difference is told to every nexus. No lock of the path of a read
    /// or write.
    pub fn set_port_groups(&self, groups: PortGroups) {
        self.show(|shown| shown.groups = groups);
    }

    fn show(&self, change: impl FnOnce(&mut Shown)) {
        let mut shown = self.shown.write().unwrap_or_else(PoisonError::into_inner);
        let before = shown.clone();
        change(&mut shown);
        if before.groups.is_empty() != shown.groups.is_empty() {
            self.raise(UnitAttention::InquiryDataHasChanged, None); // TPGS
        }
        if !before.looks_like(&shown) {
            self.raise(UnitAttention::AsymmetricAccessStateChanged, None);
        }
    }

    /// Whether there are target port groups.
    pub fn is_asymmetric(&self) -> bool {
        !self.shown.read().unwrap_or_else(PoisonError::into_inner).groups.is_empty()
    }

    /// Calls `each` for every target port group, in the order in which they are reported.
    pub fn each_port_group(&self, mut each: impl FnMut(u16, PortGroupState)) {
        let shown = self.shown.read().unwrap_or_else(PoisonError::into_inner);
        shown.states().for_each(|(tag, state)| each(tag, state));
    }

    /// What a command is told that was planned while the logical unit was served here, waited (for its data, for memory, at the
    /// gate), and finds it served no more; nothing of it was done. ASYMMETRIC ACCESS STATE CHANGED, once, where `nexus` has not been
    /// told of that yet; else why, which for a logical unit that moves is ASYMMETRIC ACCESS STATE TRANSITION: hosts ask for the
    /// states then, and try again on the new path. STANDBY would make them give this path up.
    pub fn displaced(&self, nexus: Option<&NexusLu>) -> CheckCondition {
        let told = nexus
            .and_then(|nexus| nexus.take_only(&self.attentions, UnitAttention::AsymmetricAccessStateChanged));
        told.unwrap_or_else(|| {
            CheckCondition::new(match self.access() {
                AccessState::Serving | AccessState::Standby => TRANSITION,
                other => other.code().unwrap_or(TRANSITION),
            })
        })
    }

    /// Whether the medium is protected against writes, by configuration or by SWP.
    pub fn is_write_protected(&self) -> bool {
        self.read_only.load(Ordering::Acquire) || self.software_write_protect()
    }

    /// Changes the configured protection; a difference is told to every nexus (WP is a mode parameter).
    pub fn set_read_only(&self, read_only: bool) {
        if self.read_only.swap(read_only, Ordering::AcqRel) != read_only {
            self.raise(UnitAttention::ModeParametersChanged, None);
        }
    }

    /// The format in which sense data of this logical unit is sent.
    pub fn sense_format(&self) -> SenseFormat {
        if self.descriptor_sense.load(Ordering::Acquire) {
            SenseFormat::Descriptor
        } else {
            SenseFormat::Fixed
        }
    }

    /// Makes a unit attention pending for every nexus but `except`. REPORTED LUNS DATA HAS CHANGED belongs to a
    /// session, not to a logical unit: use [`NexusLu::establish`] for it.
    pub fn raise(&self, attention: UnitAttention, except: Option<&NexusLu>) {
        assert_ne!(attention, UnitAttention::ReportedLunsDataHasChanged, "belongs to a session");
        self.attentions.raise(attention, except.map(NexusLu::told));
    }

    /// The effects of a logical unit reset that are not about commands (SAM-5 6.3.3): mode parameters go back to
    /// their defaults, a reservation by RESERVE ends (persistent ones stay), and every nexus but `except` is told by `attention` ([`UnitAttention::DeviceReset`] after
    /// LOGICAL UNIT RESET, [`UnitAttention::BusReset`] after a target reset).
    pub fn reset(&self, attention: UnitAttention, except: Option<&NexusLu>) {
        {
            let _turn = self.mode_select_turn();
            self.set_software_write_protect(false);
            self.set_descriptor_sense(false);
            self.set_task_aborted_status(false);
        }
        self.book.end_spc2(false);
        self.raise(attention, except);
    }

    /// Looks again at what may have changed since `op` was planned (its data may have taken long to arrive): the
    /// access state, the write protection, the capacity. Two or three loads. To be called before an operation is
    /// handed to the backend: librbd clips writes past the end silently.
    #[inline]
    pub fn admit(&self, op: &BlockOp) -> Result<(), CheckCondition> {
        self.access().check()?;
        self.check_operation(match op {
            BlockOp::Erase(erasure) if erasure.kind == EraseKind::Format => FORMAT_UNIT,
            BlockOp::Erase(_) => SANITIZE,
            _ => 0,
        })?;
        if op.modifies() {
            self.check_writable()?;
        }
        let capacity_bytes = self.capacity_bytes();
        if op.end() > capacity_bytes {
            return Err(CheckCondition::lba_out_of_range(capacity_bytes >> self.block_size.shift()));
        }
        Ok(())
    }

    #[inline]
    pub(crate) fn check_writable(&self) -> Result<(), CheckCondition> {
        if self.read_only.load(Ordering::Acquire) {
            return Err(Fault::WriteProtected.into());
        }
        if self.software_write_protect() {
            return Err(Fault::SoftwareWriteProtected.into());
        }
        Ok(())
    }

    pub(crate) fn software_write_protect(&self) -> bool {
        self.software_write_protect.load(Ordering::Acquire)
    }

    pub(crate) fn set_software_write_protect(&self, on: bool) {
        self.software_write_protect.store(on, Ordering::Release);
    }

    pub(crate) fn set_descriptor_sense(&self, on: bool) {
        self.descriptor_sense.store(on, Ordering::Release);
    }

    /// Whether a task that another nexus ends is answered, with TASK ABORTED, rather than left unanswered (TAS, SPC-4). Where it is,
    /// COMMANDS CLEARED BY ANOTHER INITIATOR is not raised (SAM-5 5.6). A reset sets it back: to be asked before
    /// [`LogicalUnit::reset`].
    pub fn task_aborted_status(&self) -> bool {
        self.task_aborted_status.load(Ordering::Acquire)
    }

    pub(crate) fn set_task_aborted_status(&self, on: bool) {
        self.task_aborted_status.store(on, Ordering::Release);
    }

    /// Mode parameters change only while this is held.
    pub(crate) fn mode_select_turn(&self) -> MutexGuard<'_, ()> {
        self.mode_select.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn whole_blocks(bytes: u64, block_size: BlockSize) -> u64 {
    bytes >> block_size.shift() << block_size.shift()
}

//! `lus lu ...`: logical units.
//!
//! Invariants:
//! - An image that this command created is in the map when it succeeds, and gone when it fails; only where the outcome of the
//!   map's change is unknown it stays, and the error says so.
//! - An image is removed after the map has let go of it, never before.
//! - Data of an image goes only with `--yes-i-really-mean-it`.

mod access;
mod caps;
mod create;
pub(crate) mod facts;
mod image;
mod info;
mod place;
mod reservation;
mod resize;
mod rm;
pub(crate) mod state;
mod step;
mod takeover;

use clap::builder::{PossibleValuesParser, TypedValueParser};
use clap::{Args, Subcommand};
use lus_map::change::lu::AddLu;
use lus_map::{Backend, BlockSize, DaemonId, LuId, LuName, PhysicalBlockSize, Refusal, Wwn};
use uuid::Uuid;

use crate::args::{Really, daemon_id};
use crate::error::{Failure, Result};
use crate::output::Reply;
use crate::session::Session;
use crate::size::Size;

const CREATE_EXAMPLES: &str = "\
Examples:
    lus lu create rbd/web1 10G
    lus lu create rbd/team-a/web1 10G --block-size 4096
    lus lu create ram:scratch 1G

SIZE is read as rbd reads it: 512M, 10G, 1T; a bare number counts MiB. The image is made with the pool's default features and \
exclusive-lock. ram:NAME keeps its blocks in its owner's memory and loses them when that ends or it moves, null:NAME \
keeps nothing: both exist to measure and test.

To offer an image that exists: lus lu add.";

const ADD_EXAMPLES: &str = "\
Examples:
    lus lu add rbd/web1
    lus lu add rbd/web1 --wwn 600144f0a1b2c3d4e5f60718293a4b5c --serial 0a1b2c3d

--wwn, --serial, --vendor and --product keep a disk's identity when it moves here from another array, so that hosts take it for \
the same disk. The image needs the feature exclusive-lock.";

const UNRESERVE_EXAMPLES: &str = "\
Examples:
    lus lu unreserve rbd/web1                           says what there is
    lus lu unreserve rbd/web1 --yes-i-really-mean-it

Takes away the persistent reservation of a unit and all registrations: for a host that died with them and is not there to release \
them. Whoever relied on the reservation is not protected any more: stop such hosts first. The daemon that serves the unit \
notices within 10 s, and tells the hosts.";

const RESIZE_EXAMPLES: &str = "\
Examples:
    lus lu resize rbd/web1 20G

Hosts are told, and see the new size after a rescan. A smaller size cuts data off and asks for --yes-i-really-mean-it.";

const ACCESS_EXAMPLES: &str = "\
Examples:
    lus lu access rbd/golden read-only
    lus lu access rbd/golden read-write

Hosts are told (MODE PARAMETERS CHANGED), and see a write-protected disk after a rescan: their writes end with DATA PROTECT. What was \
under way when the command was given may still be written.";

const RM_EXAMPLES: &str = "\
Examples:
    lus lu rm rbd/web1 --keep-image
    lus lu rm rbd/web1 --yes-i-really-mean-it

Removes the image and its data too, unless --keep-image says otherwise. While the unit is mapped it is refused; with \
--yes-i-really-mean-it the unit is taken from its hosts first.";

const LS_EXAMPLES: &str = "\
OWNER is the daemon that is to serve it. STATE is

    serving    by its owner
    opening    its owner is opening it, or waits for its lock
    moving     from the daemon that still serves it to its owner
    takeover   its last daemon is gone, and its owner is taking it over
    released   by the last owner, and not taken yet
    new        not served yet
    lost       its owner lost it, and has not taken it again yet
    down       its owner is not up
    unplaced   no daemon is there to own it";

const INFO_EXAMPLES: &str = "\
Examples:
    lus lu info rbd/web1
    lus lu info rbd/web1 -f json-pretty

`owner` is the daemon that is to serve it, by the map; `record` says who holds it, in which epoch, through which RADOS client; \
`lock` who has the lock of its image; `step`, while it is not served by its owner, what is to happen next.";

const MOVE_EXAMPLES: &str = "\
Examples:
    lus lu move rbd/web1 b

Its owner ends what is in flight and lets go, then lus.b serves it; hosts with a path to lus.b see no error. It stays there while \
that daemon is up and in: to have it come back there whenever that may be, lus lu pin. The command returns when the map says so; lus \
lu info and lus events show how the move goes on.

A unit ram:NAME loses its data and asks for --yes-i-really-mean-it.";

const PIN_EXAMPLES: &str = "\
Examples:
    lus lu pin rbd/web1 b
    lus lu pin rbd/web1      where it is

It moves to that daemon at once, if that is up and in, and comes back to it by itself when it was away: after a failover, \
or a drain. A unit ram:NAME loses its data when it moves: it asks for --yes-i-really-mean-it, and does not come back by itself while \
its owner is up.";

const TAKEOVER_EXAMPLES: &str = "\
Examples:
    lus lu takeover rbd/web1                            says who holds its lock
    lus lu takeover rbd/web1 --yes-i-really-mean-it

For an image whose lock a client outside of LUS holds: a virtual machine, rbd map, rbd-nbd, another gateway. The daemons never \
break such a lock by themselves. That client is put on the blocklist for good and must be started anew; what it did not write \
is lost. The owner takes the image within some seconds. From one daemon to another: lus lu move.";

/// `lus lu`.
#[derive(Debug, Subcommand)]
pub(crate) enum LuCommand {
    /// Create an image and offer it as a logical unit.
    #[command(after_long_help = CREATE_EXAMPLES)]
    Create {
        /// What to call it: the image POOL/IMAGE or POOL/NAMESPACE/IMAGE, ram:NAME or null:NAME.
        #[arg(value_name = "POOL/IMAGE")]
        lu: LuName,
        /// Its size: 512M, 10G, 1T.
        #[arg(value_name = "SIZE")]
        size: Size,
        #[command(flatten)]
        identity: Identity,
    },
    /// Offer an existing image as a logical unit.
    #[command(after_long_help = ADD_EXAMPLES)]
    Add {
        /// The image: POOL/IMAGE or POOL/NAMESPACE/IMAGE.
        #[arg(value_name = "POOL/IMAGE")]
        lu: LuName,
        #[command(flatten)]
        identity: Identity,
    },
    /// List the logical units.
    #[command(after_long_help = LS_EXAMPLES)]
    Ls,
    /// Show a logical unit: identity, size, who serves it, who holds its lock, where it is mapped.
    #[command(after_long_help = INFO_EXAMPLES)]
    Info {
        /// The logical unit.
        #[arg(value_name = "LU")]
        lu: LuName,
    },
    /// Move a logical unit to another daemon.
    #[command(after_long_help = MOVE_EXAMPLES)]
    Move {
        /// The logical unit.
        #[arg(value_name = "LU")]
        lu: LuName,
        /// The daemon that is to own it: `a` or `lus.a`.
        #[arg(value_name = "DAEMON", value_parser = daemon_id)]
        daemon: DaemonId,
        #[command(flatten)]
        really: Really,
    },
    /// Pin a logical unit to a daemon, so that it goes there whenever it may.
    #[command(after_long_help = PIN_EXAMPLES)]
    Pin {
        /// The logical unit.
        #[arg(value_name = "LU")]
        lu: LuName,
        /// The daemon: `a` or `lus.a` [default: its owner]
        #[arg(value_name = "DAEMON", value_parser = daemon_id)]
        daemon: Option<DaemonId>,
        #[command(flatten)]
        really: Really,
    },
    /// Take a logical unit's pin away.
    Unpin {
        /// The logical unit.
        #[arg(value_name = "LU")]
        lu: LuName,
    },
    /// Take a logical unit from a client outside of LUS that holds its lock.
    #[command(after_long_help = TAKEOVER_EXAMPLES)]
    Takeover {
        /// The logical unit.
        #[arg(value_name = "LU")]
        lu: LuName,
        #[command(flatten)]
        really: Really,
    },
    /// Take all reservations of a logical unit away.
    #[command(after_long_help = UNRESERVE_EXAMPLES)]
    Unreserve {
        /// The logical unit.
        #[arg(value_name = "LU")]
        lu: LuName,
        #[command(flatten)]
        really: Really,
    },
    /// Give a logical unit another size.
    #[command(after_long_help = RESIZE_EXAMPLES)]
    Resize {
        /// The logical unit.
        #[arg(value_name = "LU")]
        lu: LuName,
        /// Its new size: 512M, 10G, 1T.
        #[arg(value_name = "SIZE")]
        size: Size,
        #[command(flatten)]
        really: Really,
    },
    /// Have the writes to a logical unit refused, or taken.
    #[command(after_long_help = ACCESS_EXAMPLES)]
    Access {
        /// The logical unit.
        #[arg(value_name = "LU")]
        lu: LuName,
        /// What hosts may do.
        #[arg(value_name = "ACCESS")]
        access: access::Access,
    },
    /// Remove a logical unit and its image.
    #[command(after_long_help = RM_EXAMPLES)]
    Rm {
        /// The logical unit.
        #[arg(value_name = "LU")]
        lu: LuName,
        /// Leave the image and its data.
        #[arg(long)]
        keep_image: bool,
        #[command(flatten)]
        really: Really,
    },
}

/// How hosts are to know a unit.
#[derive(Debug, Args)]
pub(crate) struct Identity {
    /// Bytes of a block.
    #[arg(long, value_name = "BYTES", default_value = "512", value_parser = block_size())]
    block_size: BlockSize,
    /// Bytes of a physical block, which hosts align to: no less than a block
    #[arg(long, value_name = "BYTES", default_value = "4096", value_parser = physical_block_size())]
    physical_block_size: PhysicalBlockSize,
    /// World wide name: 16 or 32 hex digits of NAA type 2, 3, 5 or 6 [default: one of type 3, made from the unit's id]
    #[arg(long, value_name = "HEX")]
    wwn: Option<Wwn>,
    /// Serial number [default: the unit's id]
    #[arg(long, value_name = "TEXT")]
    serial: Option<String>,
    /// Vendor, 8 characters at most [default: CEPH]
    #[arg(long, value_name = "TEXT")]
    vendor: Option<String>,
    /// Product, 16 characters at most [default: LUS]
    #[arg(long, value_name = "TEXT")]
    product: Option<String>,
    /// Refuse writes: hosts see a write-protected disk
    #[arg(long)]
    read_only: bool,
}

fn block_size() -> impl TypedValueParser<Value = BlockSize> {
    PossibleValuesParser::new(["512", "4096"]).map(|text| match text.as_str() {
        "4096" => BlockSize::B4096,
        _ => BlockSize::B512,
    })
}

/// Allocation units that OSDs in the field have, and the smallest block of all.
fn physical_block_size() -> impl TypedValueParser<Value = PhysicalBlockSize> {
    PossibleValuesParser::new(["512", "4096", "16384", "65536"])
        .map(|text| text.parse().ok().and_then(PhysicalBlockSize::new).unwrap_or_default())
}

impl Identity {
    /// The request for a unit of this identity on `backend`, with a fresh id.
    fn ask(&self, backend: Backend) -> AddLu {
        AddLu {
            block_size: self.block_size,
            physical_block_size: Some(self.physical_block_size),
            wwn: self.wwn.clone(),
            serial: self.serial.clone(),
            vendor: self.vendor.clone(),
            product: self.product.clone(),
            read_only: self.read_only,
            ..AddLu::new(LuId(Uuid::new_v4()), backend)
        }
    }
}

impl LuCommand {
    /// Runs the verb.
    pub(crate) async fn run(&self, session: &Session) -> Result<Reply> {
        match self {
            Self::Create { lu, size, identity } => create::create(session, lu, *size, identity).await,
            Self::Add { lu, identity } => create::add(session, lu, identity).await,
            Self::Ls => info::list(session).await,
            Self::Info { lu } => info::info(session, lu).await,
            Self::Move { lu, daemon, really } => place::move_to(session, lu, daemon, really.yes).await,
            Self::Pin { lu, daemon, really } => place::pin(session, lu, daemon.as_ref(), really.yes).await,
            Self::Unpin { lu } => place::unpin(session, lu).await,
            Self::Takeover { lu, really } => takeover::takeover(session, lu, really.yes).await,
            Self::Unreserve { lu, really } => reservation::unreserve(session, lu, really.yes).await,
            Self::Resize { lu, size, really } => resize::resize(session, lu, *size, really.yes).await,
            Self::Access { lu, access } => access::set(session, lu, *access).await,
            Self::Rm { lu, keep_image, really } => rm::remove(session, lu, *keep_image, really.yes).await,
        }
    }
}

/// The failure for a unit that is not there.
fn no_such_lu(lu: &LuName) -> Failure {
    Refusal::NoSuchLu(lu.clone()).into()
}

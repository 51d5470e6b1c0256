//! Logical units: `lus lu create|add|access|rm`, and the size of volatile ones.

mod place;

pub use place::{move_to, pin, unpin};

use super::placement::place;
use super::{Change, Draft, Refusal};
use crate::id::{LuId, LuName, Wwn};
use crate::increment::Origin;
use crate::key::Key;
use crate::map::LusMap;
use crate::model::{
    BASE_WRITER, Backend, BlockSize, Lu, PHYSICAL_BLOCK_WRITER, PRODUCT_BYTES_MAX, PRODUCT_DEFAULT,
    PhysicalBlockSize, PlacementReason, SERIAL_BYTES_MAX, VENDOR_BYTES_MAX, VENDOR_DEFAULT, is_scsi_text,
};

/// Logical units at most: five times what is promised to be fast.
pub const LUS_MAX: usize = 50_000;

/// What `lus lu add` asks for; the image exists.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AddLu {
    /// A fresh random id (RFC 9562, version 4).
    pub id: LuId,
    /// What holds its blocks.
    pub backend: Backend,
    /// The size of its blocks.
    pub block_size: BlockSize,
    /// The size of its physical blocks; none: [`PhysicalBlockSize::default`].
    pub physical_block_size: Option<PhysicalBlockSize>,
    /// A world wide name; none: one is made from the id.
    pub wwn: Option<Wwn>,
    /// A serial; none: the id's 32 hex digits.
    pub serial: Option<String>,
    /// T10 vendor identification; none: [`VENDOR_DEFAULT`].
    pub vendor: Option<String>,
    /// Product identification; none: [`PRODUCT_DEFAULT`].
    pub product: Option<String>,
    /// Whether writes are to be refused.
    pub read_only: bool,
}

impl AddLu {
    /// A read-write unit of 512-byte blocks with everything else by default.
    pub fn new(id: LuId, backend: Backend) -> Self {
        Self {
            id,
            backend,
            block_size: BlockSize::B512,
            physical_block_size: None,
            wwn: None,
            serial: None,
            vendor: None,
            product: None,
            read_only: false,
        }
    }

    /// What of `lu` is not as asked for. What was not asked for may be anything.
    fn differs(&self, lu: &Lu) -> Option<&'static str> {
        let other = |wanted: &Option<String>, is: &str| wanted.as_deref().is_some_and(|wanted| wanted != is);
        if self.backend != lu.backend {
            return Some(if self.backend.size_bytes().is_some() { "size" } else { "image id" });
        }
        if self.block_size != lu.block_size {
            return Some("block size");
        }
        if self.physical_block_size.is_some_and(|wanted| wanted != lu.physical_block_size) {
            return Some("physical block size");
        }
        if self.wwn.is_some() && self.wwn != lu.wwn {
            return Some("WWN");
        }
        if other(&self.serial, &lu.serial) {
            return Some("serial");
        }
        if other(&self.vendor, &lu.vendor) {
            return Some("vendor");
        }
        if other(&self.product, &lu.product) {
            return Some("product");
        }
        (self.read_only != lu.read_only).then_some("access")
    }
}

/// Adds a logical unit and places it on a daemon, if one is up.
///
/// # Errors
/// [`Refusal::LuDiffers`] if the name exists otherwise, [`Refusal::ImageTaken`], [`Refusal::WwnTaken`],
/// [`Refusal::SerialTaken`], [`Refusal::IdTaken`], [`Refusal::Invalid`], [`Refusal::TooMany`].
pub fn add(map: &LusMap, origin: &Origin, ask: &AddLu) -> Result<Change, Refusal> {
    let name = ask.backend.name();
    if let Some(lu) = map.lu_named(&name) {
        return match ask.differs(lu) {
            Some(what) => Err(Refusal::LuDiffers { lu: name, what }),
            None => Ok(Change::Already { said: format!("logical unit '{name}' already exists") }),
        };
    }
    let physical_block_size = ask.physical_block_size.unwrap_or_default();
    let usual = physical_block_size == PhysicalBlockSize::default();
    let lu = Lu {
        min_writer: if usual { BASE_WRITER } else { PHYSICAL_BLOCK_WRITER },
        id: ask.id,
        backend: ask.backend.clone(),
        block_size: ask.block_size,
        physical_block_size,
        wwn: ask.wwn.clone(),
        serial: ask.serial.clone().unwrap_or_else(|| ask.id.0.simple().to_string()),
        vendor: ask.vendor.clone().unwrap_or_else(|| VENDOR_DEFAULT.to_owned()),
        product: ask.product.clone().unwrap_or_else(|| PRODUCT_DEFAULT.to_owned()),
        read_only: ask.read_only,
        created: origin.when,
    };
    valid(&lu)?;
    alone(map, &lu)?;
    if map.lus.len() >= LUS_MAX {
        return Err(Refusal::TooMany { what: "logical units", limit: LUS_MAX });
    }
    let mut draft = Draft::new(map, origin);
    draft.put(&lu);
    if let Some(owner) = map.choose_owner(&lu.id) {
        place(&mut draft, lu.id, owner, PlacementReason::Created);
    }
    draft.finish(format!("lu add {name}"), format!("logical unit '{name}' added"))
}

/// Whether the unit's own values can be.
fn valid(lu: &Lu) -> Result<(), Refusal> {
    for (what, text, bytes_max) in [
        ("serial", &lu.serial, SERIAL_BYTES_MAX),
        ("vendor", &lu.vendor, VENDOR_BYTES_MAX),
        ("product", &lu.product, PRODUCT_BYTES_MAX),
    ] {
        if !is_scsi_text(text, bytes_max) {
            return Err(Refusal::Invalid {
                what,
                why: format!("1 to {bytes_max} printable ASCII characters"),
            });
        }
    }
    if lu.physical_block_size.exponent(lu.block_size).is_none() {
        let why = format!("{} is less than a block", lu.physical_block_size.bytes());
        return Err(Refusal::Invalid { what: "physical block size", why });
    }
    valid_size(&lu.backend, lu.block_size)
}

fn valid_size(backend: &Backend, block_size: BlockSize) -> Result<(), Refusal> {
    match backend.size_bytes() {
        Some(0) => Err(Refusal::Invalid { what: "size", why: "it must be above 0".to_owned() }),
        Some(size) if !size.is_multiple_of(u64::from(block_size.bytes())) => {
            let why = format!("{size} is not a multiple of the block size {}", block_size.bytes());
            Err(Refusal::Invalid { what: "size", why })
        }
        _ => Ok(()),
    }
}

/// Whether nothing of the unit that must be its own is another's.
fn alone(map: &LusMap, lu: &Lu) -> Result<(), Refusal> {
    if map.lu(&lu.id).is_some() {
        return Err(Refusal::IdTaken(lu.id));
    }
    for other in map.lus() {
        if same_image(&lu.backend, &other.backend) {
            return Err(Refusal::ImageTaken { lu: lu.name(), holder: other.name() });
        }
        if let Some(wwn) = lu.wwn.as_ref().filter(|_| lu.wwn == other.wwn) {
            return Err(Refusal::WwnTaken { wwn: wwn.clone(), holder: other.name() });
        }
        if lu.serial == other.serial {
            return Err(Refusal::SerialTaken { serial: lu.serial.clone(), holder: other.name() });
        }
    }
    Ok(())
}

/// Whether two backends are one image, under whatever names: an image keeps its id when it is renamed.
fn same_image(a: &Backend, b: &Backend) -> bool {
    match (a, b) {
        (Backend::Rbd { image: a, image_id: a_id }, Backend::Rbd { image: b, image_id: b_id }) => {
            a.pool() == b.pool() && a.namespace() == b.namespace() && a_id == b_id
        }
        _ => false,
    }
}

/// Removes a logical unit with its placement; with `force`, its LUNs too. The image is not the map's to remove.
///
/// # Errors
/// [`Refusal::NoSuchLu`]; without `force`, [`Refusal::LuInUse`].
pub fn remove(map: &LusMap, origin: &Origin, name: &LuName, force: bool) -> Result<Change, Refusal> {
    let lu = map.lu_named(name).ok_or_else(|| Refusal::NoSuchLu(name.clone()))?;
    let mappings = || map.all_luns().filter(|mapping| mapping.lu == lu.id);
    if let Some(first) = mappings().next().filter(|_| !force) {
        let luns = mappings().count();
        return Err(Refusal::LuInUse { lu: name.clone(), luns, target: first.target.clone() });
    }
    let mut draft = Draft::new(map, origin);
    draft.remove(Key::Lu(lu.id));
    draft.remove(Key::Place(lu.id));
    mappings().for_each(|mapping| draft.remove(Key::Lun(mapping.key())));
    draft.finish(format!("lu rm {name}"), format!("logical unit '{name}' removed"))
}

/// Has the writes of a logical unit refused, or not any more.
///
/// # Errors
/// [`Refusal::NoSuchLu`].
pub fn set_read_only(
    map: &LusMap,
    origin: &Origin,
    name: &LuName,
    read_only: bool,
) -> Result<Change, Refusal> {
    let found = map.lu_named(name).ok_or_else(|| Refusal::NoSuchLu(name.clone()))?;
    let access = if read_only { "read-only" } else { "read-write" };
    let mut draft = Draft::new(map, origin);
    draft.put(&Lu { read_only, ..found.clone() });
    draft.finish(format!("lu access {name} {access}"), format!("logical unit '{name}' is {access}"))
}

/// Gives a volatile logical unit another size in bytes. That of an image is changed in the image.
///
/// # Errors
/// [`Refusal::NoSuchLu`], [`Refusal::SizeOfImage`], [`Refusal::Invalid`].
pub fn resize_volatile(map: &LusMap, origin: &Origin, name: &LuName, bytes: u64) -> Result<Change, Refusal> {
    let found = map.lu_named(name).ok_or_else(|| Refusal::NoSuchLu(name.clone()))?;
    let mut lu = found.clone();
    match &mut lu.backend {
        Backend::Rbd { .. } => return Err(Refusal::SizeOfImage(name.clone())),
        Backend::Ram { size_bytes, .. } | Backend::Null { size_bytes, .. } => *size_bytes = bytes,
    }
    valid_size(&lu.backend, lu.block_size)?;
    let mut draft = Draft::new(map, origin);
    draft.put(&lu);
    draft.finish(format!("lu resize {name} {bytes}"), format!("logical unit '{name}' has {bytes} bytes"))
}

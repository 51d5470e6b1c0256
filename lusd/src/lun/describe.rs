//! From the map's entry of an LU, and what its image is like, to the device that hosts see.

use lus_map::{Backend, BlockSize, Lu};
use lusd_ceph::Image;
use lusd_scsi::{
    AccessState, Identity, IdentityError, Limits, LogicalUnit, LogicalUnitConfig, LogicalUnitError, Naa,
};

/// Size and shape of what holds an LU's blocks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Geometry {
    /// Bytes.
    pub size: u64,
    /// Bytes of it that are together in one RADOS object: the whole object, but where the image is striped.
    pub object_size: u64,
    /// The pool that they are in, by its number; `None` of a volatile LU, or while that is not known.
    pub data_pool: Option<i64>,
}

/// Of an image that has not been seen: hosts find no medium of that size, and ask again when it is.
const UNSEEN: Geometry = Geometry { size: 0, object_size: 4 << 20, data_pool: None };

impl Geometry {
    /// Of an open image.
    pub fn of_image(image: &Image) -> Self {
        Self { size: image.size(), object_size: image.layout().contiguous(), data_pool: image.data_pool_id() }
    }

    /// Of a volatile LU, or of an image that has not been seen.
    pub fn of_map(lu: &Lu) -> Self {
        Self { size: lu.backend.size_bytes().unwrap_or(0), ..UNSEEN }
    }
}

/// What INQUIRY says.
///
/// # Errors
/// For texts that do not fit their fields; the map does not take such.
pub fn identity(lu: &Lu) -> Result<Identity, IdentityError> {
    let identity = Identity::new(*lu.id.0.as_bytes())
        .with_vendor(&lu.vendor)?
        .with_product(&lu.product)?
        .with_serial(&lu.serial)?;
    Ok(match &lu.wwn {
        Some(wwn) => identity.with_naa(Naa::parse(wwn.as_str())?),
        None => identity,
    })
}

/// Why an LU cannot be shown to hosts.
#[derive(Debug, thiserror::Error)]
pub enum DescribeError {
    /// Its names.
    #[error("identity: {0}")]
    Identity(#[from] IdentityError),
    /// Its limits.
    #[error(transparent)]
    Unit(#[from] LogicalUnitError),
}

/// The device, in state `access`. Over a pool, hosts are told when no more than `soft_threshold_percent` of its room is available; 0 for never.
///
/// # Errors
/// [`DescribeError`].
pub fn logical_unit(
    lu: &Lu,
    geometry: Geometry,
    soft_threshold_percent: u8,
    access: AccessState,
) -> Result<LogicalUnit, DescribeError> {
    let mut config = LogicalUnitConfig::new(identity(lu)?, geometry.size);
    config.read_only = lu.read_only;
    config.thin = matches!(lu.backend, Backend::Rbd { .. } | Backend::Ram { .. });
    config.soft_threshold_percent =
        matches!(lu.backend, Backend::Rbd { .. }).then_some(soft_threshold_percent);
    config.block_size = match lu.block_size {
        BlockSize::B512 => lusd_scsi::BlockSize::B512,
        BlockSize::B4096 => lusd_scsi::BlockSize::B4096,
    };
    config.physical_block_exponent = lu.physical_block_size.exponent(lu.block_size).unwrap_or(0);
    config.limits = Limits { object_bytes: geometry.object_size, ..Limits::default() };
    Ok(LogicalUnit::new(config, access)?)
}

#[cfg(test)]
mod tests {
    use lus_map::{LuId, PhysicalBlockSize, Timestamp};

    use super::*;

    fn lu() -> Lu {
        Lu {
            min_writer: 1,
            id: LuId(uuid::Uuid::from_u128(7)),
            backend: Backend::Null { name: "x".parse().unwrap(), size_bytes: 10 << 20 },
            block_size: BlockSize::B512,
            physical_block_size: PhysicalBlockSize::default(),
            wwn: None,
            serial: "0123".to_owned(),
            vendor: "CEPH".to_owned(),
            product: "LUS".to_owned(),
            read_only: false,
            created: Timestamp(0),
        }
    }

    #[test]
    fn what_hosts_see() {
        let lu = lu();
        let unit = logical_unit(&lu, Geometry::of_map(&lu), 20, AccessState::Standby).unwrap();
        assert_eq!((unit.capacity_bytes(), unit.blocks(), unit.is_thin()), (10 << 20, 20480, false));
        assert_eq!((unit.identity().serial(), unit.physical_block_exponent()), ("0123", 3));
        assert_eq!(unit.soft_threshold_percent(), None, "there is no pool");
        let lu = Lu { block_size: BlockSize::B4096, wwn: Some("500a0b1234567890".parse().unwrap()), ..lu };
        let geometry = Geometry { size: 1 << 20, object_size: 8 << 20, data_pool: Some(3) };
        let unit = logical_unit(&lu, geometry, 20, AccessState::Transitioning).unwrap();
        assert_eq!((unit.physical_block_exponent(), unit.limits().object_bytes), (0, 8 << 20));
        assert_eq!(unit.identity().naa().to_string(), "500a0b1234567890");
    }

    #[test]
    fn physical_blocks_are_as_large_as_asked_for() {
        for (block_size, bytes, exponent) in [
            (BlockSize::B512, 512, 0),
            (BlockSize::B512, 65536, 7),
            (BlockSize::B4096, 4096, 0),
            (BlockSize::B4096, 16384, 2),
        ] {
            let physical_block_size = PhysicalBlockSize::new(bytes).unwrap();
            let lu = Lu { block_size, physical_block_size, ..lu() };
            let unit = logical_unit(&lu, Geometry::of_map(&lu), 20, AccessState::Serving).unwrap();
            assert_eq!(unit.physical_block_exponent(), exponent);
        }
    }

    #[test]
    fn what_does_not_fit_is_refused() {
        let lu = Lu { vendor: "LONGER THAN 8".to_owned(), ..lu() };
        assert!(matches!(identity(&lu), Err(IdentityError::TooLong { .. })));
    }
}

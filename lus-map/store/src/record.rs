//! The records of logical units, objects `lu.<id>`: each write is compared on the unit's epoch and the version.

use std::sync::Arc;

use bytes::Bytes;
use lus_map::record::{LU_EPOCH_XATTR, VERSION_XATTR, record_object};
use lus_map::{Corrupt, ENTITY_BYTES_MAX, LuId, LuRecord, RecordError};

use crate::error::StoreError;
use crate::objects::{Objects, Read, Write};

/// How often a write is sent again while nothing is known of it, and a step is tried again because another came first.
const ATTEMPTS: u32 = 8;

/// The records of logical units in a pool. Cheap to clone.
#[derive(Clone)]
pub struct RecordStore {
    objects: Arc<dyn Objects>,
}

/// What became of a write.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RecordWrite {
    /// It is made.
    Written,
    /// The record is another one by now; here it is, or none if it was removed.
    Lost(Option<LuRecord>),
}

/// Why a step of a record was not made.
#[derive(Debug, thiserror::Error)]
pub enum TransitionError {
    /// The record does not allow it.
    #[error(transparent)]
    Refused(#[from] RecordError),
    /// It could not be read or written.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl RecordStore {
    /// Those in `objects`; see [`MapStore::objects`](crate::MapStore::objects).
    pub fn new(objects: Arc<dyn Objects>) -> Self {
        Self { objects }
    }

    /// A unit's record; none if it has none.
    ///
    /// # Errors
    /// [`StoreError::Record`] for what is corrupt, [`StoreError::Ceph`].
    pub async fn read(&self, lu: &LuId) -> Result<Option<LuRecord>, StoreError> {
        let object = record_object(lu);
        let read = Read { xattrs: true, data: Some(ENTITY_BYTES_MAX + 1), ..Read::default() };
        let reply = match self.objects.read(&object, read).await {
            Err(error) if error.is_not_found() => return Ok(None),
            reply => reply?,
        };
        let record = LuRecord::decode(lu, &reply.data)
            .map_err(|source| StoreError::Record { object: object.clone(), source })?;
        for (name, value) in compared(&record) {
            if reply.xattrs.get(name) != Some(&value) {
                let why = format!("xattr '{name}' is missing or does not agree with the data");
                let source = Corrupt::Undecodable { key: object.clone(), why };
                return Err(StoreError::Record { object, source });
            }
        }
        Ok(Some(record))
    }

    /// A unit's record; a new one is written if it has none.
    ///
    /// # Errors
    /// As [`read`](Self::read).
    pub async fn read_or_create(&self, lu: &LuId) -> Result<LuRecord, StoreError> {
        for _ in 0..ATTEMPTS {
            if let Some(record) = self.read(lu).await? {
                return Ok(record);
            }
            let record = LuRecord::new(*lu);
            let write = Write { create: true, ..write_of(&record) };
            match self.objects.write(&record_object(lu), write).await {
                Ok(()) => return Ok(record),
                // Whoever wrote it, wrote the same.
                Err(error) if error.is_exists() || error.is_unknown_outcome() => {}
                Err(error) => return Err(error.into()),
            }
        }
        Err(StoreError::Unstable { object: record_object(lu), attempts: ATTEMPTS })
    }

    /// Writes `next` over `current`, of which it is a step, unless the record is another one by now.
    ///
    /// # Errors
    /// [`StoreError::Unknown`] if RADOS does not answer, [`StoreError::Record`], [`StoreError::Ceph`].
    ///
    /// # Panics
    /// If `next` is not a step from `current`.
    pub async fn write(&self, current: &LuRecord, next: &LuRecord) -> Result<RecordWrite, StoreError> {
        assert!(
            current.lu == next.lu && current.version.checked_add(1) == Some(next.version),
            "a step of one record"
        );
        let write = Write { compare: compared(current).to_vec(), ..write_of(next) };
        self.compare_and_set(current, Some(next), write).await
    }

    /// Removes a unit's record, unless it is another one by now.
    ///
    /// # Errors
    /// As [`write`](Self::write).
    pub async fn remove(&self, current: &LuRecord) -> Result<RecordWrite, StoreError> {
        let write = Write { compare: compared(current).to_vec(), remove: true, ..Write::default() };
        self.compare_and_set(current, None, write).await
    }

    async fn compare_and_set(
        &self,
        current: &LuRecord,
        next: Option<&LuRecord>,
        write: Write,
    ) -> Result<RecordWrite, StoreError> {
        let object = record_object(&current.lu);
        for _ in 0..ATTEMPTS {
            match self.objects.write(&object, write.clone()).await {
                Ok(()) => return Ok(RecordWrite::Written),
                // The record is another one: somebody else's, or ours, if an attempt without an answer got there.
                Err(error) if error.is_compare_mismatch() || error.is_not_found() => {}
                Err(error) if !error.is_unknown_outcome() => return Err(error.into()),
                Err(error) => tracing::warn!(%error, object, "no answer to a change of a record; looking"),
            }
            let found = match self.read(&current.lu).await {
                // What was sent may still arrive. The same again is harmless: one of the two fails on the version.
                Err(StoreError::Ceph(error)) if error.is_unknown_outcome() => continue,
                found => found?,
            };
            if found.as_ref() == next {
                return Ok(RecordWrite::Written);
            }
            if found.as_ref() != Some(current) {
                return Ok(RecordWrite::Lost(found));
            }
        }
        Err(StoreError::Unknown { object, why: "no answer from RADOS" })
    }

    /// Makes a step: asks `step` of the record as it is until what it says is written.
    ///
    /// # Errors
    /// [`TransitionError::Refused`] with what `step` refuses; [`TransitionError::Store`].
    pub async fn transition<F>(&self, lu: &LuId, mut step: F) -> Result<LuRecord, TransitionError>
    where
        F: FnMut(&LuRecord) -> Result<LuRecord, RecordError>,
    {
        let mut current = self.read_or_create(lu).await?;
        for _ in 0..ATTEMPTS {
            let next = step(&current)?;
            current = match self.write(&current, &next).await? {
                RecordWrite::Written => return Ok(next),
                RecordWrite::Lost(Some(found)) => found,
                RecordWrite::Lost(None) => self.read_or_create(lu).await?,
            };
        }
        Err(StoreError::Unstable { object: record_object(lu), attempts: ATTEMPTS }.into())
    }
}

/// The attributes that every write compares.
fn compared(record: &LuRecord) -> [(&'static str, Bytes); 2] {
    [
        (LU_EPOCH_XATTR, Bytes::from(record.lu_epoch.to_string())),
        (VERSION_XATTR, Bytes::from(record.version.to_string())),
    ]
}

fn write_of(record: &LuRecord) -> Write {
    Write {
        set_xattrs: compared(record).to_vec(),
        data: Some(Bytes::from(record.encode())),
        ..Write::default()
    }
}

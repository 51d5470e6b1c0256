//! How full pools are, as the monitors see it: `ceph df detail`.

use std::collections::HashMap;

use serde_json::Value;

use crate::{Cluster, Error, Result};

/// Longest answer that is read, bytes: some hundred for each pool.
const ANSWER_BYTES_MAX: usize = 16 << 20;

/// What a pool holds and still takes, in bytes as its users count them: without copies, or parity.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PoolUsage {
    /// What it holds.
    pub stored_bytes: u64,
    /// What it still takes before its first OSD is full, or its quota (`max_bytes`) is used up.
    pub available_bytes: u64,
}

impl Cluster {
    /// How full all pools are, by their numbers ([`Image::data_pool_id`](crate::Image::data_pool_id)). Some seconds old.
    ///
    /// # Errors
    /// As [`Cluster::mon_command`] (it takes the cap `mon 'allow r'`); [`Error::Malformed`].
    pub async fn pool_usage(&self) -> Result<HashMap<i64, PoolUsage>> {
        let (json, _) = self.mon_command(r#"{"prefix":"df","detail":"detail","format":"json"}"#).await?;
        parse(&json).ok_or_else(|| Error::Malformed { object: "df detail".into(), what: "pools" })
    }
}

fn parse(json: &[u8]) -> Option<HashMap<i64, PoolUsage>> {
    if json.len() > ANSWER_BYTES_MAX {
        return None;
    }
    let answer: Value = serde_json::from_slice(json).ok()?;
    answer["pools"]
        .as_array()?
        .iter()
        .map(|pool| Some((pool["id"].as_i64()?, usage(&pool["stats"])?)))
        .collect()
}

fn usage(stats: &Value) -> Option<PoolUsage> {
    let stored_bytes = stats["stored"].as_u64()?;
    let room = stats["max_avail"].as_u64()?;
    // 0 is no quota.
    let quota = stats["quota_bytes"].as_u64().filter(|quota| *quota != 0);
    let available_bytes = quota.map_or(room, |quota| room.min(quota.saturating_sub(stored_bytes)));
    Some(PoolUsage { stored_bytes, available_bytes })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_monitors_say_is_read() {
        let json = br#"{"stats":{"num_osds":1},"pools":[
            {"name":"rbd","id":1,"stats":{"stored":41943112,"objects":15,"max_avail":15974595584,"quota_objects":0,"quota_bytes":104857600}},
            {"name":"over","id":7,"stats":{"stored":30,"max_avail":100,"quota_bytes":20}},
            {"name":"roomy","id":9,"stats":{"stored":30,"max_avail":100,"quota_bytes":1000}},
            {"name":".lus","id":2,"stats":{"stored":0,"max_avail":15974595584,"quota_bytes":0}}]}"#;
        let usage = parse(json).unwrap();
        let of = |pool| usage.get(&pool).map(|pool: &PoolUsage| (pool.stored_bytes, pool.available_bytes));
        assert_eq!(of(1), Some((41_943_112, 104_857_600 - 41_943_112)));
        assert_eq!(of(7), Some((30, 0)));
        assert_eq!(of(9), Some((30, 100)));
        assert_eq!(of(2), Some((0, 15_974_595_584)));
        assert_eq!(usage.len(), 4);
        for bad in [&b""[..], b"{}", b"x", br#"{"pools":[{"id":1,"stats":{"stored":-1,"max_avail":1}}]}"#] {
            assert_eq!(parse(bad), None);
        }
    }
}

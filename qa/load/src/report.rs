//! What a run came to, in fio's words as far as it has them.

use std::time::Duration;

use hdrhistogram::Histogram;
use serde_json::{Value, json};

/// Percentiles that are told.
const PERCENTILES: [f64; 10] = [1.0, 5.0, 10.0, 50.0, 90.0, 95.0, 99.0, 99.5, 99.9, 99.99];

/// The figures of a run.
#[derive(Clone, Debug)]
pub struct Report {
    /// The direction.
    pub writes: bool,
    /// Length of one I/O, bytes.
    pub bs: u64,
    /// From the first command to the last answer.
    pub took: Duration,
    /// From submission to answer, nanoseconds: one for each I/O.
    pub latency_ns: Histogram<u64>,
    /// Processor time of this process in that time, in user code.
    pub user: Duration,
    /// As `user`, in the kernel.
    pub system: Duration,
    /// Sessions and depth of each.
    pub sessions: u32,
    /// Commands in flight in each.
    pub iodepth: u32,
}

impl Report {
    /// I/Os that ended.
    #[must_use]
    pub fn total_ios(&self) -> u64 {
        self.latency_ns.len()
    }

    /// I/Os a second.
    #[must_use]
    pub fn iops(&self) -> f64 {
        self.total_ios() as f64 / self.took.as_secs_f64()
    }

    /// Processor time of an I/O, microseconds.
    #[must_use]
    pub fn cpu_us_per_io(&self) -> f64 {
        (self.user + self.system).as_secs_f64() * 1e6 / self.total_ios().max(1) as f64
    }

    fn direction(&self) -> Value {
        let bytes = self.total_ios() * self.bs;
        let bytes_per_second = bytes as f64 / self.took.as_secs_f64();
        let latency = &self.latency_ns;
        let percentiles: serde_json::Map<String, Value> =
            PERCENTILES.iter().map(|p| (format!("{p:.6}"), latency.value_at_percentile(*p).into())).collect();
        let latency = json!({
            "min": latency.min(),
            "max": latency.max(),
            "mean": latency.mean(),
            "stddev": latency.stdev(),
            "N": latency.len(),
            "percentile": percentiles,
        });
        json!({
            "io_bytes": bytes,
            "io_kbytes": bytes >> 10,
            "bw_bytes": bytes_per_second as u64,
            "bw": (bytes_per_second / 1024.0) as u64,
            "iops": self.iops(),
            "runtime": self.took.as_millis() as u64,
            "total_ios": self.total_ios(),
            "short_ios": 0,
            // fio parts submission from completion; here a command's time begins when it is queued for sending.
            "lat_ns": latency,
            "clat_ns": latency,
        })
    }

    /// As `fio --output-format=json` has it. What fio has not: `cpu_us_per_io`.
    #[must_use]
    pub fn to_json(&self) -> Value {
        let none = json!({ "io_bytes": 0, "bw_bytes": 0, "bw": 0, "iops": 0.0, "runtime": 0, "total_ios": 0, "short_ios": 0 });
        let (read, write) = if self.writes { (none, self.direction()) } else { (self.direction(), none) };
        let percent = |time: Duration| time.as_secs_f64() * 100.0 / self.took.as_secs_f64();
        json!({
            "lus-load version": env!("CARGO_PKG_VERSION"),
            "jobs": [{
                "jobname": "lus-load",
                "error": 0,
                "job options": { "bs": self.bs.to_string(), "iodepth": self.iodepth.to_string(), "numjobs": self.sessions.to_string() },
                "read": read,
                "write": write,
                "usr_cpu": percent(self.user),
                "sys_cpu": percent(self.system),
                "cpu_us_per_io": self.cpu_us_per_io(),
            }],
        })
    }

    /// For people.
    #[must_use]
    pub fn to_text(&self) -> String {
        let us = |percentile| self.latency_ns.value_at_percentile(percentile) as f64 / 1e3;
        format!(
            "{} IOPS {:.0}  {:.1} MB/s  p50 {:.0} us  p99 {:.0} us  CPU {:.2} us per I/O  ({} I/Os in {:.2} s)\n",
            if self.writes { "write" } else { "read" },
            self.iops(),
            self.iops() * self.bs as f64 / 1e6,
            us(50.0),
            us(99.0),
            self.cpu_us_per_io(),
            self.total_ios(),
            self.took.as_secs_f64(),
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fios_shape() {
        let mut latency_ns = Histogram::new(3).unwrap();
        (1..=1000).for_each(|i| latency_ns.record(i * 1000).unwrap());
        let report = Report {
            writes: false,
            bs: 4096,
            took: Duration::from_secs(2),
            latency_ns,
            user: Duration::from_millis(100),
            system: Duration::from_millis(300),
            sessions: 1,
            iodepth: 4,
        };
        let json = report.to_json();
        let read = &json["jobs"][0]["read"];
        assert_eq!((read["iops"].as_f64(), read["total_ios"].as_u64()), (Some(500.0), Some(1000)));
        assert_eq!(
            (read["io_bytes"].as_u64(), read["bw_bytes"].as_u64()),
            (Some(4_096_000), Some(2_048_000))
        );
        let p50 = read["clat_ns"]["percentile"]["50.000000"].as_f64().unwrap();
        assert!((499_000.0..502_000.0).contains(&p50), "{p50}");
        assert!(read["clat_ns"]["percentile"]["99.000000"].as_u64().unwrap() >= 989_000);
        assert_eq!(read["lat_ns"], read["clat_ns"]);
        assert_eq!(json["jobs"][0]["write"]["total_ios"], 0);
        assert_eq!(
            (json["jobs"][0]["usr_cpu"].as_f64(), json["jobs"][0]["sys_cpu"].as_f64()),
            (Some(5.0), Some(15.0))
        );
        assert_eq!(json["jobs"][0]["cpu_us_per_io"], 400.0);
        assert!(report.to_text().starts_with("read IOPS 500 "), "{}", report.to_text());
    }
}

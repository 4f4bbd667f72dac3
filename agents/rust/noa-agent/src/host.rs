//! What this process may use of its host: threads and memory, and which limit decides.
//!
//! ```
//! use noa_agent::host::{Host, Shortage};
//!
//! fn threads(asked: Option<u64>) -> Result<u64, Shortage> {
//!     let limit = Host::here().threads.at_most(asked, "input threads").at_least(1, "threads")?;
//!     Ok(limit.value)
//! }
//! assert!(threads(None).is_ok());
//! assert!(threads(Some(0)).is_err());
//! ```

use std::path::{Path, PathBuf};

use schemars::JsonSchema;
use serde::Serialize;

use crate::failure::{Failure, RESOURCES_EXCEEDED};

/// An amount and what it comes from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, JsonSchema)]
pub struct Limit {
    /// How much there is, in threads or bytes.
    pub value: u64,
    /// What decides it, for a person.
    pub from: String,
}

/// The tightest limits that are in force.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, JsonSchema)]
pub struct Host {
    /// Threads that can run at once; at least 1.
    pub threads: Limit,
    /// Bytes of memory that are left.
    pub memory_bytes: Limit,
}

/// That there is less of something than is needed. As a [`Failure`] its code is `RESOURCES_EXCEEDED`, with `needed`
/// and `available` as details.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("{needed} {what} are needed, {} are available ({}): {} too few", available.value, available.from, needed - available.value)]
pub struct Shortage {
    /// Of what, in the plural.
    pub what: &'static str,
    /// How much is needed; more than there is.
    pub needed: u64,
    /// How much there is, and why not more.
    pub available: Limit,
}

impl From<Shortage> for Failure {
    fn from(shortage: Shortage) -> Self {
        Self::new(RESOURCES_EXCEEDED, shortage.to_string())
            .detail("needed", shortage.needed)
            .detail("available", shortage.available.value)
    }
}

impl Limit {
    /// An amount and what it comes from.
    pub fn new(value: u64, from: impl Into<String>) -> Self {
        Self { value, from: from.into() }
    }

    /// The tighter one of two; the first if they are equal.
    #[must_use]
    pub fn min(self, other: Self) -> Self {
        if other.value < self.value { other } else { self }
    }

    /// This limit, or the bound if that is there and tighter.
    #[must_use]
    pub fn at_most(self, bound: Option<u64>, from: &str) -> Self {
        match bound {
            Some(value) => self.min(Self::new(value, from)),
            None => self,
        }
    }

    /// This limit, if that much is enough.
    ///
    /// # Errors
    /// It is not; `what` says of what, in the plural.
    pub fn at_least(self, needed: u64, what: &'static str) -> Result<Self, Shortage> {
        if self.value < needed { Err(Shortage { what, needed, available: self }) } else { Ok(self) }
    }
}

impl Host {
    /// Reads the limits of this process. Reads a few small files, nothing else.
    #[must_use]
    pub fn here() -> Self {
        Self::read(Path::new("/"))
    }

    /// Reads the limits below `root`, which is `/` but in tests: affinity, free memory, and every control group
    /// (version 1 or 2) from this process's own up to the one that is mounted. What cannot be read does not limit.
    #[must_use]
    pub fn read(root: &Path) -> Self {
        let cpus = field(root, "proc/self/status", "Cpus_allowed_list:").map_or(1, |list| count_cpus(&list));
        let kib = field(root, "proc/meminfo", "MemAvailable:").and_then(|text| text.split(' ').next()?.parse().ok());
        let mut threads = Limit::new(cpus.max(1), "affinity of the process");
        let mut memory_bytes = kib.map_or(Limit::new(1 << 30, "assumed, as the host does not tell"), |kib: u64| {
            Limit::new(kib.saturating_mul(1024), "MemAvailable of the host")
        });
        for folder in control_groups(root) {
            let from =
                |file| format!("{file} of control group /{}", folder.strip_prefix(root).unwrap_or(&folder).display());
            if let Some(quota) = cpu_quota(&folder) {
                threads = threads.min(Limit::new(quota, from("processor quota")));
            }
            if let Some(left) = memory_left(&folder) {
                memory_bytes = memory_bytes.min(Limit::new(left, from("what is left of the memory")));
            }
        }
        Self { threads, memory_bytes }
    }
}

/// The folders of this process's control groups, each with its ancestors.
fn control_groups(root: &Path) -> Vec<PathBuf> {
    let read = |file| std::fs::read_to_string(root.join(file)).unwrap_or_default();
    let (groups, mounts) = (read("proc/self/cgroup"), read("proc/self/mountinfo"));
    let pairs = mounts.lines().flat_map(|mount| groups.lines().map(move |group| (mount, group)));
    pairs.filter_map(|(mount, group)| folders_of(root, mount, group)).flatten().collect()
}

fn folders_of(root: &Path, mount: &str, group: &str) -> Option<Vec<PathBuf>> {
    let (place, kind) = mount.split_once(" - ")?;
    let mut place = place.split(' ').skip(3);
    let (mounted_root, mount_point) = (place.next()?, place.next()?.trim_start_matches('/'));
    let (kind, options) = (kind.split(' ').next()?, kind.rsplit(' ').next()?);
    let mut group = group.splitn(3, ':').skip(1);
    let (controllers, path) = (group.next()?, group.next()?);
    let version_2 = kind == "cgroup2" && controllers.is_empty();
    let version_1 =
        kind == "cgroup" && options.split(',').any(|option| controllers.split(',').any(|one| one == option));
    let below = Path::new(path).strip_prefix(mounted_root).unwrap_or(Path::new(""));
    (version_1 || version_2).then(|| below.ancestors().map(|part| root.join(mount_point).join(part)).collect())
}

/// Whole threads that a quota is worth, at least one.
fn cpu_quota(folder: &Path) -> Option<u64> {
    let read = |file: &str| std::fs::read_to_string(folder.join(file)).ok();
    let text = read("cpu.max").or_else(|| Some(read("cpu.cfs_quota_us")? + " " + &read("cpu.cfs_period_us")?))?;
    let mut numbers = text.split_whitespace().map(str::parse::<u64>);
    let (quota, period) = (numbers.next()?.ok()?, numbers.next()?.ok()?);
    Some(quota.checked_div(period)?.max(1))
}

/// What a memory limit leaves, where files that are only cached count as free.
fn memory_left(folder: &Path) -> Option<u64> {
    let read = |file: &str| std::fs::read_to_string(folder.join(file)).ok()?.trim().parse::<u64>().ok();
    let limit = read("memory.max").or_else(|| read("memory.limit_in_bytes"))?;
    let used = read("memory.current").or_else(|| read("memory.usage_in_bytes")).unwrap_or(0);
    let cached = ["total_inactive_file ", "inactive_file "].iter().find_map(|name| field(folder, "memory.stat", name));
    let cached = cached.and_then(|text| text.parse().ok()).unwrap_or(0);
    Some(limit.saturating_sub(used.saturating_sub(cached)))
}

/// What follows a name at the begin of a line of a file.
fn field(folder: &Path, file: &str, name: &str) -> Option<String> {
    let text = std::fs::read_to_string(folder.join(file)).ok()?;
    text.lines().find_map(|line| line.strip_prefix(name)).map(|value| value.trim().to_owned())
}

/// How many processors a list such as `0-3,8` has.
fn count_cpus(list: &str) -> u64 {
    list.split(',')
        .filter_map(|range| {
            let (first, last) = range.split_once('-').unwrap_or((range, range));
            Some((last.parse::<u64>().ok()? + 1).saturating_sub(first.parse().ok()?))
        })
        .sum()
}

#[cfg(test)]
#[path = "host_tests.rs"]
mod tests;

//! What this process may use of its host: threads and memory, and which limit decides.

use std::path::{Path, PathBuf};

use noa_agent::JsonSchema;
use serde::Serialize;

/// An amount and what it comes from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, JsonSchema)]
pub struct Limit {
    pub value: u64,
    pub from: String,
}

/// The tightest limits that are in force.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, JsonSchema)]
pub struct Host {
    pub threads: Limit,
    pub memory_bytes: Limit,
}

impl Limit {
    pub fn new(value: u64, from: impl Into<String>) -> Self {
        Self { value, from: from.into() }
    }

    /// The tighter one of two.
    pub fn min(self, other: Self) -> Self {
        if other.value < self.value { other } else { self }
    }
}

impl Host {
    /// Reads the limits below `root`, which is `/` but in tests: affinity, free memory, and every control group
    /// (version 1 or 2) from this process's own up to the one that is mounted. What cannot be read does not limit.
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

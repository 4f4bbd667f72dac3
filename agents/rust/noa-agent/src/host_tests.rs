use super::*;
use std::fs;
use tempfile::TempDir;

const V2_MOUNT: &str = "30 24 0:27 / /sys/fs/cgroup rw,nosuid shared:9 - cgroup2 cgroup2 rw,nsdelegate\n";
const GIB: u64 = 1 << 30;

fn host(files: &[(&str, &str)]) -> (TempDir, Host) {
    let root = tempfile::tempdir().unwrap();
    let common = [
        ("proc/self/status", "Name:\tx\nCpus_allowed_list:\t0-5,8,10-11\n"),
        ("proc/meminfo", "MemTotal: 33554432 kB\nMemAvailable:   16777216 kB\n"),
    ];
    for (path, text) in common.iter().chain(files) {
        let path = root.path().join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }
    let host = Host::read(root.path());
    (root, host)
}

#[test]
fn without_groups_affinity_and_free_memory_decide() {
    let (_root, host) = host(&[]);
    assert_eq!(host.threads, Limit::new(9, "affinity of the process"));
    assert_eq!(host.memory_bytes, Limit::new(16 * GIB, "MemAvailable of the host"));
}

#[test]
fn the_tightest_group_on_the_whole_path_decides() {
    let (_root, host) = host(&[
        ("proc/self/mountinfo", V2_MOUNT),
        ("proc/self/cgroup", "0::/outer/inner\n"),
        ("sys/fs/cgroup/outer/cpu.max", "250000 100000\n"),
        ("sys/fs/cgroup/outer/inner/cpu.max", "max 100000\n"),
        ("sys/fs/cgroup/outer/memory.max", "max\n"),
        ("sys/fs/cgroup/outer/inner/memory.max", "4294967296\n"),
        ("sys/fs/cgroup/outer/inner/memory.current", "2147483648\n"),
        ("sys/fs/cgroup/outer/inner/memory.stat", "anon 1\ninactive_file 1073741824\n"),
    ]);
    assert_eq!(host.threads, Limit::new(2, "processor quota of control group /sys/fs/cgroup/outer"));
    assert_eq!(host.memory_bytes.value, 3 * GIB);
    assert!(host.memory_bytes.from.ends_with("/sys/fs/cgroup/outer/inner"), "{}", host.memory_bytes.from);
}

#[test]
fn a_quota_below_one_processor_is_one_thread() {
    let (_root, host) = host(&[
        ("proc/self/mountinfo", V2_MOUNT),
        ("proc/self/cgroup", "0::/\n"),
        ("sys/fs/cgroup/cpu.max", "50000 100000\n"),
    ]);
    assert_eq!(host.threads.value, 1);
}

#[test]
fn groups_of_version_1_are_read_where_they_are_mounted() {
    let (_root, host) = host(&[
        (
            "proc/self/mountinfo",
            "31 24 0:28 /docker/a /cg/cpu rw - cgroup cgroup rw,cpu,cpuacct\n\
             32 24 0:29 /docker/a /cg/memory rw - cgroup cgroup rw,memory\n",
        ),
        ("proc/self/cgroup", "4:memory:/docker/a/job\n2:cpu,cpuacct:/docker/a\n0::/\n"),
        ("cg/cpu/cpu.cfs_quota_us", "400000\n"),
        ("cg/cpu/cpu.cfs_period_us", "100000\n"),
        ("cg/memory/memory.limit_in_bytes", "9223372036854771712\n"),
        ("cg/memory/job/memory.limit_in_bytes", "2147483648\n"),
        ("cg/memory/job/memory.usage_in_bytes", "1073741824\n"),
    ]);
    assert_eq!(host.threads.value, 4);
    assert_eq!(host.memory_bytes.value, GIB);
}

#[test]
fn no_quota_is_no_limit() {
    let (_root, host) = host(&[
        ("proc/self/mountinfo", "31 24 0:28 / /cg/cpu rw - cgroup cgroup rw,cpu\nnonsense\n"),
        ("proc/self/cgroup", "2:cpu:/\nnonsense\n"),
        ("cg/cpu/cpu.cfs_quota_us", "-1\n"),
        ("cg/cpu/cpu.cfs_period_us", "100000\n"),
    ]);
    assert_eq!(host.threads.value, 9);
}

#[test]
fn this_host_has_something() {
    let host = Host::here();
    assert!(host.threads.value >= 1 && host.memory_bytes.value > 0, "{host:?}");
}

#[test]
fn a_bound_counts_where_it_is_tighter() {
    let limit = || Limit::new(8, "host");
    assert_eq!(limit().at_most(None, "input"), limit());
    assert_eq!(limit().at_most(Some(8), "input"), limit());
    assert_eq!(limit().at_most(Some(2), "input"), Limit::new(2, "input"));
}

#[test]
fn a_shortage_says_by_how_much_as_a_failure_too() {
    assert_eq!(Limit::new(8, "host").at_least(8, "threads"), Ok(Limit::new(8, "host")));
    let failure = Failure::from(Limit::new(8, "host").at_least(9, "threads").unwrap_err());
    assert_eq!((failure.code.as_str(), failure.retryable), ("RESOURCES_EXCEEDED", false));
    assert_eq!(failure.message, "9 threads are needed, 8 are available (host): 1 too few");
    assert_eq!((&failure.details["needed"], &failure.details["available"]), (&9.into(), &8.into()));
}

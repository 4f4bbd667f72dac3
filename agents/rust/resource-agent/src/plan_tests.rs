use super::{Allocation, Found, Host, Input, MODEL_BYTES, ROW_BYTES, Shortage};
use noa_agent::host::Limit;

const GIB: u64 = 1 << 30;

fn host(threads: u64, memory_bytes: u64) -> Host {
    Host { threads: Limit::new(threads, "test"), memory_bytes: Limit::new(memory_bytes, "test") }
}

fn plan(sizes: &[u64], host: Host, asked: &Input) -> Result<Allocation, Shortage> {
    super::plan(&Found { sizes: sizes.to_vec(), unreadable: 0 }, host, asked)
}

fn planned(sizes: &[u64], threads: u64) -> Allocation {
    plan(sizes, host(threads, 8 * GIB), &Input::default()).unwrap()
}

fn bytes(allocation: &Allocation) -> Vec<u64> {
    allocation.shards.iter().map(|shard| shard.bytes).collect()
}

#[test]
fn the_largest_file_goes_first_to_the_emptiest_shard() {
    let allocation = planned(&[2, 3, 4, 6, 2, 2], 3);
    assert_eq!(bytes(&allocation), [6, 6, 7]); // 6 | 4+2 | 3+2+2
    assert_eq!(allocation.shards.iter().map(|shard| shard.files).collect::<Vec<_>>(), [1, 2, 3]);
    assert!((allocation.imbalance - 7.0 * 3.0 / 19.0).abs() < 1e-12);
}

#[test]
fn nothing_is_lost_and_no_shard_is_far_above_the_mean() {
    let sizes: Vec<u64> = (0..10_000).map(|number| number * 7919 % 10_007).collect();
    let allocation = planned(&sizes, 7);
    assert_eq!(allocation.input_bytes, sizes.iter().sum::<u64>());
    assert_eq!(allocation.shards.iter().map(|shard| shard.files).sum::<u64>(), 10_000);
    assert!(allocation.imbalance < 1.001, "{}", allocation.imbalance);
}

#[test]
fn empty_files_are_shared_out_too() {
    assert!(planned(&[0; 9], 3).shards.iter().all(|shard| shard.files == 3));
    assert_eq!(planned(&[0; 9], 3).imbalance, 1.0);
    assert_eq!(planned(&[], 2).shards.len(), 2);
}

#[test]
fn bounds_lower_what_the_host_has_and_are_named() {
    let bounds = Input { threads: Some(2), memory_bytes: Some(GIB), max_shards: Some(1), ..Input::default() };
    let allocation = plan(&[1, 2], host(8, 8 * GIB), &bounds).unwrap();
    assert_eq!((allocation.threads, allocation.memory_bytes, allocation.shards.len()), (2, GIB, 1));
    assert_eq!(allocation.limits.threads.from, "input threads");
    let bounds = Input { threads: Some(99), ..Input::default() };
    assert_eq!(plan(&[], host(8, GIB), &bounds).unwrap().limits.threads, Limit::new(8, "test"));
}

#[test]
fn the_batch_follows_threads_and_shrinks_with_memory() {
    let batch = |threads, memory| plan(&[100], host(threads, memory), &Input::default()).unwrap().batch_size;
    assert_eq!(batch(1, 8 * GIB), 64);
    assert_eq!(batch(64, 8 * GIB), 256);
    assert_eq!(batch(64, MODEL_BYTES + 100 + 10 * ROW_BYTES), 10);
    assert_eq!(batch(64, MODEL_BYTES + 100), 1);
}

#[test]
fn what_does_not_fit_says_by_how_much() {
    let shortage = plan(&[5, GIB], host(2, GIB), &Input::default()).unwrap_err();
    assert_eq!((shortage.needed, shortage.available.value), (MODEL_BYTES + GIB, GIB));
    assert!(shortage.to_string().ends_with("1073741824 are available (test): 268435456 too few"), "{shortage}");
    let refused = |asked: &Input| plan(&[1], host(2, GIB), asked).unwrap_err().to_string();
    assert!(refused(&Input { threads: Some(0), ..Input::default() }).contains("input threads"));
    assert!(refused(&Input { memory_bytes: Some(MODEL_BYTES), ..Input::default() }).contains(": 1 too few"));
    assert!(refused(&Input { max_shards: Some(0), ..Input::default() }).contains("input max_shards"));
}

#[test]
fn absurd_sizes_do_not_overflow() {
    assert!(plan(&[u64::MAX, u64::MAX], host(1, u64::MAX), &Input::default()).is_ok());
}

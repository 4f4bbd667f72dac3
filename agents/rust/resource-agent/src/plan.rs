//! Plans how to share out files over threads. Pure: numbers in, numbers out.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use noa_agent::JsonSchema;
use serde::Serialize;

use crate::host::{Host, Limit};

/// What a model and its runtime take before the first row.
pub const MODEL_BYTES: u64 = 256 << 20;
/// One row of a batch: 2,048 features of 4 bytes, and about seven times that in activations.
pub const ROW_BYTES: u64 = 64 << 10;
const ROWS_PER_THREAD: u64 = 64;
const MOST_ROWS: u64 = 256;

/// Upper bounds that the caller sets.
#[derive(Debug, Clone, Copy, Default)]
pub struct Bounds {
    pub threads: Option<u64>,
    pub memory_bytes: Option<u64>,
    pub max_shards: Option<u64>,
}

/// What later tasks may use, and how the files are shared out.
#[derive(Debug, Serialize, JsonSchema)]
pub struct Allocation {
    pub threads: u64,
    pub memory_bytes: u64,
    pub batch_size: u64,
    pub input_bytes: u64,
    pub input_files: u64,
    /// Entries that could not be looked at.
    pub unreadable_files: u64,
    /// What decided about threads and memory.
    pub limits: Host,
    pub shards: Vec<Shard>,
    /// Bytes of the largest shard over the mean; 1 is perfect.
    pub imbalance: f64,
}

/// The part of one thread.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, JsonSchema)]
pub struct Shard {
    pub index: u64,
    pub files: u64,
    pub bytes: u64,
}

/// That something does not fit.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("{needed} {what} are needed, {} are available ({}): {} too few", available.value, available.from, needed - available.value)]
pub struct Shortage {
    pub what: &'static str,
    pub needed: u64,
    pub available: Limit,
}

/// Plans for files of these sizes within the tighter of host and bounds.
pub fn plan(sizes: &[u64], unreadable_files: u64, host: Host, bounds: Bounds) -> Result<Allocation, Shortage> {
    let largest = sizes.iter().copied().max().unwrap_or(0);
    let threads = enough("threads", 1, bounded(host.threads, bounds.threads, "threads"))?;
    let needed = MODEL_BYTES.saturating_add(largest);
    let memory = bounded(host.memory_bytes, bounds.memory_bytes, "memory_bytes");
    let memory = enough("bytes of memory for the model and the largest file", needed, memory)?;
    let shard_count = enough("shards", 1, bounded(threads.clone(), bounds.max_shards, "max_shards"))?.value;
    let shards = share_out(sizes, shard_count);
    Ok(Allocation {
        threads: threads.value,
        memory_bytes: memory.value,
        batch_size: (ROWS_PER_THREAD.saturating_mul(threads.value))
            .min((memory.value - needed) / ROW_BYTES)
            .clamp(1, MOST_ROWS),
        input_bytes: total(&shards),
        input_files: sizes.len() as u64,
        unreadable_files,
        limits: Host { threads, memory_bytes: memory },
        imbalance: imbalance(&shards),
        shards,
    })
}

fn bounded(limit: Limit, bound: Option<u64>, input: &str) -> Limit {
    limit.min(Limit::new(bound.unwrap_or(u64::MAX), format!("input {input}")))
}

fn enough(what: &'static str, needed: u64, available: Limit) -> Result<Limit, Shortage> {
    if available.value < needed { Err(Shortage { what, needed, available }) } else { Ok(available) }
}

/// Longest processing time first (Graham 1969): the largest file goes to the shard that has least; at most a third
/// above the best possible.
fn share_out(sizes: &[u64], count: u64) -> Vec<Shard> {
    let mut sizes = sizes.to_vec();
    sizes.sort_unstable_by_key(|&size| Reverse(size));
    let mut least: BinaryHeap<_> = (0..count).map(|index| Reverse((0_u64, 0_u64, index))).collect();
    for size in sizes {
        let Some(mut shard) = least.peek_mut() else { break };
        shard.0.0 = shard.0.0.saturating_add(size);
        shard.0.1 += 1;
    }
    let mut shards: Vec<_> =
        least.into_iter().map(|Reverse((bytes, files, index))| Shard { index, files, bytes }).collect();
    shards.sort_unstable_by_key(|shard| shard.index);
    shards
}

fn total(shards: &[Shard]) -> u64 {
    shards.iter().fold(0, |sum, shard| sum.saturating_add(shard.bytes))
}

fn imbalance(shards: &[Shard]) -> f64 {
    let largest = shards.iter().map(|shard| shard.bytes).max().unwrap_or(0);
    let mean = total(shards) as f64 / shards.len().max(1) as f64;
    if mean > 0.0 { largest as f64 / mean } else { 1.0 }
}

#[cfg(test)]
#[path = "plan_tests.rs"]
mod tests;

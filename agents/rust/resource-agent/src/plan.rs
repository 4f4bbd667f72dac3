//! Plans how to share out files over threads. Pure: numbers in, numbers out.

use std::cmp::Reverse;

use noa_agent::JsonSchema;
use noa_agent::host::{Host, Shortage};
use serde::Serialize;

use crate::Input;
use crate::files::Found;

/// What a model and its runtime take before the first row.
pub const MODEL_BYTES: u64 = 256 << 20;
/// One row of a batch: 2,048 features of 4 bytes, and about seven times that in activations.
pub const ROW_BYTES: u64 = 64 << 10;
const ROWS_PER_THREAD: u64 = 64;
const MOST_ROWS: u64 = 256;

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

/// Plans for these files within the tighter of what the host has and what is asked.
pub fn plan(found: &Found, host: Host, asked: &Input) -> Result<Allocation, Shortage> {
    let largest = found.sizes.iter().copied().max().unwrap_or(0);
    let needed = MODEL_BYTES.saturating_add(largest);
    let threads = host.threads.at_most(asked.threads, "input threads").at_least(1, "threads")?;
    let memory_bytes = host
        .memory_bytes
        .at_most(asked.memory_bytes, "input memory_bytes")
        .at_least(needed, "bytes of memory for the model and the largest file")?;
    let count = threads.clone().at_most(asked.max_shards, "input max_shards").at_least(1, "shards")?.value;
    let shards = share_out(&found.sizes, count);
    let total = shards.iter().fold(0_u64, |sum, shard| sum.saturating_add(shard.bytes));
    let fullest = shards.iter().map(|shard| shard.bytes).max().unwrap_or(0);
    let rows_that_fit = (memory_bytes.value - needed) / ROW_BYTES;
    Ok(Allocation {
        threads: threads.value,
        memory_bytes: memory_bytes.value,
        batch_size: ROWS_PER_THREAD.saturating_mul(threads.value).min(rows_that_fit).clamp(1, MOST_ROWS),
        input_bytes: total,
        input_files: found.sizes.len() as u64,
        unreadable_files: found.unreadable,
        limits: Host { threads, memory_bytes },
        imbalance: if total > 0 { fullest as f64 * count as f64 / total as f64 } else { 1.0 },
        shards,
    })
}

/// Longest processing time first (Graham 1969): the largest file goes to the shard that has least; at most a third
/// above the best possible.
fn share_out(sizes: &[u64], count: u64) -> Vec<Shard> {
    let mut sizes = sizes.to_vec();
    sizes.sort_unstable_by_key(|&size| Reverse(size));
    let mut shards: Vec<_> = (0..count).map(|index| Shard { index, files: 0, bytes: 0 }).collect();
    for size in sizes {
        if let Some(least) = shards.iter_mut().min_by_key(|shard| (shard.bytes, shard.files)) {
            least.bytes = least.bytes.saturating_add(size);
            least.files += 1;
        }
    }
    shards
}

#[cfg(test)]
#[path = "plan_tests.rs"]
mod tests;

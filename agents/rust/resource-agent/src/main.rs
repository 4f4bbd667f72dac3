//! The agent that looks at its host and plans how to share out a folder of files.

mod files;
mod plan;

use std::io;
use std::path::PathBuf;

use noa_agent::host::Host;
use noa_agent::{Agent, Context, Failure, JsonSchema, Progress};
use serde::{Deserialize, Serialize};

use files::find;
use plan::{Allocation, plan};

const FILES_PER_REPORT: usize = 2_000;

/// What is asked.
#[derive(Debug, Default, Deserialize, JsonSchema)]
struct Input {
    /// Folder whose files are shared out.
    path: PathBuf,
    /// Takes the first files only, in the order of the walk.
    max_files: Option<usize>,
    /// Whether to follow symbolic links. Default: no.
    follow_links: Option<bool>,
    /// Names of folders to pass over. Default: `.git`, `target` and the like.
    exclude: Option<Vec<String>>,
    /// At most so many threads.
    threads: Option<u64>,
    /// At most so much memory.
    memory_bytes: Option<u64>,
    /// At most so many shards. Default: one for each thread.
    max_shards: Option<u64>,
}

#[derive(Debug, Serialize, JsonSchema)]
struct Output {
    allocation: Allocation,
}

fn main() {
    tracing_subscriber::fmt().with_writer(io::stderr).with_ansi(false).init();
    Agent::new("rust", env!("CARGO_PKG_VERSION"))
        .blocking_action(
            "resource_allocation",
            "Reads the limits of the host and plans shards of a folder's files that fit them",
            true,
            allocate,
        )
        .with_echo()
        .capacity(256)
        .run()
}

fn allocate(context: &Context, input: Input) -> Result<Output, Failure> {
    let mut next_report = FILES_PER_REPORT;
    let found = find(&input, |found| {
        if found.sizes.len() >= next_report {
            next_report += FILES_PER_REPORT;
            let (done, unit) = (Some(found.sizes.len() as u64), "files".into());
            context.progress(Progress { done, unit, message: "looking at files".into(), ..Progress::default() });
        }
        context.check()
    })?;
    Ok(Output { allocation: plan(&found, Host::here(), &input)? })
}

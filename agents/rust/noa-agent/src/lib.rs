//! Write agents for noa in Rust. An author writes actions, async functions from a typed input to a typed output; this
//! crate does the contract: launch, token, the three calls, joining and repeating, deadlines, cancellation, heartbeats,
//! values by reference, draining.
//!
//! ```no_run
//! use noa_agent::{Agent, Context, Failure, JsonSchema};
//! use serde::{Deserialize, Serialize};
//!
//! #[derive(Deserialize, JsonSchema)]
//! struct Input {
//!     text: String,
//! }
//!
//! #[derive(Serialize, JsonSchema)]
//! struct Output {
//!     words: usize,
//! }
//!
//! async fn count_words(_context: Context, input: Input) -> Result<Output, Failure> {
//!     Ok(Output { words: input.text.split_whitespace().count() })
//! }
//!
//! #[tokio::main]
//! async fn main() {
//!     Agent::new("words", env!("CARGO_PKG_VERSION"))
//!         .action("count_words", "Counts the words of a text", true, count_words)
//!         .capacity(8)
//!         .serve()
//!         .await;
//! }
//! ```
//!
//! Actions run on the author's tokio runtime. Calls are answered on a thread of their own, so the agent stays
//! responsive while actions keep every core busy. Work that computes or blocks belongs into
//! [`Agent::blocking_action`] or [`Context::blocking`]; with [`Agent::run`] the runtime is made too.

mod agent;
mod artifacts;
mod auth;
mod children;
mod context;
mod echo;
mod execution;
mod executions;
mod failure;
mod holds;
pub mod host;
mod json;
mod launch;
mod lifecycle;
mod lock;
mod manifest;
mod payload;
mod schema;
mod server;
mod service;
mod stream;
mod text;
mod uri;
mod whole_file;
mod work;

pub use agent::{Agent, AgentError, RunningAgent};
pub use artifacts::{ArtifactRef, ArtifactWriter, Artifacts};
pub use context::{Context, LogLevel, Progress};
pub use failure::Failure;
pub use holds::Released;
pub use launch::{Launch, LaunchError, Listen};
pub use schemars::{self, JsonSchema};
pub use tokio_util::sync::CancellationToken;
pub use uri::path_of;
pub use whole_file::WholeFile;

/// The version of the contract that this crate speaks.
pub const PROTOCOL_VERSION: u32 = 1;

/// The codes of failures that this crate gives, for comparing.
pub mod codes {
    pub use crate::failure::{
        ARTIFACT_UNREADABLE, ARTIFACT_UNWRITABLE, CANCELLED, DEADLINE_EXCEEDED, INTERNAL, INVALID_INPUT, OVERLOADED,
        PAYLOAD_TOO_LARGE, RESOURCES_EXCEEDED, UNKNOWN_ACTION,
    };
}

/// The contract's messages, generated from the protos: for tests that speak to an agent as an engine does.
#[allow(missing_docs, clippy::all, clippy::unwrap_used)]
pub mod proto {
    tonic::include_proto!("noa.agent.v1");
}

//! Work that failed, as data. Owns the codes of the contract and the limits that a failure keeps on its way out.

use std::fmt::{self, Display};
use std::time::Duration;

use serde_json::{Map, Value};

use crate::json::struct_from_json;
use crate::proto;
use crate::text::cut;

/// The work was cancelled by the engine.
pub const CANCELLED: &str = "CANCELLED";
/// The deadline passed before the work ended.
pub const DEADLINE_EXCEEDED: &str = "DEADLINE_EXCEEDED";
/// The agent has no action of that name.
pub const UNKNOWN_ACTION: &str = "UNKNOWN_ACTION";
/// The input is not what the action takes.
pub const INVALID_INPUT: &str = "INVALID_INPUT";
/// The agent has as much work as it takes, or takes none now.
pub const OVERLOADED: &str = "OVERLOADED";
/// A value is larger than it may be.
pub const PAYLOAD_TOO_LARGE: &str = "PAYLOAD_TOO_LARGE";
/// The work panicked or failed with an error that it did not declare.
pub const INTERNAL: &str = "INTERNAL";
/// An artifact cannot be read or is not what its reference says.
pub const ARTIFACT_UNREADABLE: &str = "ARTIFACT_UNREADABLE";
/// An artifact or output file cannot be written.
pub const ARTIFACT_UNWRITABLE: &str = "ARTIFACT_UNWRITABLE";

/// The host has less than the work needs.
pub const RESOURCES_EXCEEDED: &str = "RESOURCES_EXCEEDED";

const MESSAGE_LIMIT: usize = 16 * 1024;
const DETAILS_LIMIT: usize = 64 * 1024;
const CAUSE_DEPTH: usize = 8;

/// Why an action did not do its work. The recovery chain of the definition decides what follows.
#[derive(Debug, Clone, PartialEq)]
pub struct Failure {
    /// Stable code in UPPER_SNAKE_CASE.
    pub code: String,
    /// One sentence for a person: what happened, where, what to do. Cut at 16 KiB.
    pub message: String,
    /// Whether another attempt may succeed.
    pub retryable: bool,
    /// How long to wait at least before another attempt.
    pub retry_after: Option<Duration>,
    /// Facts for programs. Left out when above 64 KiB as JSON.
    pub details: Map<String, Value>,
    /// What caused this. At most 8 levels are kept.
    pub cause: Option<Box<Failure>>,
}

impl Failure {
    /// A failure that another attempt would meet again.
    pub fn new(code: impl Into<String>, message: impl Into<String>) -> Self {
        Self {
            code: code.into(),
            message: message.into(),
            retryable: false,
            retry_after: None,
            details: Map::new(),
            cause: None,
        }
    }

    /// A failure that the action did not declare.
    pub fn internal(error: impl Display) -> Self {
        Self::new(INTERNAL, error.to_string())
    }

    /// What an action returns once it has noticed that it is cancelled.
    pub fn cancelled() -> Self {
        Self::new(CANCELLED, "the execution was cancelled")
    }

    /// Says that another attempt may succeed.
    #[must_use]
    pub fn retryable(mut self) -> Self {
        self.retryable = true;
        self
    }

    /// Says that another attempt may succeed, but not before this time.
    #[must_use]
    pub fn retry_after(mut self, wait: Duration) -> Self {
        self.retry_after = Some(wait);
        self.retryable()
    }

    /// Adds a fact for programs.
    #[must_use]
    pub fn detail(mut self, name: impl Into<String>, value: impl Into<Value>) -> Self {
        self.details.insert(name.into(), value.into());
        self
    }

    /// Names what caused this failure.
    #[must_use]
    pub fn caused_by(mut self, cause: Failure) -> Self {
        self.cause = Some(Box::new(cause));
        self
    }

    pub(crate) fn into_proto(self) -> proto::Failure {
        self.into_proto_at(1)
    }

    fn into_proto_at(self, level: usize) -> proto::Failure {
        let cause = self.cause.filter(|_| level < CAUSE_DEPTH);
        proto::Failure {
            code: self.code,
            message: cut(self.message, MESSAGE_LIMIT),
            retryable: self.retryable,
            retry_after: self.retry_after.and_then(|wait| wait.try_into().ok()),
            details: fitting(self.details),
            cause: cause.map(|cause| Box::new(cause.into_proto_at(level + 1))),
        }
    }
}

fn fitting(details: Map<String, Value>) -> Option<prost_types::Struct> {
    let size = serde_json::to_vec(&details).map_or(usize::MAX, |json| json.len());
    (!details.is_empty() && size <= DETAILS_LIMIT).then(|| struct_from_json(details))
}

impl Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.code, self.message)
    }
}

impl std::error::Error for Failure {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.cause.as_deref().map(|cause| cause as _)
    }
}

impl From<std::io::Error> for Failure {
    fn from(error: std::io::Error) -> Self {
        Self::internal(error)
    }
}

impl From<serde_json::Error> for Failure {
    fn from(error: serde_json::Error) -> Self {
        Self::internal(error)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_too_large_is_cut_on_the_way_out() {
        let mut failure = Failure::new("LEAF", "x");
        for level in 0..12 {
            failure = Failure::new(format!("LEVEL_{level}"), "é".repeat(20_000))
                .detail("blob", "y".repeat(70_000))
                .caused_by(failure);
        }
        let mut sent = Some(failure.into_proto());
        let mut depth = 0;
        while let Some(failure) = sent {
            assert!(failure.message.len() <= MESSAGE_LIMIT);
            assert_eq!(failure.details, None);
            depth += 1;
            sent = failure.cause.map(|cause| *cause);
        }
        assert_eq!(depth, CAUSE_DEPTH);
    }

    #[test]
    fn every_part_arrives() {
        let sent =
            Failure::new("BUSY", "later").retry_after(Duration::from_millis(1500)).detail("free", 3).into_proto();
        assert!(sent.retryable);
        assert_eq!(sent.retry_after, Some(prost_types::Duration { seconds: 1, nanos: 500_000_000 }));
        assert!(sent.details.is_some_and(|details| details.fields.contains_key("free")));
    }
}

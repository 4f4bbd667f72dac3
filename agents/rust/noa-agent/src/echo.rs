//! The action `echo`, for conformance tests and benchmarks: gives back what it is given.

use std::time::Duration;

use serde_json::{Map, Value, json};

use crate::context::Context;
use crate::failure::{Failure, INVALID_INPUT};

pub(crate) const DESCRIPTION: &str =
    "Gives back its input; waits 'sleep_s' seconds first; fails with 'fail' {code, message, retryable} if it is there";

pub(crate) async fn echo(context: Context, input: Map<String, Value>) -> Result<Value, Failure> {
    if let Some(pause) = pause_in(&input)? {
        tokio::select! {
            () = tokio::time::sleep(pause) => {}
            () = context.cancelled() => return Err(Failure::cancelled()),
        }
    }
    match input.get("fail") {
        None | Some(Value::Null) => Ok(json!({ "echo": input })),
        Some(asked) => Err(asked_failure(asked)?),
    }
}

fn pause_in(input: &Map<String, Value>) -> Result<Option<Duration>, Failure> {
    match input.get("sleep_s") {
        None | Some(Value::Null) => Ok(None),
        Some(value) => value
            .as_f64()
            .and_then(|seconds| Duration::try_from_secs_f64(seconds).ok())
            .map(Some)
            .ok_or_else(|| unfit("sleep_s", "a number of seconds, 0 or more")),
    }
}

fn asked_failure(asked: &Value) -> Result<Failure, Failure> {
    let asked = asked.as_object().ok_or_else(|| unfit("fail", "an object"))?;
    let text = |name: &str, default: &str| asked.get(name).and_then(Value::as_str).unwrap_or(default).to_owned();
    let failure = Failure::new(text("code", "ECHO_FAILED"), text("message", "the input asked for this failure"));
    let retryable = asked.get("retryable").and_then(Value::as_bool).unwrap_or(false);
    Ok(if retryable { failure.retryable() } else { failure })
}

fn unfit(field: &str, expected: &str) -> Failure {
    Failure::new(INVALID_INPUT, format!("the input's field '{field}' does not fit: expected {expected}"))
        .detail("field", field)
}

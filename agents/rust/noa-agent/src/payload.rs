//! Values on their way in and out: inline while small, through the artifact store above 256 KiB.

use serde_json::Value;

use crate::artifacts::Artifacts;
use crate::failure::{Failure, INVALID_INPUT, PAYLOAD_TOO_LARGE};
use crate::proto::{self, payload};

/// Bytes that a message may have, in both directions.
pub(crate) const MESSAGE_BYTES: usize = 4 * 1024 * 1024;
/// Bytes that a value inside a message may have.
pub(crate) const INLINE_BYTES: usize = 256 * 1024;
const JSON: &str = "application/json";

/// The bytes of an input, wherever they are.
pub(crate) async fn load(payload: Option<proto::Payload>, artifacts: &Artifacts) -> Result<Vec<u8>, Failure> {
    // On the wire, no bytes look like an unset value to some languages.
    let Some(proto::Payload { content_type, value: Some(value) }) = payload else {
        return Ok(b"{}".to_vec());
    };
    if !is_json(&content_type) {
        let message = format!("the input is of type '{content_type}', expected {JSON}");
        return Err(Failure::new(INVALID_INPUT, message));
    }
    match value {
        payload::Value::Inline(json) if json.is_empty() => Ok(b"{}".to_vec()),
        payload::Value::Inline(json) if json.len() > INLINE_BYTES => {
            let message = format!("the inline input has {} bytes, at most {INLINE_BYTES} are allowed", json.len());
            Err(Failure::new(PAYLOAD_TOO_LARGE, message))
        }
        payload::Value::Inline(json) => Ok(json.into()),
        payload::Value::Artifact(artifact) => artifacts.read(&artifact.into()).await,
    }
}

/// Makes a payload of an action's output.
pub(crate) async fn store(json: Vec<u8>, artifacts: &Artifacts) -> Result<proto::Payload, Failure> {
    let value = if json.len() <= INLINE_BYTES {
        payload::Value::Inline(json.into())
    } else if artifacts.is_writable() {
        payload::Value::Artifact(artifacts.create(json, JSON).await?.into())
    } else {
        let message = format!("the output has {} bytes and there is no artifact store to put it in", json.len());
        return Err(Failure::new(PAYLOAD_TOO_LARGE, message));
    };
    Ok(proto::Payload { content_type: JSON.into(), value: Some(value) })
}

/// Whether JSON text is an object, as every input and output is.
pub(crate) fn is_object(json: &[u8]) -> bool {
    json.trim_ascii_start().starts_with(b"{")
}

fn is_json(content_type: &str) -> bool {
    let essence = content_type.split(';').next().unwrap_or_default().trim();
    essence.is_empty() || essence.eq_ignore_ascii_case(JSON)
}

/// The JSON of a schema, where it says more than "anything".
pub(crate) fn schema_struct(schema: schemars::Schema) -> Option<prost_types::Struct> {
    match Value::from(schema) {
        Value::Object(object) => Some(crate::json::struct_from_json(object)),
        _ => None,
    }
}

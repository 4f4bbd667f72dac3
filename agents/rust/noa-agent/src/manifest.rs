//! What an agent can be asked for: its actions with their schemas, and how a typed function becomes one.

use std::future::Future;
use std::pin::Pin;

use schemars::JsonSchema;
use schemars::generate::SchemaSettings;
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::PROTOCOL_VERSION;
use crate::context::Context;
use crate::failure::{Failure, INVALID_INPUT};
use crate::payload::{is_object, schema_struct};
use crate::proto;

type Work = Pin<Box<dyn Future<Output = Result<Vec<u8>, Failure>> + Send>>;
type Handler = Box<dyn Fn(Context, Vec<u8>) -> Work + Send + Sync>;

/// Something that the agent can be asked for.
pub(crate) struct Action {
    description: String,
    idempotent: bool,
    input_schema: schemars::Schema,
    output_schema: schemars::Schema,
    handler: Handler,
}

impl Action {
    pub(crate) fn new<I, O, E, F, W>(description: String, idempotent: bool, handler: F) -> Self
    where
        I: DeserializeOwned + JsonSchema + Send + 'static,
        O: Serialize + JsonSchema,
        E: Into<Failure>,
        F: Fn(Context, I) -> W + Send + Sync + 'static,
        W: Future<Output = Result<O, E>> + Send + 'static,
    {
        let handler = move |context: Context, json: Vec<u8>| -> Work {
            match parse(&json) {
                Ok(input) => {
                    let work = handler(context, input);
                    Box::pin(async move { render(&work.await.map_err(Into::into)?) })
                }
                Err(failure) => Box::pin(std::future::ready(Err(failure))),
            }
        };
        Self {
            description,
            idempotent,
            input_schema: SchemaSettings::draft2020_12().into_generator().into_root_schema_for::<I>(),
            output_schema: SchemaSettings::draft2020_12().for_serialize().into_generator().into_root_schema_for::<O>(),
            handler: Box::new(handler),
        }
    }

    /// Does the work: JSON in, JSON out.
    pub(crate) fn call(&self, context: Context, input: Vec<u8>) -> Work {
        (self.handler)(context, input)
    }

    fn describe(&self, name: &str) -> proto::Action {
        proto::Action {
            name: name.to_owned(),
            description: self.description.clone(),
            input_schema: schema_struct(self.input_schema.clone()),
            output_schema: schema_struct(self.output_schema.clone()),
            idempotent: self.idempotent,
        }
    }
}

/// Says who an agent of these actions is.
pub(crate) fn manifest<'a>(
    name: &str,
    version: &str,
    actions: impl Iterator<Item = (&'a String, &'a Action)>,
) -> proto::Manifest {
    proto::Manifest {
        name: name.to_owned(),
        language: "rust".into(),
        version: version.to_owned(),
        protocol_versions: vec![PROTOCOL_VERSION],
        actions: actions.map(|(name, action)| action.describe(name)).collect(),
    }
}

fn parse<I: DeserializeOwned>(json: &[u8]) -> Result<I, Failure> {
    if !is_object(json) {
        return Err(Failure::new(INVALID_INPUT, "the input is not a JSON object"));
    }
    let mut reader = serde_json::Deserializer::from_slice(json);
    let input = serde_path_to_error::deserialize(&mut reader).map_err(|error| {
        let field = error.path().to_string();
        match field.as_str() {
            "." => Failure::new(INVALID_INPUT, format!("the input does not fit: {}", error.inner())),
            _ => Failure::new(INVALID_INPUT, format!("the input's field '{field}' does not fit: {}", error.inner()))
                .detail("field", field),
        }
    })?;
    reader.end().map_err(|error| Failure::new(INVALID_INPUT, format!("the input is not JSON: {error}")))?;
    Ok(input)
}

fn render(output: &impl Serialize) -> Result<Vec<u8>, Failure> {
    let json = serde_json::to_vec(output)?;
    if is_object(&json) { Ok(json) } else { Err(Failure::internal("the action's output is not a JSON object")) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde::Deserialize;

    #[derive(Debug, Deserialize, JsonSchema)]
    struct Input {
        #[serde(rename = "files")]
        _files: Vec<Sized>,
    }

    #[derive(Debug, Deserialize, JsonSchema)]
    struct Sized {
        #[serde(rename = "bytes")]
        _bytes: u64,
    }

    #[test]
    fn an_input_that_does_not_fit_names_the_field() {
        for (json, named) in [
            (r#"{"files": [{"bytes": 1}, {"bytes": "x"}]}"#, "files[1].bytes"),
            (r#"{"files": [{}]}"#, "bytes"),
            (r"{}", "files"),
        ] {
            let failure = parse::<Input>(json.as_bytes()).unwrap_err();
            assert_eq!(failure.code, INVALID_INPUT);
            assert!(failure.message.contains(named), "{failure}");
        }
    }

    #[test]
    fn what_is_not_an_object_is_refused() {
        for json in ["", "[]", "null", "1", "{", "{} x", r#"{"files": []} {}"#] {
            assert_eq!(parse::<Input>(json.as_bytes()).unwrap_err().code, INVALID_INPUT, "{json}");
        }
    }

    #[test]
    fn an_output_is_an_object() {
        assert!(render(&[1]).is_err());
        assert_eq!(render(&serde_json::json!({"a": 1})).unwrap(), br#"{"a":1}"#);
    }
}

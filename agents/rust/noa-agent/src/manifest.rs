//! What an agent can be asked for: its actions with their schemas, and how a typed function becomes one.

use std::fmt::Display;
use std::future::Future;
use std::pin::Pin;

use schemars::JsonSchema;
use schemars::generate::SchemaSettings;
use serde::Serialize;
use serde::de::{DeserializeOwned, Deserializer};
use serde_json::Value;

use crate::PROTOCOL_VERSION;
use crate::context::Context;
use crate::failure::{Failure, INVALID_INPUT};
use crate::payload::{is_object, schema_struct};
use crate::proto;
use crate::schema::Shape;

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
        let input_schema = SchemaSettings::draft2020_12().into_generator().into_root_schema_for::<I>();
        let shape = Shape::new(input_schema.as_value().clone());
        let handler = move |context: Context, json: Vec<u8>| -> Work {
            match parse(&json, &shape) {
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
            input_schema,
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

fn parse<I: DeserializeOwned>(json: &[u8], shape: &Shape) -> Result<I, Failure> {
    let invalid = |problem: String| Failure::new(INVALID_INPUT, problem);
    let text = std::str::from_utf8(json).map_err(|error| invalid(format!("the input is not UTF-8: {error}")))?;
    if !is_object(json) {
        return Err(invalid("the input is not a JSON object".into()));
    }
    if shape.has_bounds() {
        let mut input: Value = read(text)?;
        shape.make_whole(&mut input);
        shape.check(&input).map_err(|misfit| unfit(&misfit.field, misfit.problem))?;
        return fit(input);
    }
    read(text).or_else(|failure| {
        let mut input = read(text)?;
        if shape.make_whole(&mut input) { fit(input) } else { Err(failure) }
    })
}

fn read<I: DeserializeOwned>(text: &str) -> Result<I, Failure> {
    let mut reader = serde_json::Deserializer::from_str(text);
    let input = fit(&mut reader)?;
    let end = reader.end();
    end.map_err(|error| Failure::new(INVALID_INPUT, format!("the input is not JSON: {error}")))?;
    Ok(input)
}

/// Reads a type; what does not fit is named by its field.
pub(crate) fn fit<'a, I: DeserializeOwned>(
    input: impl Deserializer<'a, Error = serde_json::Error>,
) -> Result<I, Failure> {
    serde_path_to_error::deserialize(input).map_err(|error| match error.path().to_string().as_str() {
        "." => Failure::new(INVALID_INPUT, format!("the input does not fit: {}", error.inner())),
        field => unfit(field, error.inner()),
    })
}

fn unfit(field: &str, problem: impl Display) -> Failure {
    Failure::new(INVALID_INPUT, format!("the input's field '{field}' does not fit: {problem}")).detail("field", field)
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

    fn parse_input(json: &[u8]) -> Result<Input, Failure> {
        parse(json, &Shape::new(schemars::schema_for!(Input).into()))
    }

    #[test]
    fn a_whole_number_may_be_written_with_a_fraction() {
        parse_input(br#"{"files": [{"bytes": 3.0}]}"#).unwrap();
        let failure = parse_input(br#"{"files": [{"bytes": 3.5}, {"bytes": 1.0}]}"#).unwrap_err();
        assert_eq!(failure.details["field"], "files[0].bytes");
    }

    #[test]
    fn an_input_that_does_not_fit_names_the_field() {
        for (json, named) in [
            (r#"{"files": [{"bytes": 1}, {"bytes": "x"}]}"#, "files[1].bytes"),
            (r#"{"files": [{}]}"#, "bytes"),
            (r"{}", "files"),
        ] {
            let failure = parse_input(json.as_bytes()).unwrap_err();
            assert_eq!(failure.code, INVALID_INPUT);
            assert!(failure.message.contains(named), "{failure}");
        }
    }

    #[test]
    fn what_is_not_an_object_is_refused() {
        for json in ["", "[]", "null", "1", "{", "{} x", r#"{"files": []} {}"#] {
            assert_eq!(parse_input(json.as_bytes()).unwrap_err().code, INVALID_INPUT, "{json}");
        }
    }

    #[test]
    fn a_value_out_of_an_announced_bound_is_refused() {
        #[derive(Debug, Deserialize, JsonSchema)]
        struct Level {
            #[schemars(range(max = 9))]
            level: u8,
        }
        let shape = Shape::new(schemars::schema_for!(Level).into());
        for json in [r#"{"level": 9}"#, r#"{"level": 9.0}"#] {
            assert_eq!(parse::<Level>(json.as_bytes(), &shape).unwrap().level, 9);
        }
        for (json, said) in [(r#"{"level": 10}"#, "10 is more than 9"), (r#"{"level": "1"}"#, "invalid type")] {
            let failure = parse::<Level>(json.as_bytes(), &shape).unwrap_err();
            assert_eq!(failure.details["field"], "level");
            assert!(failure.message.contains(said), "{failure}");
        }
        assert!(parse::<Level>(br#"{"level": 1} {"#, &shape).is_err());
    }

    #[test]
    fn text_that_is_not_utf_8_is_refused_also_where_nobody_reads_it() {
        let failure = parse_input(b"{\"files\": [], \"other\": \"\xff\"}").unwrap_err();
        assert!(failure.code == INVALID_INPUT && failure.message.contains("UTF-8"), "{failure}");
    }

    #[test]
    fn an_output_is_an_object() {
        assert!(render(&[1]).is_err());
        assert_eq!(render(&serde_json::json!({"a": 1})).unwrap(), br#"{"a":1}"#);
    }
}

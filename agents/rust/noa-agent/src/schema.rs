//! What an announced schema says of an input where serde says otherwise: bounds of numbers, lengths and counts, which
//! serde does not look at, and whole numbers that are written with a fraction, which it refuses.

use std::cmp::Ordering;

use serde_json::{Map, Value};

const BOUNDS: [&str; 9] = [
    "minimum",
    "maximum",
    "exclusiveMinimum",
    "exclusiveMaximum",
    "minLength",
    "maxLength",
    "minItems",
    "maxItems",
    "uniqueItems",
];

/// A value that is out of a bound.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Misfit {
    /// Where, such as `files[1].size`; empty for the whole.
    pub(crate) field: String,
    /// What is wrong.
    pub(crate) problem: String,
}

impl Misfit {
    fn below(self, place: &str) -> Self {
        let dot = if self.field.is_empty() || self.field.starts_with('[') { "" } else { "." };
        Self { field: format!("{place}{dot}{}", self.field), ..self }
    }
}

/// The schema of an input.
#[derive(Debug)]
pub(crate) struct Shape {
    schema: Value,
    has_bounds: bool,
}

impl Shape {
    pub(crate) fn new(schema: Value) -> Self {
        let has_bounds = has_bounds(&schema);
        Self { schema, has_bounds }
    }

    /// Whether it has bounds that its types do not keep by themselves.
    pub(crate) fn has_bounds(&self) -> bool {
        self.has_bounds
    }

    /// Writes whole numbers such as 3.0 without their fraction where integers are expected. False if there was none.
    pub(crate) fn make_whole(&self, input: &mut Value) -> bool {
        self.make_whole_at(&self.schema, input)
    }

    fn make_whole_at(&self, schema: &Value, value: &mut Value) -> bool {
        let Some(schema) = schema.as_object() else { return false };
        let mut changed = false;
        for choice in ["allOf", "anyOf", "oneOf"] {
            for branch in branches(schema, choice) {
                changed |= self.make_whole_at(branch, value);
            }
        }
        if let Some(named) = self.named_by(schema) {
            changed |= self.make_whole_at(named, value);
        }
        match value {
            Value::Number(number) if may_be_integer(schema) => {
                if let Some(whole) = number.as_f64().filter(|_| number.is_f64()).and_then(whole) {
                    *value = whole;
                    changed = true;
                }
            }
            Value::Object(fields) => {
                for (name, value) in fields {
                    changed |= field_of(schema, name).is_some_and(|schema| self.make_whole_at(schema, value));
                }
            }
            Value::Array(items) => {
                for (index, item) in items.iter_mut().enumerate() {
                    changed |= item_of(schema, index).is_some_and(|schema| self.make_whole_at(schema, item));
                }
            }
            _ => {}
        }
        changed
    }

    /// Checks an input, whose types may be wrong too: those are not looked at.
    pub(crate) fn check(&self, input: &Value) -> Result<(), Misfit> {
        self.check_at(&self.schema, input)
    }

    fn check_at(&self, schema: &Value, value: &Value) -> Result<(), Misfit> {
        let Some(schema) = schema.as_object() else { return Ok(()) };
        if let Some(problem) = check_value(schema, value) {
            return Err(Misfit { field: String::new(), problem });
        }
        if let Some(named) = self.named_by(schema) {
            self.check_at(named, value)?;
        }
        for part in branches(schema, "allOf") {
            self.check_at(part, value)?;
        }
        for choice in ["anyOf", "oneOf"] {
            let possible = branches(schema, choice).filter(|branch| self.takes_type(branch, value));
            possible.map(|branch| self.check_at(branch, value)).reduce(Result::or).unwrap_or(Ok(()))?;
        }
        match value {
            Value::Object(fields) => fields.iter().try_for_each(|(name, value)| {
                let Some(schema) = field_of(schema, name) else { return Ok(()) };
                self.check_at(schema, value).map_err(|misfit| misfit.below(name))
            }),
            Value::Array(items) => items.iter().enumerate().try_for_each(|(index, item)| {
                let Some(schema) = item_of(schema, index) else { return Ok(()) };
                self.check_at(schema, item).map_err(|misfit| misfit.below(&format!("[{index}]")))
            }),
            _ => Ok(()),
        }
    }

    fn named_by(&self, schema: &Map<String, Value>) -> Option<&Value> {
        self.schema.pointer(schema.get("$ref")?.as_str()?.strip_prefix('#')?)
    }

    fn takes_type(&self, schema: &Value, value: &Value) -> bool {
        let Some(schema) = schema.as_object() else { return true };
        let here = match schema.get("type") {
            Some(Value::String(name)) => is_of(name, value),
            Some(Value::Array(names)) => names.iter().filter_map(Value::as_str).any(|name| is_of(name, value)),
            _ => true,
        };
        here && self.named_by(schema).is_none_or(|named| self.takes_type(named, value))
    }
}

fn field_of<'a>(schema: &'a Map<String, Value>, name: &str) -> Option<&'a Value> {
    let known = schema.get("properties").and_then(|known| known.get(name));
    known.or_else(|| schema.get("additionalProperties"))
}

fn item_of(schema: &Map<String, Value>, index: usize) -> Option<&Value> {
    let first = schema.get("prefixItems").and_then(|first| first.get(index));
    first.or_else(|| schema.get("items"))
}

fn may_be_integer(schema: &Map<String, Value>) -> bool {
    match schema.get("type") {
        Some(Value::String(name)) => name == "integer",
        Some(Value::Array(names)) => names.iter().any(|name| name == "integer"),
        _ => false,
    }
}

/// The integer that is the same number.
#[allow(clippy::cast_possible_truncation)] // Within the range in which every integer is a double.
fn whole(number: f64) -> Option<Value> {
    const EXACT: f64 = 9_007_199_254_740_992.0;
    (number.fract() == 0.0 && number.abs() <= EXACT).then(|| Value::from(number as i64))
}

fn is_of(name: &str, value: &Value) -> bool {
    match name {
        "null" => value.is_null(),
        "boolean" => value.is_boolean(),
        "string" => value.is_string(),
        "array" => value.is_array(),
        "object" => value.is_object(),
        _ => value.is_number(),
    }
}

fn branches<'a>(schema: &'a Map<String, Value>, name: &str) -> impl Iterator<Item = &'a Value> {
    schema.get(name).and_then(Value::as_array).into_iter().flatten()
}

fn has_bounds(schema: &Value) -> bool {
    match schema {
        Value::Object(fields) => {
            let unsigned =
                fields.get("format").and_then(Value::as_str).is_some_and(|format| format.starts_with("uint"));
            let kept_by_type = |name: &str, bound: &Value| name == "minimum" && unsigned && bound.as_u64() == Some(0);
            fields.iter().any(|(name, value)| {
                let bound = BOUNDS.contains(&name.as_str()) && !value.is_object() && !kept_by_type(name, value);
                bound || has_bounds(value)
            })
        }
        Value::Array(items) => items.iter().any(has_bounds),
        _ => false,
    }
}

/// What is wrong with a value by the bounds of this schema alone.
fn check_value(schema: &Map<String, Value>, value: &Value) -> Option<String> {
    match value {
        Value::Number(_) => check_number(schema, value),
        Value::String(text) => check_count(schema, text.chars().count(), ("minLength", "maxLength"), "characters"),
        Value::Array(items) => {
            let repeated = || items.iter().enumerate().any(|(index, item)| items[..index].contains(item));
            let unique = schema.get("uniqueItems").and_then(Value::as_bool).unwrap_or(false);
            check_count(schema, items.len(), ("minItems", "maxItems"), "items")
                .or_else(|| (unique && repeated()).then(|| "it has an item twice".to_owned()))
        }
        _ => None,
    }
}

fn check_number(schema: &Map<String, Value>, value: &Value) -> Option<String> {
    let against = |name| {
        let bound = schema.get(name)?;
        Some((order(value, bound)?, bound))
    };
    let (least, most) = (against("minimum"), against("maximum"));
    let (above, below) = (against("exclusiveMinimum"), against("exclusiveMaximum"));
    match (least, most, above, below) {
        (Some((Ordering::Less, bound)), ..) => Some(format!("{value} is less than {bound}")),
        (_, Some((Ordering::Greater, bound)), ..) => Some(format!("{value} is more than {bound}")),
        (_, _, Some((Ordering::Less | Ordering::Equal, bound)), _) => Some(format!("{value} is not more than {bound}")),
        (_, _, _, Some((Ordering::Greater | Ordering::Equal, bound))) => {
            Some(format!("{value} is not less than {bound}"))
        }
        _ => None,
    }
}

/// Compares two numbers, exactly where both are whole.
fn order(one: &Value, other: &Value) -> Option<Ordering> {
    let whole = |value: &Value| value.as_i64().map(i128::from).or_else(|| value.as_u64().map(i128::from));
    match (whole(one), whole(other)) {
        (Some(one), Some(other)) => Some(one.cmp(&other)),
        _ => one.as_f64()?.partial_cmp(&other.as_f64()?),
    }
}

fn check_count(schema: &Map<String, Value>, count: usize, (least, most): (&str, &str), what: &str) -> Option<String> {
    let bound = |name| schema.get(name).and_then(Value::as_u64);
    match (bound(least), bound(most)) {
        (Some(least), _) if (count as u64) < least => Some(format!("{count} {what} are less than {least}")),
        (_, Some(most)) if count as u64 > most => Some(format!("{count} {what} are more than {most}")),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use schemars::JsonSchema;
    use serde_json::json;

    #[derive(JsonSchema)]
    #[allow(dead_code)]
    struct Input {
        #[schemars(range(min = 1, max = 9))]
        level: Option<u32>,
        #[schemars(length(min = 1))]
        files: Vec<File>,
        best: Option<File>,
        plain: Option<u64>,
    }

    #[derive(JsonSchema)]
    #[allow(dead_code)]
    struct File {
        #[schemars(length(max = 3))]
        path: String,
        #[schemars(extend("exclusiveMinimum" = 0.5))]
        weight: f64,
    }

    #[derive(JsonSchema)]
    #[allow(dead_code)]
    struct Plain {
        level: u32,
        names: Vec<Option<String>>,
        /// A field may have the name of a bound.
        minimum: bool,
    }

    fn schema_of<T: JsonSchema>() -> Value {
        schemars::schema_for!(T).into()
    }

    #[test]
    fn values_within_their_bounds_fit() {
        let shape = Shape::new(schema_of::<Input>());
        for input in [
            json!({"level": 9, "files": [{"path": "äöü", "weight": 1}], "best": null, "other": -1}),
            json!({"level": null, "files": [{}], "plain": u64::MAX}),
            json!({"level": "of another type", "files": 7}),
        ] {
            assert_eq!(shape.check(&input), Ok(()), "{input}");
        }
    }

    #[test]
    fn a_value_out_of_its_bounds_is_named() {
        let shape = Shape::new(schema_of::<Input>());
        for (input, field, problem) in [
            (json!({"level": 10}), "level", "10 is more than 9"),
            (json!({"level": 0}), "level", "0 is less than 1"),
            (json!({"files": []}), "files", "0 items are less than 1"),
            (json!({"files": [{}, {"path": "long"}]}), "files[1].path", "4 characters are more than 3"),
            (json!({"files": [{"weight": 0.5}]}), "files[0].weight", "0.5 is not more than 0.5"),
            (json!({"best": {"path": "best"}}), "best.path", "4 characters are more than 3"),
        ] {
            let misfit = Misfit { field: field.into(), problem: problem.into() };
            assert_eq!(shape.check(&input), Err(misfit), "{input}");
        }
    }

    #[test]
    fn types_alone_are_no_bounds() {
        assert!(Shape::new(schema_of::<Input>()).has_bounds());
        assert!(!Shape::new(schema_of::<Plain>()).has_bounds());
    }

    #[test]
    fn a_whole_number_is_an_integer_however_it_is_written() {
        let shape = Shape::new(schema_of::<Input>());
        let mut input = json!({"level": 3.0, "files": [{"weight": 2.0}], "plain": 4.5, "other": 1.0});
        assert!(shape.make_whole(&mut input));
        assert_eq!(input, json!({"level": 3, "files": [{"weight": 2.0}], "plain": 4.5, "other": 1.0}));
        assert!(!shape.make_whole(&mut input));
    }
}

//! A whole agent: one typed action that says how far it is and ends when it is cancelled.

use noa_agent::{Agent, Context, Failure, JsonSchema, Progress, schemars};
use serde::{Deserialize, Serialize};

#[derive(Deserialize, JsonSchema)]
struct Input {
    /// Who is greeted.
    names: Vec<String>,
}

#[derive(Serialize, JsonSchema)]
struct Output {
    greetings: Vec<String>,
}

fn greet(context: &Context, input: Input) -> Result<Output, Failure> {
    let mut greetings = Vec::new();
    for name in &input.names {
        context.check()?;
        if name.is_empty() {
            return Err(Failure::new("NO_NAME", format!("name {} is empty", greetings.len() + 1)));
        }
        greetings.push(format!("Hello, {name}!"));
        context.progress(Progress::of(greetings.len(), input.names.len()).unit("names"));
    }
    Ok(Output { greetings })
}

/// For `main` and for tests.
pub fn agent() -> Agent {
    Agent::new("hello", "1.0.0").blocking_action("greet", "Greets everyone by name", true, greet)
}

fn main() {
    agent().run()
}

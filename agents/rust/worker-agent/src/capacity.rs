//! How many executions the worker takes at once: `--capacity N`, else `NOA_WORKER_CAPACITY`, else one for each thread.

use std::env;

use noa_agent::host::Host;

/// Status of a process that was started wrongly.
pub const USAGE: u8 = 64;
const FLAG: &str = "--capacity";
const VARIABLE: &str = "NOA_WORKER_CAPACITY";

/// What is asked of this process; the error is a line for a person.
pub fn asked() -> Result<u32, String> {
    read(env::args().skip(1), env::var(VARIABLE).ok().filter(|text| !text.is_empty()))
}

fn read(mut arguments: impl Iterator<Item = String>, variable: Option<String>) -> Result<u32, String> {
    let mut asked = variable.map(|text| (VARIABLE, text));
    while let Some(argument) = arguments.next() {
        let value = match argument.strip_prefix(FLAG) {
            Some("") => arguments.next().unwrap_or_default(),
            Some(rest) if rest.starts_with('=') => rest[1..].to_owned(),
            _ => return Err(format!("argument '{argument}' is not known; {FLAG} N is")),
        };
        asked = Some((FLAG, value));
    }
    let Some((from, text)) = asked else {
        return Ok(u32::try_from(Host::here().threads.value).unwrap_or(u32::MAX));
    };
    let number = text.parse().ok().filter(|&number: &u32| number > 0);
    number.ok_or_else(|| format!("{from} is '{text}', expected how many executions at once, 1 or more"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn capacity(arguments: &[&str], variable: Option<&str>) -> Result<u32, String> {
        read(arguments.iter().map(|argument| (*argument).to_owned()), variable.map(str::to_owned))
    }

    #[test]
    fn the_flag_counts_before_the_variable_and_the_threads() {
        assert_eq!(capacity(&["--capacity", "3"], Some("5")), Ok(3));
        assert_eq!(capacity(&["--capacity=4"], None), Ok(4));
        assert_eq!(capacity(&[], Some("5")), Ok(5));
        assert!(capacity(&[], None).unwrap() > 0);
    }

    #[test]
    fn what_is_no_number_is_named() {
        for (arguments, variable, said) in [
            (&["--capacity"][..], None, "--capacity is ''"),
            (&["--capacity=0"], None, "--capacity is '0'"),
            (&["--capacityx"], None, "'--capacityx' is not known"),
            (&["x"], None, "'x' is not known"),
            (&[], Some("many"), "NOA_WORKER_CAPACITY is 'many'"),
        ] {
            assert!(capacity(arguments, variable).unwrap_err().contains(said), "{arguments:?}");
        }
    }
}

//! The action `echo`, for conformance tests and benchmarks: gives back what it is given, and misbehaves as asked.

use std::borrow::Cow;
use std::fmt;
use std::io::Write;
use std::process::Stdio;
use std::time::{Duration, Instant};

use schemars::{JsonSchema, Schema, SchemaGenerator};
use serde::{Deserialize, Serialize, Serializer};
use serde_json::{Map, Value};
use tokio::process::Command;
use tokio::runtime::Handle;

use crate::context::{Context, LogLevel, Progress};
use crate::failure::Failure;
use crate::manifest::fit;

pub(crate) const NAME: &str = "echo";
pub(crate) const DESCRIPTION: &str = "Gives back its input, and does before what the input's fields ask for";

/// Messages at once between two looks at whether they arrive.
const BURST: u32 = 64;
/// How long it computes between two looks at whether it shall end.
const SPELL: Duration = Duration::from_millis(2);
const PIECE: usize = 64 * 1024;
const LINE: &[u8; 64] = b"...............................................................\n";
const FOR_EVER: Duration = Duration::from_secs(1 << 32);
const CHILD_LIFE_S: &str = "600";

/// Any object; these fields mean something.
#[derive(Deserialize)]
#[serde(transparent)]
pub(crate) struct Input {
    given: Map<String, Value>,
}

impl JsonSchema for Input {
    fn schema_name() -> Cow<'static, str> {
        "EchoInput".into()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        Asked::json_schema(generator)
    }
}

#[derive(Deserialize, JsonSchema)]
struct Asked {
    /// Waits that many seconds.
    #[schemars(range(min = 0))]
    sleep_s: Option<f64>,
    /// Computes that many seconds without pause.
    #[schemars(range(min = 0))]
    burn_s: Option<f64>,
    /// Sends that many progress messages, spread over the waiting and computing.
    #[schemars(range(max = 100_000))]
    progress: Option<u32>,
    /// Sends that many log messages.
    #[schemars(range(max = 100_000))]
    logs: Option<u32>,
    /// Sends that many output chunks.
    #[schemars(range(max = 100_000))]
    chunks: Option<u32>,
    /// Adds the output field `padding` of that many bytes.
    #[schemars(range(max = 1_073_741_824))]
    size_bytes: Option<u64>,
    /// Writes that many bytes to stderr.
    #[schemars(range(max = 1_073_741_824))]
    stderr_bytes: Option<u64>,
    /// Starts a child process that the run holds; adds the output field `pid`.
    child: Option<bool>,
    /// Panics.
    panic: Option<bool>,
    /// Fails so instead of answering.
    fail: Option<Fail>,
}

#[derive(Deserialize, JsonSchema)]
#[schemars(rename = "EchoFailure")]
struct Fail {
    code: Option<String>,
    message: Option<String>,
    retryable: Option<bool>,
    /// Seconds to wait at least before another attempt.
    #[schemars(range(min = 0))]
    retry_after_s: Option<f64>,
}

#[derive(Serialize, JsonSchema)]
#[schemars(rename = "EchoOutput")]
pub(crate) struct Output {
    /// The input.
    echo: Map<String, Value>,
    /// As many `x` as `size_bytes` asks for.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<String>")]
    padding: Option<Padding>,
    /// The child process.
    #[serde(skip_serializing_if = "Option::is_none")]
    pid: Option<u32>,
}

pub(crate) async fn echo(context: Context, Input { given }: Input) -> Result<Output, Failure> {
    if given.is_empty() {
        return Ok(Output { echo: given, padding: None, pid: None });
    }
    let asked: Asked = fit(&given)?;
    let pid = if asked.child == Some(true) { start_child(&context)? } else { None };
    if let Some(bytes) = asked.stderr_bytes {
        context.blocking(move |context| write_stderr(&context, bytes)).await?;
    }
    let mut talk = Talk { context: context.clone(), said: 0, heard: true };
    for number in 1..=asked.logs.unwrap_or(0) {
        context.log(LogLevel::Info, format!("line {number}"));
        talk.said().await?;
    }
    for number in 1..=asked.chunks.unwrap_or(0) {
        context.output("", format!("chunk {number}\n").as_bytes());
        talk.said().await?;
    }
    let (sleep, burn) = (seconds(asked.sleep_s), seconds(asked.burn_s));
    let mut steps = Steps { all: asked.progress.unwrap_or(0), sent: 0, over: sleep.saturating_add(burn) };
    wait(&mut talk, &mut steps, sleep).await?;
    if !burn.is_zero() {
        (talk, steps) = context.blocking(move |_| compute(talk, steps, sleep, burn)).await?;
    }
    steps.report(&mut talk, Duration::MAX).await?;
    if asked.panic == Some(true) {
        panic!("the input asked for a panic");
    }
    match asked.fail {
        Some(fail) => Err(fail.into()),
        None => Ok(Output { echo: given, padding: asked.size_bytes.map(Padding), pid }),
    }
}

fn seconds(asked: Option<f64>) -> Duration {
    // What is negative was refused before; what is too long for the type is as good as for ever.
    Duration::try_from_secs_f64(asked.unwrap_or(0.0)).unwrap_or(FOR_EVER).min(FOR_EVER)
}

fn start_child(context: &Context) -> Result<Option<u32>, Failure> {
    let mut command = Command::new("sleep");
    command.arg(CHILD_LIFE_S).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).kill_on_drop(true);
    let child = command.spawn()?;
    let pid = child.id();
    context.hold_child(child);
    Ok(pid)
}

fn write_stderr(context: &Context, bytes: u64) -> Result<(), Failure> {
    let piece = LINE.repeat(PIECE / LINE.len());
    let mut left = bytes;
    while left > 0 {
        context.check()?;
        let size = usize::try_from(left).unwrap_or(PIECE).min(PIECE);
        if std::io::stderr().write_all(&piece[PIECE - size..]).is_err() {
            break; // Nobody reads it.
        }
        left -= size as u64;
    }
    Ok(())
}

/// Keeps what is said from running ahead of who listens, so that all of it arrives.
struct Talk {
    context: Context,
    said: u32,
    heard: bool,
}

impl Talk {
    async fn said(&mut self) -> Result<(), Failure> {
        self.said += 1;
        if self.said.is_multiple_of(BURST) {
            self.context.check()?;
            self.heard = self.heard && self.context.heard().await;
        }
        Ok(())
    }
}

/// Progress messages, spread over a time.
struct Steps {
    all: u32,
    sent: u32,
    over: Duration,
}

impl Steps {
    /// When the next message is due.
    fn next(&self) -> Option<Duration> {
        (self.sent < self.all).then(|| self.over.mul_f64(f64::from(self.sent + 1) / f64::from(self.all)))
    }

    /// Sends what is due after this time.
    async fn report(&mut self, talk: &mut Talk, elapsed: Duration) -> Result<(), Failure> {
        while self.next().is_some_and(|due| due <= elapsed) {
            self.sent += 1;
            talk.context.progress(Progress::of(self.sent as usize, self.all as usize));
            talk.said().await?;
        }
        Ok(())
    }
}

async fn wait(talk: &mut Talk, steps: &mut Steps, sleep: Duration) -> Result<(), Failure> {
    let began = Instant::now();
    while let Some(left) = sleep.checked_sub(began.elapsed()).filter(|left| !left.is_zero()) {
        let next = steps.next().map_or(left, |due| due.saturating_sub(began.elapsed()).min(left));
        tokio::select! {
            () = tokio::time::sleep(next) => {}
            () = talk.context.cancelled() => return Err(Failure::cancelled()),
        }
        steps.report(talk, began.elapsed().min(sleep)).await?;
    }
    Ok(())
}

fn compute(mut talk: Talk, mut steps: Steps, slept: Duration, burn: Duration) -> Result<(Talk, Steps), Failure> {
    let (began, runtime) = (Instant::now(), Handle::current());
    while began.elapsed() < burn {
        talk.context.check()?;
        let spell = Instant::now();
        while spell.elapsed() < SPELL {
            std::hint::spin_loop();
        }
        let elapsed = slept.saturating_add(began.elapsed().min(burn));
        if steps.next().is_some_and(|due| due <= elapsed) {
            runtime.block_on(steps.report(&mut talk, elapsed))?;
        }
    }
    Ok((talk, steps))
}

impl From<Fail> for Failure {
    fn from(Fail { code, message, retryable, retry_after_s }: Fail) -> Self {
        let code = code.unwrap_or_else(|| "ECHO_FAILED".into());
        let mut failure = Self::new(code, message.unwrap_or_else(|| "the input asked for this failure".into()));
        failure.retryable = retryable.unwrap_or(false);
        failure.retry_after = retry_after_s.map(|wait| seconds(Some(wait)));
        failure
    }
}

/// A text of that many `x`, which is nowhere in memory but where it is written to.
struct Padding(u64);

impl fmt::Display for Padding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let piece = "x".repeat(PIECE);
        let mut left = self.0;
        while left > 0 {
            let size = usize::try_from(left).unwrap_or(PIECE).min(PIECE);
            f.write_str(&piece[..size])?;
            left -= size as u64;
        }
        Ok(())
    }
}

impl Serialize for Padding {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

//! What an action knows of its execution and can say while it works.

use std::collections::HashMap;
use std::fmt;
use std::future::Future;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

use tokio::process::Child;
use tokio_util::sync::CancellationToken;

use crate::artifacts::Artifacts;
use crate::children;
use crate::execution::Execution;
use crate::failure::{ARTIFACT_UNWRITABLE, Failure};
use crate::holds::{HoldId, Holds, Released};
use crate::lock::lock;
use crate::payload::INLINE_BYTES;
use crate::proto::execute_response::Event;
use crate::proto::{self, ExecuteRequest};
use crate::text::cut;
use crate::uri::path_of;

const PROGRESS_MESSAGE_BYTES: usize = 1024;
const LOG_MESSAGE_BYTES: usize = 16 * 1024;
/// How long a client may read nothing before it is not waited for.
const PATIENCE: Duration = Duration::from_secs(5);

/// How far the work is. Every part is optional: `Progress { done: Some(3), ..Default::default() }`.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Progress {
    /// Part that is done, 0 to 1. A value below an earlier one is raised to it.
    pub fraction: Option<f64>,
    /// Units done.
    pub done: Option<u64>,
    /// Units in all.
    pub total: Option<u64>,
    /// What a unit is, in the plural, such as "files".
    pub unit: String,
    /// What is being done, for a person. Cut at 1 KiB.
    pub message: String,
}

impl Progress {
    /// So many units of so many are done.
    #[must_use]
    #[allow(clippy::cast_precision_loss)] // For a person.
    pub fn of(done: usize, total: usize) -> Self {
        let fraction = if total == 0 { 1.0 } else { done as f64 / total as f64 };
        Self { fraction: Some(fraction), done: Some(done as u64), total: Some(total as u64), ..Self::default() }
    }

    /// Says what a unit is, in the plural, such as "files".
    #[must_use]
    pub fn unit(mut self, unit: impl Into<String>) -> Self {
        self.unit = unit.into();
        self
    }

    /// Says what is being done, for a person.
    #[must_use]
    pub fn message(mut self, message: impl Into<String>) -> Self {
        self.message = message.into();
        self
    }
}

/// How much a log line matters.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogLevel {
    /// For finding a fault.
    Debug,
    /// Normal events.
    Info,
    /// Something to look at that did not stop the work.
    Warning,
    /// Something failed.
    Error,
}

/// The execution that an action works for. Cheap to clone; clones are the same execution.
#[derive(Clone)]
pub struct Context {
    inner: Arc<Inner>,
}

struct Inner {
    execution: Arc<Execution>,
    request: ExecuteRequest,
    artifacts: Artifacts,
    holds: Arc<Holds>,
    deadline: Option<SystemTime>,
    fraction: Mutex<f64>,
    metrics: Mutex<HashMap<String, f64>>,
}

impl fmt::Debug for Context {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Context").field("execution", &self.inner.execution).finish_non_exhaustive()
    }
}

impl Context {
    pub(crate) fn new(execution: Arc<Execution>, mut request: ExecuteRequest, holds: Arc<Holds>) -> Self {
        let artifacts = Artifacts::new(std::mem::take(&mut request.artifact_prefix));
        let deadline = request.deadline.and_then(|deadline| deadline.try_into().ok());
        let (fraction, metrics) = (Mutex::new(0.0), Mutex::default());
        Self { inner: Arc::new(Inner { execution, request, artifacts, holds, deadline, fraction, metrics }) }
    }

    /// Names this attempt.
    pub fn execution_id(&self) -> &str {
        &self.inner.execution.id
    }

    /// The same for all attempts of a task: give it to what must take effect once.
    pub fn idempotency_key(&self) -> &str {
        &self.inner.request.idempotency_key
    }

    /// The run that this task belongs to.
    pub fn run_id(&self) -> &str {
        &self.inner.execution.run_id
    }

    /// Name of the workflow. May be empty.
    pub fn workflow(&self) -> &str {
        &self.inner.request.workflow
    }

    /// Path of the task in its run.
    pub fn task(&self) -> &str {
        &self.inner.request.task
    }

    /// Which attempt of the task this is, from 1.
    pub fn attempt(&self) -> u32 {
        self.inner.request.attempt
    }

    /// The W3C trace context of the task. May be empty.
    pub fn traceparent(&self) -> &str {
        &self.inner.request.traceparent
    }

    /// When the execution must have ended.
    pub fn deadline(&self) -> Option<SystemTime> {
        self.inner.deadline
    }

    /// How much time is left until the deadline; zero after it.
    pub fn time_left(&self) -> Option<Duration> {
        let deadline = self.inner.deadline?;
        Some(deadline.duration_since(SystemTime::now()).unwrap_or_default())
    }

    /// Whether the work shall end: it is cancelled or its deadline has passed. Blocking work asks this now and then.
    pub fn is_cancelled(&self) -> bool {
        self.inner.execution.token.is_cancelled()
    }

    /// Waits until the work shall end, for `tokio::select!`.
    pub async fn cancelled(&self) {
        self.inner.execution.token.cancelled().await;
    }

    /// The token that is cancelled when the work shall end.
    pub fn token(&self) -> &CancellationToken {
        &self.inner.execution.token
    }

    /// Fails with `CANCELLED` if the work shall end, for `?` in loops.
    ///
    /// # Errors
    /// `CANCELLED`, to be returned by the action.
    pub fn check(&self) -> Result<(), Failure> {
        if self.is_cancelled() { Err(Failure::cancelled()) } else { Ok(()) }
    }

    /// Says how far the work is. Never waits; when the client is slow, older reports are dropped.
    pub fn progress(&self, Progress { fraction, done, total, unit, message }: Progress) {
        let fraction = fraction.filter(|fraction| !fraction.is_nan()).map(|fraction| self.raised(fraction));
        let message = cut(message, PROGRESS_MESSAGE_BYTES);
        self.observe(Event::Progress(proto::Progress { fraction, message, done, total, unit }));
    }

    fn raised(&self, fraction: f64) -> f64 {
        let mut highest = lock(&self.inner.fraction);
        *highest = highest.max(fraction.clamp(0.0, 1.0));
        *highest
    }

    /// Writes a line to the run's log. Never waits; cut at 16 KiB.
    pub fn log(&self, level: LogLevel, message: impl Into<String>) {
        let level = match level {
            LogLevel::Debug => proto::LogLevel::Debug,
            LogLevel::Info => proto::LogLevel::Info,
            LogLevel::Warning => proto::LogLevel::Warning,
            LogLevel::Error => proto::LogLevel::Error,
        };
        let message = cut(message.into(), LOG_MESSAGE_BYTES);
        let time = Some(SystemTime::now().into());
        self.observe(Event::Log(proto::Log { level: level.into(), message, time }));
    }

    /// Sends a piece of output while it is made. Never waits; an empty type is text. Above 256 KiB it is sent in parts.
    pub fn output(&self, content_type: &str, data: &[u8]) {
        for part in data.chunks(INLINE_BYTES) {
            let data = part.to_vec().into();
            self.observe(Event::Output(proto::OutputChunk { content_type: content_type.to_owned(), data }));
        }
    }

    /// Waits until what was said so far is on its way to all who listen, so that none of it is dropped: for work that
    /// says much at once. Never longer than 5 s for a client that reads nothing; false then.
    pub async fn heard(&self) -> bool {
        self.inner.execution.wait_heard(PATIENCE).await
    }

    /// Holds something for the run after this execution has ended, such as a service: `let_go` is done once, when the
    /// run is released or the agent ends, or at once where this execution has ended already. It may return an error,
    /// which is logged.
    pub fn hold<W>(&self, let_go: W)
    where
        W: Future<Output: Released> + Send + 'static,
    {
        self.add_hold(let_go);
    }

    fn add_hold<W: Future<Output: Released> + Send + 'static>(&self, let_go: W) -> HoldId {
        let id = self.inner.holds.add(self.run_id(), let_go);
        // The run's release waits for the end of its executions first: one of the two sees what the other did.
        if self.inner.execution.has_ended() {
            self.inner.holds.let_go(self.run_id(), id);
        }
        id
    }

    /// Holds a child process for the run after this execution has ended: it and what it started are killed when the run
    /// is released or the agent ends. A child that ends by itself is held no longer. Its stdin stays open until then.
    pub fn hold_child(&self, mut child: Child) {
        let (told, gone) = (CancellationToken::new(), CancellationToken::new());
        let (kill, done) = (told.clone(), gone.clone().drop_guard());
        let id = self.add_hold(async move {
            told.cancel();
            gone.cancelled().await;
        });
        let (holds, run_id) = (self.inner.holds.clone(), self.run_id().to_owned());
        self.inner.holds.runtime().spawn(async move {
            let _done = done;
            let _stdin = child.stdin.take(); // Waiting would close it.
            tokio::select! {
                _ = child.wait() => holds.forget(&run_id, id),
                () = kill.cancelled() => {
                    if let Some(pid) = child.id() {
                        children::kill(pid);
                    }
                    child.wait().await.is_ok()
                }
            };
        });
    }

    fn observe(&self, event: Event) {
        self.inner.execution.observe(event);
    }

    /// Sets a figure that is reported when the work is done, such as `files_per_s`.
    pub fn metric(&self, name: impl Into<String>, value: f64) {
        lock(&self.inner.metrics).insert(name.into(), value);
    }

    pub(crate) fn take_metrics(&self) -> HashMap<String, f64> {
        std::mem::take(&mut *lock(&self.inner.metrics))
    }

    /// Where to create artifacts and how to read them.
    pub fn artifacts(&self) -> &Artifacts {
        &self.inner.artifacts
    }

    /// Where files for a person go, as a `file:///` URI. Empty when the agent decides.
    pub fn output_prefix(&self) -> &str {
        &self.inner.request.output_prefix
    }

    /// The folder where files for a person go, created if it is not there; `None` when the agent decides.
    ///
    /// # Errors
    /// `ARTIFACT_UNWRITABLE`: it is not on this machine or cannot be created.
    pub fn output_folder(&self) -> Result<Option<PathBuf>, Failure> {
        let prefix = self.output_prefix();
        if prefix.is_empty() {
            return Ok(None);
        }
        let unwritable =
            |problem: &str| Failure::new(ARTIFACT_UNWRITABLE, format!("output folder {prefix}: {problem}"));
        let folder = path_of(prefix).ok_or_else(|| unwritable("it is not a file:/// URI"))?;
        std::fs::create_dir_all(&folder).map_err(|error| unwritable(&error.to_string()))?;
        Ok(Some(folder))
    }

    /// Does work that computes or blocks on a thread of its own, so that other executions go on. The work should ask
    /// [`is_cancelled`](Self::is_cancelled) at least once a second: a thread cannot be ended from outside.
    ///
    /// # Errors
    /// What the work fails with; a panic of the work becomes a panic of the action.
    pub async fn blocking<T, E>(&self, work: impl FnOnce(Context) -> Result<T, E> + Send + 'static) -> Result<T, E>
    where
        T: Send + 'static,
        E: From<Failure> + Send + 'static,
    {
        let context = self.clone();
        match tokio::task::spawn_blocking(move || work(context)).await {
            Ok(result) => result,
            Err(error) if error.is_panic() => std::panic::resume_unwind(error.into_panic()),
            Err(_) => Err(Failure::cancelled().into()),
        }
    }
}

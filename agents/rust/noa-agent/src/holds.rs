//! What runs hold: things that stay when an execution ends, until their run is released. Owns the release of a run: the
//! author's hook and what was held, all at once, each once.

use std::collections::{BTreeMap, HashMap};
use std::fmt::Display;
use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Mutex};

use tokio::runtime::Handle;
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout_at};
use tokio_util::sync::CancellationToken;

use crate::lock::lock;

/// Lets go of something, and says how much that was.
type LetGo = Pin<Box<dyn Future<Output = u32> + Send>>;
pub(crate) type Hook = Arc<dyn Fn(String) -> LetGo + Send + Sync>;

/// What a release says: nothing, how many things it released, or why it failed. One that fails is logged and counts
/// as one thing that is released: nothing would do it again.
pub trait Released {
    /// How many things were released.
    fn count(self) -> u32;
}

impl Released for () {
    fn count(self) -> u32 {
        0
    }
}

impl Released for u32 {
    fn count(self) -> u32 {
        self
    }
}

impl<R: Released, E: Display> Released for Result<R, E> {
    fn count(self) -> u32 {
        self.map_or_else(
            |error| {
                tracing::error!(%error, "something that a run holds is not released");
                1
            },
            Released::count,
        )
    }
}

/// Names one thing that is held.
pub(crate) type HoldId = u64;

/// All runs that hold something.
pub(crate) struct Holds {
    hook: Option<Hook>,
    /// Where releases are done.
    runtime: Handle,
    table: Mutex<Table>,
}

#[derive(Default)]
struct Table {
    runs: HashMap<String, Run>,
    last: HoldId,
}

#[derive(Default)]
struct Run {
    held: BTreeMap<HoldId, LetGo>,
    /// Cancelled when the release that goes on is done.
    releasing: Option<CancellationToken>,
}

impl Holds {
    pub(crate) fn new(hook: Option<Hook>, runtime: Handle) -> Self {
        Self { hook, runtime, table: Mutex::default() }
    }

    /// The author's runtime.
    pub(crate) fn runtime(&self) -> &Handle {
        &self.runtime
    }

    /// Remembers that this run may hold something of which only the hook knows.
    pub(crate) fn remember(&self, run_id: &str) {
        if self.hook.is_some() {
            lock(&self.table).runs.entry(run_id.to_owned()).or_default();
        }
    }

    /// Holds something for a run.
    pub(crate) fn add<W: Future<Output: Released> + Send + 'static>(&self, run_id: &str, let_go: W) -> HoldId {
        let mut table = lock(&self.table);
        table.last += 1;
        let id = table.last;
        let run = table.runs.entry(run_id.to_owned()).or_default();
        run.held.insert(id, Box::pin(async move { let_go.await.count().max(1) }));
        id
    }

    /// Holds it no longer, without letting go of it; false where that is done or being done by a release.
    pub(crate) fn forget(&self, run_id: &str, id: HoldId) -> bool {
        self.take(run_id, id).is_some()
    }

    /// Lets go of one thing now, unless a release does so.
    pub(crate) fn let_go(&self, run_id: &str, id: HoldId) {
        if let Some(let_go) = self.take(run_id, id) {
            self.runtime.spawn(let_go);
        }
    }

    fn take(&self, run_id: &str, id: HoldId) -> Option<LetGo> {
        let mut table = lock(&self.table);
        let run = table.runs.get_mut(run_id)?;
        let let_go = run.held.remove(&id);
        if run.held.is_empty() && run.releasing.is_none() && self.hook.is_none() {
            table.runs.remove(run_id);
        }
        let_go
    }

    /// Releases a run and waits for that until then; it is gone on with afterwards. Says whether there was anything to
    /// release, and how much of it nobody else had begun to.
    pub(crate) async fn release(self: &Arc<Self>, run_id: &str, until: Instant) -> (bool, u32) {
        let (begun, held, before) = self.begin(run_id);
        let Some(begun) = begun else { return (false, 0) };
        match timeout_at(until, begun).await {
            Ok(released) => {
                let released = released.unwrap_or(held);
                (released > 0 || before, released)
            }
            Err(_) => {
                tracing::warn!(run_id, "what the run holds is not released within the grace, and is still being");
                (true, held + u32::from(self.hook.is_some()))
            }
        }
    }

    /// Begins to release a run. Gives the task that does so, how many things were held, and whether another release of
    /// the same run goes on, which the task waits for too.
    fn begin(self: &Arc<Self>, run_id: &str) -> (Option<tokio::task::JoinHandle<u32>>, u32, bool) {
        let mut table = lock(&self.table);
        if self.hook.is_none() && !table.runs.contains_key(run_id) {
            return (None, 0, false);
        }
        let run = table.runs.entry(run_id.to_owned()).or_default();
        let done = CancellationToken::new();
        let before = run.releasing.replace(done.clone());
        let held = std::mem::take(&mut run.held);
        let (count, joins) = (u32::try_from(held.len()).unwrap_or(u32::MAX), before.is_some());
        let mut going = JoinSet::new();
        for let_go in held.into_values() {
            going.spawn_on(let_go, &self.runtime);
        }
        if let Some(hook) = self.hook.clone() {
            let run_id = run_id.to_owned();
            going.spawn_on(async move { hook(run_id).await }, &self.runtime);
        }
        let (holds, run_id) = (self.clone(), run_id.to_owned());
        let task = self.runtime.spawn(async move {
            let released = finish(going).await;
            if let Some(before) = before {
                before.cancelled().await;
            }
            holds.end(&run_id, &done);
            released
        });
        (Some(task), count, joins)
    }

    fn end(&self, run_id: &str, done: &CancellationToken) {
        done.cancel();
        let mut table = lock(&self.table);
        let Some(run) = table.runs.get_mut(run_id) else { return };
        if run.releasing.as_ref().is_some_and(CancellationToken::is_cancelled) {
            run.releasing = None;
            if run.held.is_empty() {
                table.runs.remove(run_id);
            }
        }
    }

    /// Releases all runs and waits until that is done.
    pub(crate) async fn release_all(self: &Arc<Self>) {
        let runs: Vec<String> = lock(&self.table).runs.keys().cloned().collect();
        let mut begun = Vec::new();
        for run_id in runs {
            begun.extend(self.begin(&run_id).0);
        }
        for task in begun {
            let _ = task.await; // Ended with the runtime, which ends the process.
        }
    }
}

async fn finish(mut going: JoinSet<u32>) -> u32 {
    let mut released = 0_u32;
    while let Some(outcome) = going.join_next().await {
        released = released.saturating_add(outcome.unwrap_or_else(|error| {
            tracing::error!(%error, "a release panicked");
            1
        }));
    }
    released
}

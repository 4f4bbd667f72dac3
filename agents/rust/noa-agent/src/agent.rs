//! The author's side: an agent is named, given actions, and served.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::fmt::Display;
use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::Arc;

use schemars::JsonSchema;
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::runtime::Handle;
use tokio_util::sync::CancellationToken;

use crate::context::Context;
use crate::echo;
use crate::executions::Executions;
use crate::failure::Failure;
use crate::holds::{Holds, Hook, Released};
use crate::launch::{Launch, LaunchError, Listen};
use crate::lifecycle;
use crate::manifest::{Action, manifest};
use crate::proto::{self, HealthStatus};
use crate::server::{self, Server};

type Prepare = Pin<Box<dyn Future<Output = Result<(), String>> + Send>>;

/// Where this is `1` at launch, the agent is to be checked and offers `echo`.
const CONFORMANCE: &str = "NOA_AGENT_CONFORMANCE";

/// Why an agent could not start.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum AgentError {
    /// The environment is not one of an engine that this agent understands.
    #[error(transparent)]
    Launch(#[from] LaunchError),
    /// Two actions have the same name.
    #[error("action '{0}' is there twice")]
    DuplicateAction(String),
    /// The place to listen cannot be taken.
    #[error("cannot listen on {listen:?}: {cause}")]
    Listen {
        /// Where.
        listen: Listen,
        /// Why not.
        #[source]
        cause: io::Error,
    },
    /// The thread that answers calls could not be started or failed.
    #[error("cannot serve: {0}")]
    Serve(#[from] io::Error),
}

/// An agent that is being put together. Build it up, then [`serve`](Self::serve) it.
#[must_use]
pub struct Agent {
    name: String,
    version: String,
    capacity: u32,
    actions: BTreeMap<String, Arc<Action>>,
    duplicate: Option<String>,
    release: Option<Hook>,
    prepare: Option<Prepare>,
}

impl Agent {
    /// An agent without actions and without a limit on executions at once.
    pub fn new(name: impl Into<String>, version: impl Into<String>) -> Self {
        Self {
            name: name.into(),
            version: version.into(),
            capacity: 0,
            actions: BTreeMap::new(),
            duplicate: None,
            release: None,
            prepare: None,
        }
    }

    /// Adds an action: a function from a typed input to a typed output, both JSON objects. Their schemas are announced.
    ///
    /// `idempotent` says whether doing it twice with the same inputs has the same effect as doing it once.
    pub fn action<I, O, E, F, W>(
        mut self,
        name: impl Into<String>,
        description: impl Into<String>,
        idempotent: bool,
        handler: F,
    ) -> Self
    where
        I: DeserializeOwned + JsonSchema + Send + 'static,
        O: Serialize + JsonSchema,
        E: Into<Failure>,
        F: Fn(Context, I) -> W + Send + Sync + 'static,
        W: Future<Output = Result<O, E>> + Send + 'static,
    {
        let (name, action) = (name.into(), Action::new(description.into(), idempotent, handler));
        if self.actions.insert(name.clone(), Arc::new(action)).is_some() {
            self.duplicate = Some(name);
        }
        self
    }

    /// Adds an action that computes or blocks: each execution has a thread of its own, and asks
    /// [`check`](Context::check) at least once a second, as a thread cannot be ended from outside.
    pub fn blocking_action<I, O, E, F>(
        self,
        name: impl Into<String>,
        description: impl Into<String>,
        idempotent: bool,
        handler: F,
    ) -> Self
    where
        I: DeserializeOwned + JsonSchema + Send + 'static,
        O: Serialize + JsonSchema + Send + 'static,
        E: Into<Failure> + 'static,
        F: Fn(&Context, I) -> Result<O, E> + Send + Sync + 'static,
    {
        let handler = Arc::new(handler);
        self.action(name, description, idempotent, move |context: Context, input: I| {
            let handler = handler.clone();
            async move { context.blocking(move |context| handler(&context, input).map_err(Into::into)).await }
        })
    }

    /// Adds the action `echo`, which conformance tests and benchmarks use. An agent that is launched with
    /// `NOA_AGENT_CONFORMANCE=1` has it also without this call.
    pub fn with_echo(self) -> Self {
        self.action(echo::NAME, echo::DESCRIPTION, true, echo::echo)
    }

    /// Sets how many executions can go on at once; 0 means no limit.
    pub fn capacity(mut self, executions: u32) -> Self {
        self.capacity = executions;
        self
    }

    /// Sets what is done when a run is released, after its executions have ended: end what it started, remove what it
    /// left. Must do nothing for a run that holds nothing. Also called for all runs when the agent ends. What a single
    /// execution starts is better given to [`Context::hold`].
    pub fn on_release<F, W>(mut self, hook: F) -> Self
    where
        F: Fn(String) -> W + Send + Sync + 'static,
        W: Future<Output: Released> + Send + 'static,
    {
        self.release = Some(Arc::new(move |run_id| {
            let released = hook(run_id);
            Box::pin(async move { released.await.count() })
        }));
        self
    }

    /// Sets what must be done before work is taken, such as loading a model. The agent is STARTING meanwhile, and
    /// NOT_SERVING with the error if it fails.
    pub fn prepare<E: Display>(mut self, work: impl Future<Output = Result<(), E>> + Send + 'static) -> Self {
        self.prepare = Some(Box::pin(async move { work.await.map_err(|error| error.to_string()) }));
        self
    }

    /// Serves as [`serve`](Self::serve) does, with a tokio runtime of its own.
    pub fn run(self) -> ! {
        match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
            Ok(runtime) => match runtime.block_on(self.serve()) {},
            Err(error) => {
                eprintln!("{}", AgentError::Serve(error));
                std::process::exit(1)
            }
        }
    }

    /// Serves as the engine's environment says, until the engine ends the agent. Never returns: ends the process with
    /// status 0 when told to end or when the engine is gone, 64 when it was launched wrongly, 1 when it cannot serve.
    pub async fn serve(mut self) -> Infallible {
        if std::env::var(CONFORMANCE).is_ok_and(|asked| asked == "1") && !self.actions.contains_key(echo::NAME) {
            self = self.with_echo();
        }
        let started = Launch::from_env().map_err(AgentError::from).and_then(|launch| self.start_process(&launch));
        if let Err(error) = started {
            eprintln!("{error}");
            std::process::exit(if matches!(error, AgentError::Launch(_)) { 64 } else { 1 });
        }
        std::future::pending().await
    }

    fn start_process(self, launch: &Launch) -> Result<(), AgentError> {
        let (shared, server) = self.bind(launch)?;
        let engine_gone = lifecycle::watch_stdin()?;
        server::spawn(move |runtime| lifecycle::run(&runtime, shared, server, engine_gone))?;
        Ok(())
    }

    /// Serves inside this process, obeying no signal and no stdin: for tests of agents.
    ///
    /// # Errors
    /// The place to listen cannot be taken, or an action is there twice.
    ///
    /// # Panics
    /// Outside of a tokio runtime.
    pub fn start(self, launch: &Launch) -> Result<RunningAgent, AgentError> {
        let (shared, server) = self.bind(launch)?;
        let (stop, stopped) = (CancellationToken::new(), CancellationToken::new());
        let (agent, guard) = (shared.clone(), stopped.clone().drop_guard());
        let told = stop.clone();
        server::spawn(move |runtime| {
            let _guard = guard;
            if let Err(error) = runtime.block_on(server.serve(agent, told)) {
                tracing::error!(%error, "cannot serve");
            }
        })?;
        Ok(RunningAgent { shared, stop, stopped })
    }

    fn bind(self, launch: &Launch) -> Result<(Arc<Shared>, Server), AgentError> {
        if let Some(name) = self.duplicate {
            return Err(AgentError::DuplicateAction(name));
        }
        let server =
            Server::bind(launch).map_err(|cause| AgentError::Listen { listen: launch.listen.clone(), cause })?;
        let known = self.actions.iter().map(|(name, action)| (name, &**action));
        let shared = Arc::new(Shared {
            manifest: manifest(&self.name, &self.version, known),
            actions: self.actions,
            executions: Arc::new(Executions::new(self.capacity)),
            holds: Arc::new(Holds::new(self.release, Handle::current())),
        });
        shared.clone().prepare(self.prepare);
        Ok((shared, server))
    }
}

/// An agent that was [started](Agent::start) inside this process. Dropping it stops it.
pub struct RunningAgent {
    shared: Arc<Shared>,
    stop: CancellationToken,
    stopped: CancellationToken,
}

impl RunningAgent {
    /// Takes no new work, waits until what goes on has ended, and stops.
    pub async fn drain(self) {
        self.shared.drain();
        self.shared.executions.wait_idle().await;
        self.shared.holds.release_all().await;
        self.stop.cancel();
        self.stopped.cancelled().await;
    }
}

impl Drop for RunningAgent {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

/// What all parts of a serving agent share.
pub(crate) struct Shared {
    pub(crate) manifest: proto::Manifest,
    pub(crate) actions: BTreeMap<String, Arc<Action>>,
    pub(crate) executions: Arc<Executions>,
    /// What runs hold, and the author's runtime. Calls are answered on another one, so a busy action does not make the
    /// agent look dead.
    pub(crate) holds: Arc<Holds>,
}

impl Shared {
    fn prepare(self: Arc<Self>, prepare: Option<Prepare>) {
        let Some(prepare) = prepare else {
            return self.executions.set_status(HealthStatus::Serving, "");
        };
        let runtime = self.holds.runtime().clone();
        let prepare = runtime.spawn(prepare);
        runtime.spawn(async move {
            match prepare.await.unwrap_or_else(|error| Err(error.to_string())) {
                Ok(()) => self.executions.set_status(HealthStatus::Serving, ""),
                Err(error) => self.executions.set_status(HealthStatus::NotServing, error),
            }
        });
    }

    pub(crate) fn drain(&self) {
        self.executions.set_status(HealthStatus::Draining, "told to end");
    }
}

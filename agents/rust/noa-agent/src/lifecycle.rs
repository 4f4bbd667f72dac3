//! How the process of an agent ends: told by SIGTERM, or because the engine is gone. Owns the process's exit.

use std::io::{self, Read};
use std::sync::Arc;
use std::time::Duration;

use tokio::runtime::Runtime;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use crate::agent::Shared;
use crate::children;
use crate::server::Server;
use crate::whole_file;

/// Status of a process that was ended by a second SIGTERM, as a shell shows it.
const TERMINATED: i32 = 128 + 15;
/// How long work may take to end once the engine is gone.
const LAST_GRACE: Duration = Duration::from_millis(400);
/// How long release hooks may take at the end.
const LAST_RELEASE: Duration = Duration::from_millis(800);
/// When the process ends whatever still goes on, counted from the end of stdin.
const LAST_MOMENT: Duration = Duration::from_millis(1600);

/// Watches stdin on a thread of its own and cancels the token at its end. Makes sure that the process ends.
pub(crate) fn watch_stdin() -> io::Result<CancellationToken> {
    let gone = CancellationToken::new();
    let told = gone.clone();
    std::thread::Builder::new().name("noa-agent-stdin".into()).spawn(move || {
        wait_for_end(io::stdin());
        told.cancel();
        std::thread::sleep(LAST_MOMENT);
        exit(0);
    })?;
    Ok(gone)
}

fn wait_for_end(mut input: impl Read) {
    let mut ignored = [0; 1024];
    loop {
        match input.read(&mut ignored) {
            Ok(0) => return,
            Err(error) if error.kind() != io::ErrorKind::Interrupted => return,
            _ => {}
        }
    }
}

/// Serves until the process shall end, and ends it.
pub(crate) fn run(runtime: &Runtime, shared: Arc<Shared>, server: Server, engine_gone: CancellationToken) {
    let ended = runtime.block_on(async {
        let mut signals = Signals::listen()?;
        let stop = CancellationToken::new();
        let ending = async {
            signals.wait_for_end(&shared, &engine_gone).await;
            stop.cancel();
        };
        tokio::join!(server.serve(shared.clone(), stop.clone()), ending).0
    });
    if let Err(error) = &ended {
        eprintln!("cannot serve: {error}");
    }
    exit(i32::from(ended.is_err()));
}

struct Signals {
    terminate: Signal,
    /// Kept so that SIGINT does nothing: the engine decides what a Ctrl-C means.
    _interrupt: Signal,
}

impl Signals {
    fn listen() -> io::Result<Self> {
        Ok(Self { terminate: signal(SignalKind::terminate())?, _interrupt: signal(SignalKind::interrupt())? })
    }

    /// Returns when everything has ended that may end by itself.
    async fn wait_for_end(&mut self, shared: &Shared, engine_gone: &CancellationToken) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            () = engine_gone.cancelled() => return abandon(shared).await,
        }
        tracing::info!("draining");
        shared.drain();
        let drained = async {
            shared.executions.wait_idle().await;
            release(shared).await;
        };
        tokio::select! {
            () = drained => {}
            _ = self.terminate.recv() => exit(TERMINATED),
            () = engine_gone.cancelled() => abandon(shared).await,
        }
    }
}

/// Ends everything, as nobody is there who would hear of it.
async fn abandon(shared: &Shared) {
    tracing::warn!("the engine is gone");
    shared.drain();
    for execution in shared.executions.cancel_all(None, LAST_GRACE).0 {
        execution.wait_ended().await;
    }
    release(shared).await;
    exit(0);
}

async fn release(shared: &Shared) {
    if timeout(LAST_RELEASE, shared.holds.release_all()).await.is_err() {
        tracing::warn!("what runs hold is not released in time");
    }
}

fn exit(status: i32) -> ! {
    whole_file::remove_unfinished();
    children::kill_all();
    std::process::exit(status);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_arrives_on_stdin_is_ignored_until_its_end() {
        wait_for_end(&[0; 5000][..]);
    }
}

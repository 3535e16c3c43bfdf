//! Task ownership and orderly shutdown: every task belongs to a [`Group`], which can be told to stop and waited for.
//!
//! Invariants: no task is detached from its group, and a task's panic is logged and counted
//! (`task_panics_total{task}`), never swallowed; it still reaches whoever awaits the handle.

use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use pin_project_lite::pin_project;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// A set of tasks that is stopped and awaited as one. Clones are the same group.
#[derive(Debug, Clone, Default)]
pub struct Group {
    tasks: TaskTracker,
    token: CancellationToken,
}

impl Group {
    /// An empty group.
    pub fn new() -> Self {
        Self::default()
    }

    /// Runs a future as a task of this group. `name` labels its panics, so it must be one of a few fixed words.
    pub fn spawn<F>(&self, name: &'static str, future: F) -> JoinHandle<F::Output>
    where
        F: Future + Send + 'static,
        F::Output: Send + 'static,
    {
        self.tasks.spawn(Observed { name, future })
    }

    /// The group's wish to stop. Tasks select on it; a part of the group may take a `child_token` of it.
    pub fn token(&self) -> CancellationToken {
        self.token.clone()
    }

    /// Asks every task to stop. Does not wait.
    pub fn cancel(&self) {
        self.token.cancel();
    }

    /// Waits until every task has ended, at most `deadline`. Says whether they all have.
    pub async fn wait(&self, deadline: Duration) -> bool {
        self.tasks.close();
        tokio::time::timeout(deadline, self.tasks.wait()).await.is_ok()
    }

    /// Ends when the process is asked to end (SIGTERM or SIGINT) or the group was cancelled; cancels nothing itself.
    ///
    /// The call itself, not the first await, takes the signals over: make it before anything that must end in order.
    ///
    /// # Panics
    /// Outside a tokio runtime.
    pub fn on_signals(&self) -> impl Future<Output = ()> + Send + use<> {
        use tokio::signal::unix::{SignalKind, signal};
        let signals = signal(SignalKind::terminate()).and_then(|term| Ok((term, signal(SignalKind::interrupt())?)));
        let token = self.token();
        async move {
            let (mut term, mut int) = match signals {
                Ok(signals) => signals,
                Err(error) => {
                    // A signal then keeps its default action, which ends the process: less orderly, still an end.
                    tracing::error!(%error, "cannot listen for signals");
                    return token.cancelled().await;
                }
            };
            tokio::select! {
                _ = term.recv() => tracing::info!(signal = "SIGTERM", "asked to stop"),
                _ = int.recv() => tracing::info!(signal = "SIGINT", "asked to stop"),
                () = token.cancelled() => {}
            }
        }
    }
}

pin_project! {
    /// A future whose panic is logged and counted before it goes on to the task's handle. Not an `async` block around it: that
    /// would hold it twice, and copy it from the one place to the other.
    struct Observed<F> {
        name: &'static str,
        #[pin]
        future: F,
    }
}

impl<F: Future> Future for Observed<F> {
    type Output = F::Output;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<F::Output> {
        let this = self.project();
        let (name, future) = (*this.name, this.future);
        catch_unwind(AssertUnwindSafe(|| future.poll(context))).unwrap_or_else(|panic| {
            metrics::counter!("task_panics_total", "task" => name).increment(1);
            tracing::error!(task = name, "task panicked");
            resume_unwind(panic)
        })
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;
    use crate::telemetry::install_metrics;

    #[tokio::test]
    async fn tasks_stop_when_asked_and_are_waited_for() {
        let group = Group::new();
        let token = group.token();
        let task = group.spawn("waiter", async move {
            token.cancelled().await;
            7
        });
        assert!(!group.wait(Duration::from_millis(1)).await, "nobody asked it to stop yet");
        group.cancel();
        assert!(group.wait(Duration::from_secs(10)).await);
        assert_eq!(task.await.unwrap(), 7);
    }

    #[tokio::test]
    async fn a_panic_is_counted_and_reaches_the_handle() {
        let metrics = install_metrics();
        let group = Group::new();
        let task = group.spawn("careless", async { assert!(std::hint::black_box(false), "a bug") });
        let error = task.await.unwrap_err();
        assert!(error.is_panic());
        assert_eq!(metrics.value("task_panics_total", &[("task", "careless")]), 1.0);
        assert!(group.wait(Duration::from_secs(10)).await);
    }

    #[tokio::test]
    async fn cancelling_the_group_ends_the_wait_for_signals() {
        let group = Group::new();
        group.cancel();
        tokio::time::timeout(Duration::from_secs(10), group.on_signals()).await.unwrap();
    }
}

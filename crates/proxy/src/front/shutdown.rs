//! Ending: at once, when servers are released, or when clients have gone; by signal or by command.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{Notify, oneshot};
use tokio::task::{JoinHandle, spawn_local};
use tracing::{error, info, warn};

use super::Front;
use crate::listen::{Listener, SocketFile};
use crate::message::{Drain, ToWorker};

/// How far the end has come.
#[derive(Default)]
pub(super) struct Shutdown {
    begun: Cell<Option<Drain>>,
    over: Notify,
    /// Tasks that accept who asks for metrics.
    accepting: RefCell<Vec<JoinHandle<()>>>,
    /// Where clients are accepted, and the files of that.
    listening: RefCell<(Vec<Arc<Listener>>, Vec<SocketFile>)>,
}

impl Shutdown {
    pub(super) fn keep(&self, accepting: JoinHandle<()>) {
        self.accepting.borrow_mut().push(accepting);
    }

    /// They are closed when the end begins.
    pub(super) fn keep_listeners(&self, listeners: Vec<Listener>, files: Vec<SocketFile>) -> Vec<Arc<Listener>> {
        let listeners: Vec<_> = listeners.into_iter().map(Arc::new).collect();
        self.listening.replace((listeners.clone(), files));
        listeners
    }

    pub(super) fn is_begun(&self) -> bool {
        self.begun.get().is_some()
    }

    pub(super) async fn over(&self) {
        self.over.notified().await;
    }

    /// Now.
    pub(super) fn end(&self) {
        self.over.notify_one();
    }
}

impl Front {
    pub(super) async fn watch_signals(self: Rc<Self>) {
        let listen = |kind| signal(kind);
        let signals = (
            listen(SignalKind::hangup()),
            listen(SignalKind::terminate()),
            listen(SignalKind::interrupt()),
            listen(SignalKind::quit()),
        );
        let (Ok(mut hangup), Ok(mut terminate), Ok(mut interrupt), Ok(mut quit)) = signals else {
            error!("signals cannot be heard; use the console's RELOAD and SHUTDOWN");
            return;
        };
        loop {
            tokio::select! {
                _ = hangup.recv() => {
                    if let Err(problems) = self.reload() {
                        error!("reload failed, nothing was changed: {problems}");
                    }
                }
                _ = terminate.recv() => self.clone().drain_or_end(Drain::Clients, "SIGTERM"),
                _ = interrupt.recv() => self.clone().drain_or_end(Drain::Servers, "SIGINT"),
                _ = quit.recv() => {
                    info!("SIGQUIT: ending at once");
                    self.shutdown.end();
                }
            }
        }
    }

    fn drain_or_end(self: Rc<Self>, mode: Drain, signal: &str) {
        if self.shutdown.is_begun() {
            info!("{signal} again: ending at once");
            self.shutdown.end();
        } else {
            self.begin_drain(mode);
        }
    }

    /// No new clients; the end comes when what `mode` waits for is so, or after `shutdown_timeout`.
    pub(super) fn begin_drain(self: Rc<Self>, mode: Drain) {
        if self.shutdown.begun.get().is_some_and(|begun| begun >= mode) {
            return;
        }
        self.shutdown.begun.set(Some(mode));
        for accepting in self.shutdown.accepting.take() {
            accepting.abort();
        }
        self.reception.book().is_closed = true;
        let (listeners, files) = self.shutdown.listening.take();
        listeners.iter().for_each(|listener| listener.close());
        drop(files);
        let limit = self.config().settings.shutdown_timeout;
        let what = match mode {
            Drain::Clients => "clients to disconnect",
            Drain::Servers => "running transactions to finish",
        };
        info!("shutting down: waiting for {what}, {} s at most; a second signal ends at once", limit.as_secs());
        let waits: Vec<_> = (0..self.reception.workers())
            .map(|worker| {
                let (done, over) = oneshot::channel();
                self.tell(worker, ToWorker::Drain { mode, done });
                over
            })
            .collect();
        spawn_local(async move {
            let all = async {
                for over in waits {
                    over.await?;
                }
                Ok::<_, oneshot::error::RecvError>(())
            };
            let limit = if limit.is_zero() { Duration::MAX / 4 } else { limit };
            match tokio::time::timeout(limit.min(Duration::from_secs(365 * 86_400)), all).await {
                // A stricter order has taken the place of this one, and will end it.
                Ok(Err(_)) => return,
                Ok(Ok(())) => {}
                Err(_) => warn!("shutdown_timeout is over: ending with work unfinished"),
            }
            self.shutdown.end();
        });
    }
}

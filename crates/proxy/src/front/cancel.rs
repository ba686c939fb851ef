//! Cancel requests: from a client's second connection to the worker it lives on, and from a worker to PostgreSQL.

use std::rc::Rc;

use pgsluice_session::CancelKey;
use pgsluice_wire::FrontendWriter;
use tokio::sync::oneshot;
use tracing::debug;

use super::Front;
use crate::message::ToWorker;
use crate::spec::Address;

impl Front {
    /// A client asks to cancel. Returns when PostgreSQL has been told, or there is nothing to tell.
    pub(super) async fn pass_cancel(&self, pid: u32, secret: Box<[u8]>) {
        let worker = self.reception.book().worker_of(pid);
        if let Some(worker) = worker {
            let (done, heard) = oneshot::channel();
            self.tell(worker, ToWorker::Cancel { pid, secret, done });
            // Dropped without an answer when there is nothing to cancel, or the secret is wrong: all the same to the asker.
            let _ = heard.await;
        }
    }

    /// Sends a cancel request to PostgreSQL; `done` is told once its connection is closed.
    pub(super) async fn send_cancel(
        self: Rc<Self>,
        address: Address,
        key: CancelKey,
        done: oneshot::Sender<()>,
        asker: Option<oneshot::Sender<()>>,
    ) {
        let limit = self.config().settings.cancel_wait_timeout;
        let sending = async {
            let _permit = self.cancels.acquire().await;
            let stream = self.connect(&address).await?;
            let mut out = Vec::new();
            FrontendWriter(&mut out).cancel(key.pid, &key.secret);
            stream.write_all(&out).await?;
            // PostgreSQL closes it when the signal has been sent.
            stream.read_some(&mut Vec::new(), 16).await
        };
        let sent = if limit.is_zero() { Ok(sending.await) } else { tokio::time::timeout(limit, sending).await };
        if !matches!(sent, Ok(Ok(_))) {
            debug!(%address, pid = key.pid, "a cancel request was not delivered");
        }
        let _ = done.send(());
        // As PostgreSQL does, the asker's connection is closed when the signal is out.
        drop(asker);
    }
}

//! Logins that a worker does not carry out by itself: from what is known of a client to a worker, the console, or the door.

use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use pgsluice_config::RESERVED_DATABASES;
use pgsluice_console::Access;
use pgsluice_session::{ClientLogin, Identity, LoginWant, Refusal, Replication, ServerCredential, Settings};
use pgsluice_wire::Severity;
use rustls::ServerConfig;
use tracing::{debug, info};
use zeroize::Zeroizing;

use super::Front;
use crate::caller::Caller;
use crate::failures::place_of;
use crate::inbox::{READ_LEN, forget, make_room};
use crate::message::{Arrival, NewClient, Progress, ToWorker};
use crate::net::{Parcel, Stream};
use crate::reception::Admitted;
use crate::spec::PoolSpec;
use crate::tls::TlsStream;

/// How long somebody who takes nothing is waited for before it is told anything.
const WRITABLE_WAIT: Duration = Duration::from_secs(1);

/// A client logged in.
pub(super) struct LoggedIn {
    pub(super) client: Admitted,
    /// What it proved, if that opens a server.
    pub(super) learnt: Option<ServerCredential>,
}

impl Front {
    /// Goes on with a login from where a worker left it.
    pub(super) async fn greet(self: Rc<Self>, arrival: Box<Arrival>) {
        let Arrival { parcel, known, mut progress, step } = *arrival;
        let mut place = match parcel.unpack_in_front(known) {
            Ok(stream) => Some(stream),
            Err(error) => return debug!(%error, "client could not be registered"),
        };
        // Last words do not wait, and the runtime has to know first that they need not.
        if let Some(stream) = &place
            && !matches!(tokio::time::timeout(WRITABLE_WAIT, stream.writable()).await, Ok(Ok(())))
        {
            return;
        }
        let limit = self.config().settings.client_login_timeout;
        let outcome = if limit.is_zero() {
            self.log_in(&mut place, &mut progress, step).await
        } else {
            let left = limit.saturating_sub(progress.since.elapsed());
            let login = tokio::time::timeout(left, self.log_in(&mut place, &mut progress, step));
            login.await.unwrap_or(Err(Some(Refusal::LoginTimeout)))
        };
        // It is no login any more, whatever is still to come, and what it sent may have been a password.
        let held = progress.held.take();
        drop(progress);
        let Some(stream) = place else { return };
        match outcome {
            Ok(logged_in) => {
                drop(held);
                if let Some(special) = self.admit(stream, logged_in) {
                    special.await;
                }
            }
            Err(None) => {}
            Err(Some(refusal)) => {
                if let Refusal::BadPassword(user) = &refusal {
                    Box::pin(self.hold_back(place_of(stream.peer().address), user, held)).await;
                }
                self.turn_away(&stream, &refusal, Vec::new());
            }
        }
    }

    /// The exchange. `Err(None)`: there is nobody to tell. The connection may be another one after it, encrypted; while that is
    /// being agreed upon there is none.
    async fn log_in(
        self: &Rc<Self>,
        place: &mut Option<Stream>,
        progress: &mut Progress,
        first: Result<LoginWant, Refusal>,
    ) -> Result<LoggedIn, Option<Refusal>> {
        let Progress { login, inbox, out, offer, .. } = progress;
        let (mut first, mut found) = (Some(first.map(|want| (0, want))), None);
        loop {
            let stream = place.as_ref().ok_or(None)?;
            if first.is_none() && login.is_proving(inbox) {
                self.check_failures(&place_of(stream.peer().address), &login.identity().user)?;
            }
            let step = match first.take() {
                Some(step) => step,
                None if login.takes_long(inbox) => {
                    Box::pin(self.hash(&place_of(stream.peer().address), login, inbox, out)).await
                }
                None => login.handle(inbox, out),
            };
            if let Err(Refusal::BadPassword(user)) = &step {
                self.forget_secret(&login.identity().database, user);
            }
            let (taken, want) = step?;
            forget(inbox, taken);
            match want {
                LoginWant::More => {
                    stream.write_all(out).await.map_err(|_| None)?;
                    out.clear();
                    make_room(inbox);
                    if stream.read_some(inbox, READ_LEN).await.map_err(|_| None)? == 0 {
                        return Err(None);
                    }
                }
                LoginWant::Encryption => {
                    let offer = offer.clone().ok_or(None)?;
                    stream.write_all(out).await.map_err(|_| None)?;
                    out.clear();
                    let plain = place.take().ok_or(None)?;
                    let early = std::mem::take(inbox);
                    *place = Some(Box::pin(self.encrypt(plain, offer.config.clone(), &early)).await.ok_or(None)?);
                    login.set_encrypted();
                }
                LoginWant::Method => {
                    let end_point = offer.as_ref().and_then(|offer| offer.end_point.clone());
                    let gate = Box::pin(self.gate_for(login.identity(), Caller::of(stream, end_point))).await?;
                    found = gate.found;
                    login.authenticate(gate.method, out);
                }
                LoginWant::Cancel { pid, secret } => {
                    Box::pin(self.pass_cancel(pid, secret)).await;
                    return Err(None);
                }
                LoginWant::Done => {
                    return Ok(LoggedIn {
                        client: Admitted {
                            identity: std::mem::take(login.identity_mut()),
                            early: std::mem::take(&mut **inbox),
                            late: std::mem::take(out),
                        },
                        learnt: found.or_else(|| login.keys().cloned().map(ServerCredential::Keys)),
                    });
                }
            }
        }
    }

    /// As [`ClientLogin::handle`], on another thread: everybody logs in on this one.
    async fn hash(
        &self,
        place: &str,
        login: &mut ClientLogin,
        inbox: &mut Zeroizing<Vec<u8>>,
        out: &mut Vec<u8>,
    ) -> Result<(usize, LoginWant), Refusal> {
        let _permit = self.hashing.acquire().await;
        // Those in front may have been wrong.
        self.check_failures(place, &login.identity().user)?;
        let mut parts = (std::mem::take(login), std::mem::take(inbox), std::mem::take(out));
        let hashing = elsewhere(move || {
            let step = parts.0.handle(&parts.1, &mut parts.2);
            (parts, step)
        });
        let (parts, step) = hashing.await?;
        (*login, *inbox, *out) = parts;
        step
    }

    /// Does what takes long on another thread; one at a time, so that the others go on having theirs.
    pub(super) async fn aside<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, Refusal> {
        let _permit = self.hashing.acquire().await;
        elsewhere(work).await
    }

    /// TLS from now on. `early`: the client began without asking, and this was read of it. `None`: there is nobody to tell, but by
    /// TLS itself.
    async fn encrypt(&self, plain: Stream, config: Arc<ServerConfig>, early: &[u8]) -> Option<Stream> {
        let from = plain.peer().describe();
        let refused = |why: &dyn std::fmt::Display| {
            if self.config().settings.log_pooler_errors {
                info!(from = %format!("{}:{}", from.0, from.1), "client refused: TLS: {why}");
            }
        };
        let Stream::Plain(socket) = plain else { return None };
        match TlsStream::accept(socket, config, early).await {
            // Another protocol's client must not be made to talk to us (ALPACA).
            Ok(stream) if !early.is_empty() && !stream.has_alpn() => {
                refused(&"direct TLS without ALPN");
                None
            }
            Ok(stream) => Some(Stream::Tls(Box::new(stream))),
            Err(error) => {
                refused(&error);
                None
            }
        }
    }

    /// Lets a client in; what is rare and takes its time is still to be done. (Apart, as all who log in would have to have room for it.)
    fn admit(self: Rc<Self>, stream: Stream, logged_in: LoggedIn) -> Option<Pin<Box<dyn Future<Output = ()>>>> {
        let config = self.config();
        let LoggedIn { mut client, learnt } = logged_in;
        let Identity { user, database, .. } = &client.identity;
        if RESERVED_DATABASES.contains(&database.as_str()) {
            let access = if config.settings.admin_users.contains(user) {
                Access::Admin
            } else if config.settings.stats_users.contains(user) {
                Access::Stats
            } else {
                self.turn_away(&stream, &Refusal::NotAdmin(user.as_str().into()), client.late);
                return None;
            };
            return Some(Box::pin(self.serve_console(stream, access, client.early, client.late)));
        }
        client.identity.drop_parameters(&config.settings.ignore_startup_parameters);
        if client.identity.replication != Replication::No {
            return Some(Box::pin(self.admit_replication(stream, LoggedIn { client, learnt })));
        }
        match self.admission(&client.identity, learnt) {
            Ok(pool) => {
                if let Some((worker, parcel, new)) = self.introduce(stream, client, pool) {
                    self.tell(worker, ToWorker::Client(parcel, Box::new(new)));
                }
            }
            Err(refusal) => self.turn_away(&stream, &refusal, client.late),
        }
        None
    }

    /// A client enters: which worker it is of, and what that has to know of it. `None`: it does not; it has been told why.
    pub(super) fn introduce(
        &self,
        stream: Stream,
        client: Admitted,
        pool: Arc<PoolSpec>,
    ) -> Option<(usize, Parcel, NewClient)> {
        let worker = self.reception.least_loaded(0);
        let names = match self.reception.enter(worker, Some(&pool.database)) {
            Ok(names) => names,
            Err(refusal) => {
                self.turn_away(&stream, &refusal, client.late);
                return None;
            }
        };
        let ends = stream.ends();
        let Ok(parcel) = stream.pack() else {
            self.reception.leave(names.1);
            return None;
        };
        Some((worker, parcel, client.introduce(&self.config(), names, ends, pool)))
    }

    /// May this client have a session now, and in which pool?
    fn admission(
        self: &Rc<Self>,
        identity: &Identity,
        learnt: Option<ServerCredential>,
    ) -> Result<Arc<PoolSpec>, Refusal> {
        let Identity { user, database, at_start, fault, .. } = identity;
        self.reception.book().check_room(database)?;
        match fault {
            Some(fault) => Err(fault.clone().into()),
            None if is_delay(at_start) => Err(Refusal::Unsupported("a post_auth_delay other than 0".into())),
            None => {
                self.learn(database, user, learnt);
                self.pool(database, user, at_start)
            }
        }
    }

    /// Says why, once, and closes. `unsent`: what the client should read before it.
    pub(super) fn turn_away(&self, stream: &Stream, refusal: &Refusal, mut unsent: Vec<u8>) {
        if self.config().settings.log_pooler_errors {
            let from = stream.peer().describe();
            info!(from = %format!("{}:{}", from.0, from.1), "client refused: {refusal}");
        }
        refusal.write(Severity::Fatal, &mut unsent);
        stream.write_now(&unsent);
        stream.say_goodbye();
    }
}

async fn elsewhere<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Result<T, Refusal> {
    // It ends without a result only with the whole runtime.
    tokio::task::spawn_blocking(work).await.map_err(|_| Refusal::ShuttingDown)
}

/// Would a server's start be delayed? Everybody could hold up the few logins that are under way at once with that, and leave
/// processes asleep that PostgreSQL shows to nobody. What is no number is PostgreSQL's to refuse.
fn is_delay(at_start: &Settings) -> bool {
    at_start.get("post_auth_delay").is_some_and(|delay| delay != "0" && delay.bytes().any(|b| b.is_ascii_digit()))
}

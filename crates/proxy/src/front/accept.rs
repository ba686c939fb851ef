//! From an accepted connection to a worker, the console, or the door.

use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use pgsluice_config::RESERVED_DATABASES;
use pgsluice_console::Access;
use pgsluice_session::{ClientLogin, Identity, LoginWant, Refusal, Replication, ServerCredential, Settings};
use pgsluice_wire::{PROTOCOL_3_2, Severity};
use rustls::ServerConfig;
use tokio::task::spawn_local;
use tracing::{info, warn};
use zeroize::{Zeroize, Zeroizing};

use super::caller::Caller;
use super::failures::place_of;
use super::listen::Listener;
use super::{Count, Front, random};
use crate::message::{NewClient, ToWorker};
use crate::net::{Kind, Stream};
use crate::spec::PoolSpec;
use crate::tls::TlsStream;

/// Bytes read from a client at once before it is logged in.
const READ_LEN: usize = 4 << 10;
/// Pause when the process is out of file descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// Clients that may be logging in at once, beyond max_client_conn.
const LOGINS_SPARE: usize = 100;

/// A client logged in: what it sent behind its password, and what it has not been sent yet.
pub(super) struct LoggedIn {
    pub(super) identity: Identity,
    pub(super) early: Vec<u8>,
    pub(super) late: Vec<u8>,
    /// What it proved, if that opens a server.
    pub(super) learnt: Option<ServerCredential>,
}

impl Front {
    pub(super) async fn accept(self: Rc<Self>, listener: Listener) {
        loop {
            match listener.accept().await {
                Ok(stream) => {
                    let keepalive = self.config().settings.tcp_keepalive;
                    if !listener.is_tuned(keepalive) {
                        stream.tune(keepalive);
                    }
                    spawn_local(self.clone().greet(stream));
                }
                Err(error) => {
                    warn!(%error, "cannot accept a client");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    }

    async fn greet(self: Rc<Self>, stream: Stream) {
        let settings = self.config().settings.clone();
        let mut place = Some(stream);
        let outcome = {
            let _count = Count::begin(&self, |state| &mut state.logins);
            let busy = self.cell.borrow().logins > settings.max_client_conn as usize + LOGINS_SPARE;
            let limit = settings.client_login_timeout;
            if busy {
                Err(Some(Refusal::TooManyClients { max: settings.max_client_conn }))
            } else if limit.is_zero() {
                self.log_in(&mut place).await
            } else {
                let login = tokio::time::timeout(limit, self.log_in(&mut place));
                login.await.unwrap_or(Err(Some(Refusal::LoginTimeout)))
            }
        };
        let Some(stream) = place else { return };
        match outcome {
            Ok(logged_in) => {
                if let Some(special) = self.admit(stream, logged_in) {
                    special.await;
                }
            }
            Err(None) => {}
            Err(Some(refusal)) => {
                if let Refusal::BadPassword(user) = &refusal {
                    Box::pin(self.hold_back(&place_of(stream.peer().address), user)).await;
                }
                self.turn_away(&stream, &refusal, Vec::new());
            }
        }
    }

    /// The exchange. `Err(None)`: there is nobody to tell. The connection may be another one after it, encrypted; while that is
    /// being agreed upon there is none.
    async fn log_in(self: &Rc<Self>, place: &mut Option<Stream>) -> Result<LoggedIn, Option<Refusal>> {
        let offer = self
            .tls
            .borrow()
            .clients
            .clone()
            .filter(|_| !matches!(place, Some(stream) if stream.socket().kind() == Kind::Unix));
        let mut login = if offer.is_some() { ClientLogin::offering_tls() } else { ClientLogin::default() };
        let (mut inbox, mut out, mut found) = (Zeroizing::new(Vec::new()), Vec::new(), None);
        loop {
            let stream = place.as_ref().ok_or(None)?;
            if login.is_proving() {
                self.check_failures(&place_of(stream.peer().address), &login.identity().user)?;
            }
            let step = match login.takes_long(&inbox) {
                true => Box::pin(self.hash(&place_of(stream.peer().address), &mut login, &mut inbox, &mut out)).await,
                false => login.handle(&inbox, &mut out),
            };
            if let Err(Refusal::BadPassword(user)) = &step {
                self.forget_secret(&login.identity().database, user);
            }
            let (taken, want) = step?;
            forget(&mut inbox, taken);
            match want {
                LoginWant::More => {
                    stream.write_all(&out).await.map_err(|_| None)?;
                    out.clear();
                    make_room(&mut inbox);
                    if stream.read_some(&mut inbox, READ_LEN).await.map_err(|_| None)? == 0 {
                        return Err(None);
                    }
                }
                LoginWant::Encryption => {
                    stream.write_all(&out).await.map_err(|_| None)?;
                    out.clear();
                    let (plain, offer) = (place.take().ok_or(None)?, offer.clone().ok_or(None)?);
                    let early = std::mem::take(&mut inbox);
                    *place = Some(Box::pin(self.encrypt(plain, offer.config, &early)).await.ok_or(None)?);
                    login.set_encrypted();
                }
                LoginWant::Method => {
                    let must = self.config().settings.client_tls_sslmode.is_strict();
                    if must && !login.is_encrypted() && stream.socket().kind() != Kind::Unix {
                        return Err(Refusal::TlsRequired.into());
                    }
                    let Identity { database, replication, .. } = login.identity();
                    if *replication != Replication::No && RESERVED_DATABASES.contains(&database.as_str()) {
                        // Rules for replication name no database, and those for the console would not be asked.
                        return Err(Some(Refusal::Unsupported("replication from the console".into())));
                    }
                    let end_point = offer.as_ref().and_then(|offer| offer.end_point.clone());
                    let gate = Box::pin(self.gate_for(login.identity(), Caller::of(stream, end_point))).await?;
                    found = gate.found;
                    login.authenticate(gate.method, &mut out);
                }
                LoginWant::Cancel { pid, secret } => {
                    Box::pin(self.pass_cancel(pid, secret)).await;
                    return Err(None);
                }
                LoginWant::Done => {
                    return Ok(LoggedIn {
                        identity: login.identity().clone(),
                        early: std::mem::take(&mut *inbox),
                        late: out,
                        learnt: found.or_else(|| login.take_keys().map(ServerCredential::Keys)),
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
    fn admit(self: Rc<Self>, stream: Stream, mut client: LoggedIn) -> Option<Pin<Box<dyn Future<Output = ()>>>> {
        let config = self.config();
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
            return Some(Box::pin(self.admit_replication(stream, client)));
        }
        match self.admission(&client.identity, client.learnt.take()) {
            Ok(pool) => {
                if let Some((worker, new)) = self.introduce(stream, client, pool) {
                    self.tell(worker, ToWorker::Client(Box::new(new)));
                }
            }
            Err(refusal) => self.turn_away(&stream, &refusal, client.late),
        }
        None
    }

    /// What a worker has to know of a client, and which worker that is. `None`: its socket is of no use.
    pub(super) fn introduce(
        &self,
        stream: Stream,
        client: LoggedIn,
        pool: Arc<PoolSpec>,
    ) -> Option<(usize, NewClient)> {
        let config = self.config();
        let LoggedIn { identity, early, late, .. } = client;
        let Identity { user, database, version, settings, replication, .. } = identity;
        let (ends, id, pid) = (stream.ends(), self.next_id(), self.next_pid());
        let parcel = stream.pack().ok()?;
        let worker = self.next_worker();
        self.cell.borrow_mut().clients.insert(pid, worker);
        if config.settings.log_connections {
            let from = ends.peer.describe();
            info!(client = id, %user, %database, from = %format!("{}:{}", from.0, from.1), "client logged in");
        }
        let secret = if version < PROTOCOL_3_2 { Box::from(random::<4>()) } else { Box::<[u8]>::from(random::<32>()) };
        let (query_wait, client_idle) =
            (config.query_wait_timeout(&database, &user), config.client_idle_timeout(&user));
        Some((
            worker,
            NewClient {
                parcel,
                ends,
                id,
                is_ours: false,
                pid,
                secret,
                user,
                replication,
                settings,
                pool,
                query_wait,
                client_idle,
                early,
                late,
            },
        ))
    }

    /// The worker for the next client: all in turn.
    pub(super) fn next_worker(&self) -> usize {
        let mut state = self.cell.borrow_mut();
        state.next_worker = (state.next_worker + 1) % self.workers.len();
        state.next_worker
    }

    /// May this client have a session now, and in which pool?
    fn admission(
        self: &Rc<Self>,
        identity: &Identity,
        learnt: Option<ServerCredential>,
    ) -> Result<Arc<PoolSpec>, Refusal> {
        let Identity { user, database, at_start, fault, .. } = identity;
        self.check_room(database)?;
        match fault {
            Some(fault) => Err(fault.clone().into()),
            None if is_delay(at_start) => Err(Refusal::Unsupported("a post_auth_delay other than 0".into())),
            None => {
                self.learn(database, user, learnt);
                self.pool(database, user, at_start)
            }
        }
    }

    /// Is there room for one more client, of this database?
    pub(super) fn check_room(&self, database: &str) -> Result<(), Refusal> {
        let max = self.config().settings.max_client_conn;
        if self.shutdown.is_begun() {
            return Err(Refusal::ShuttingDown);
        }
        let mut state = self.cell.borrow_mut();
        state.see_off(&self.departed);
        if state.disabled.contains(database) {
            return Err(Refusal::Disabled(database.into()));
        }
        if state.clients.len() >= max as usize {
            return Err(Refusal::TooManyClients { max });
        }
        Ok(())
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

/// Takes what was read off the front. It may be a password, and so nothing of it stays behind the end.
fn forget(inbox: &mut Vec<u8>, taken: usize) {
    inbox.copy_within(taken.., 0);
    let kept = inbox.len() - taken;
    inbox[kept..].zeroize();
    inbox.truncate(kept);
}

/// Room for one more reading: a `Vec` that grows of itself leaves a copy behind, of half a password perhaps.
fn make_room(inbox: &mut Zeroizing<Vec<u8>>) {
    if inbox.capacity() - inbox.len() < READ_LEN {
        let mut larger = Vec::with_capacity((inbox.len() + READ_LEN).max(2 * inbox.capacity()));
        larger.extend_from_slice(inbox);
        *inbox = Zeroizing::new(larger);
    }
}

/// Would a server's start be delayed? Everybody could hold up the few logins that are under way at once with that, and leave
/// processes asleep that PostgreSQL shows to nobody. What is no number is PostgreSQL's to refuse.
fn is_delay(at_start: &Settings) -> bool {
    at_start.get("post_auth_delay").is_some_and(|delay| delay != "0" && delay.bytes().any(|b| b.is_ascii_digit()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_taken_of_an_inbox_is_gone_and_the_rest_is_not() {
        for taken in 0..=6 {
            let mut inbox = b"secret".to_vec();
            forget(&mut inbox, taken);
            assert_eq!(inbox, &b"secret"[taken..]);
        }
    }

    #[test]
    fn an_inbox_has_room_for_what_is_read_at_once() {
        let mut inbox = Zeroizing::new(b"half a pass".to_vec());
        for _ in 0..5 {
            make_room(&mut inbox);
            let before = inbox.as_ptr();
            let full = inbox.len() + READ_LEN;
            inbox.resize(full, b'x');
            assert_eq!(inbox.as_ptr(), before, "it has not moved");
            assert!(inbox.starts_with(b"half a passxx"));
        }
    }
}

//! Clients at the door: each worker accepts them, and lets in those for whom nothing has to be encrypted, asked elsewhere or hashed for
//! long. The others go to the front's thread, with what is known of them so far.

use std::io;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use pgsluice_auth::{Nonce, ScramServer, Secret};
use pgsluice_config::RESERVED_DATABASES;
use pgsluice_session::{AuthMethod, ClientLogin, LoginWant, Refusal, Replication, ServerCredential};
use tracing::{debug, warn};

use super::Worker;
use crate::caller::Caller;
use crate::demand::{Method, demand};
use crate::inbox::{forget, read_into};
use crate::listen::{Fresh, Listener};
use crate::message::{Arrival, NewClient, Progress, ToFront, ToWorker};
use crate::net::{Kind, Known, Parcel, Stream};
use crate::random;
use crate::reactor::{Place, sleep, timeout};
use crate::reception::{Admitted, is_teaching, learnt_for};

/// Pause when the process is out of file descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// Clients accepted in a row before others have their turn.
const ACCEPT_MAX: usize = 64;
/// As good as no limit.
const NO_LIMIT: Duration = Duration::from_secs(365 * 86_400);

/// What becomes of somebody at the door.
enum Outcome {
    /// One of our clients.
    In(Box<NewClient>),
    /// The front goes on from here.
    Elsewhere(Result<LoginWant, Refusal>),
    Gone,
}

impl Worker {
    /// Accepts clients for as long as the socket listens.
    pub(super) async fn receive(self: Rc<Self>, listener: Arc<Listener>) {
        let (mut wanted, mut round) = (1, 0);
        loop {
            let place = match Place::listening(&listener) {
                Ok(place) => place,
                Err(error) => {
                    warn!(%error, "no clients can be accepted at {}", listener.name());
                    return;
                }
            };
            let error = loop {
                place.readable().await;
                place.note_empty();
                // Who comes alone costs one call. Of a crowd, which the next round would tell of, more are taken at once.
                let now = self.reactor.rounds();
                wanted = if now == round + 1 { ACCEPT_MAX.min(2 * wanted) } else { 1 };
                round = now;
                if let Err(error) = self.accept_some(&listener, wanted) {
                    break error;
                }
            };
            place.leave(&listener);
            drop(place);
            if error.kind() == io::ErrorKind::InvalidInput {
                return;
            }
            warn!(%error, "cannot accept a client");
            sleep(ACCEPT_PAUSE).await;
        }
    }

    fn accept_some(self: &Rc<Self>, listener: &Listener, count: usize) -> io::Result<()> {
        let config = self.reception.book().config.clone();
        for _ in 0..count {
            let fresh = match listener.accept(config.settings.tcp_keepalive) {
                Ok(fresh) => fresh,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                // It was in a hurry to leave (accept(2)).
                Err(error) if error.kind() == io::ErrorKind::ConnectionAborted => continue,
                Err(error) => return Err(error),
            };
            match self.reception.least_loaded(self.index) {
                own if own == self.index => self.take_in(fresh),
                other => self.reception.tell(other, ToWorker::Accepted(fresh)),
            }
        }
        Ok(())
    }

    /// Begins a login here.
    pub(super) fn take_in(self: &Rc<Self>, fresh: Fresh) {
        let Fresh { parcel, known } = fresh;
        let book = self.reception.book();
        let (config, offers_tls) = (book.config.clone(), book.offers_tls && parcel.kind() == Kind::Tcp);
        drop(book);
        let progress = Progress {
            count: self.reception.begin_login(Some(self.index)),
            since: Instant::now(),
            login: if offers_tls { ClientLogin::offering_tls() } else { ClientLogin::default() },
            inbox: Default::default(),
            out: Vec::new(),
        };
        if self.reception.is_crowded(&config) {
            let refusal = Refusal::TooManyClients { max: config.settings.max_client_conn };
            return self.pass_on(parcel, known, progress, Err(refusal));
        }
        if offers_tls && config.settings.client_tls_sslmode.is_strict() {
            // Whatever it says first, it is not for us.
            return self.pass_on(parcel, known, progress, Ok(LoginWant::More));
        }
        match parcel.unpack() {
            Ok(stream) => {
                let limit = config.settings.client_login_timeout;
                self.reactor.spawn(self.clone().greet(stream, known, limit, progress));
            }
            Err(error) => debug!(%error, "client could not be registered"),
        }
    }

    async fn greet(self: Rc<Self>, stream: Stream, known: Known, limit: Duration, mut progress: Progress) {
        let limit = Some(limit).filter(|limit| !limit.is_zero());
        let login = self.log_in(&stream, known, &mut progress);
        let outcome = timeout(limit.unwrap_or(NO_LIMIT), login).await;
        match outcome.unwrap_or(Outcome::Elsewhere(Err(Refusal::LoginTimeout))) {
            Outcome::In(client) => self.accept(stream, *client),
            Outcome::Gone => {}
            Outcome::Elsewhere(step) => match stream.pack() {
                Ok(parcel) => self.pass_on(parcel, known, progress, step),
                Err(error) => debug!(%error, "client could not be handed over"),
            },
        }
    }

    fn pass_on(&self, parcel: Parcel, known: Known, mut progress: Progress, step: Result<LoginWant, Refusal>) {
        progress.count.leave_worker();
        self.tell(ToFront::Arrival(Box::new(Arrival { parcel, known, progress, step })));
    }

    /// The exchange.
    async fn log_in(&self, stream: &Stream, known: Known, progress: &mut Progress) -> Outcome {
        let Progress { login, inbox, out, .. } = progress;
        let kind = stream.socket().kind();
        let caller = Caller::at(kind, known.peer.and_then(|peer| peer.address));
        stream.suppose_readable();
        loop {
            if login.is_proving() {
                let user = &login.identity().user;
                if self.reception.book().failures.is_full(&caller.place(), user) {
                    return Outcome::Elsewhere(Err(Refusal::TooManyFailures(user.as_str().into())));
                }
            }
            let (taken, want) = match login.handle(inbox, out) {
                Ok(step) => step,
                Err(refusal) => return Outcome::Elsewhere(Err(refusal)),
            };
            forget(inbox, taken);
            match want {
                LoginWant::More => {
                    if stream.write_all(out).await.is_err() {
                        return Outcome::Gone;
                    }
                    out.clear();
                    if !matches!(read_into(stream, inbox).await, Ok(1..)) {
                        return Outcome::Gone;
                    }
                }
                LoginWant::Method => match self.method_for(login, &caller) {
                    Some(method) => login.authenticate(method, out),
                    None => return Outcome::Elsewhere(Ok(LoginWant::Method)),
                },
                LoginWant::Done => return self.admit(stream, known, progress),
                other => return Outcome::Elsewhere(Ok(other)),
            }
        }
    }

    /// What this client has to pass, if that can be passed here.
    fn method_for(&self, login: &ClientLogin, caller: &Caller) -> Option<AuthMethod> {
        let config = self.reception.book().config.clone();
        let identity = login.identity();
        let user = identity.user.as_str();
        let is_special = identity.replication != Replication::No
            || RESERVED_DATABASES.contains(&identity.database.as_str())
            || identity.fault.is_some();
        if is_special {
            return None;
        }
        let demand = demand(&config, identity, caller).ok().filter(|demand| demand.client_cert.is_none())?;
        let listed = config.users.get(user);
        let text = match demand.method {
            Method::Any => return Some(AuthMethod::Trust),
            Method::Trust => return listed.map(|_| AuthMethod::Trust),
            Method::Cert | Method::Peer => return None,
            Method::Password | Method::Md5 | Method::Scram => listed?.password.as_ref()?,
        };
        let secret = Secret::parse(text.expose());
        let is_scram = matches!(secret, Secret::Scram(_));
        let book = self.reception.book();
        if book.failures.is_full(&caller.place(), user) {
            return None;
        }
        match demand.method {
            Method::Password => (!is_scram).then_some(AuthMethod::Plain(Some(secret))),
            Method::Md5 if !is_scram => Some(AuthMethod::Md5(Some(secret), random())),
            _ => {
                let verifier = match &secret {
                    Secret::Scram(stored) => stored.clone(),
                    _ => book.verifiers.get(user).filter(|(of, _)| of == text)?.1.clone(),
                };
                Some(AuthMethod::Scram(Box::new(ScramServer::new(verifier, Nonce::from_entropy(random())))))
            }
        }
    }

    /// Lets a client in, if nothing is to be done for it that is the front's.
    fn admit(&self, stream: &Stream, known: Known, progress: &mut Progress) -> Outcome {
        let config = self.reception.book().config.clone();
        let Progress { login, inbox, out, .. } = progress;
        let elsewhere = || Outcome::Elsewhere(Ok(LoginWant::Done));
        let keys = login.keys().cloned().map(ServerCredential::Keys);
        let identity = login.identity_mut();
        identity.drop_parameters(&config.settings.ignore_startup_parameters);
        let Some((entry, _)) = config.database(&identity.database) else { return elsewhere() };
        let server_user = entry.user.as_ref().unwrap_or(&identity.user);
        let name = (identity.database.clone(), server_user.clone(), identity.at_start.clone());
        let book = self.reception.book();
        // Made by the front when the first client comes, as the pool itself is.
        let Some(pool) = book.pools.get(&name).cloned() else { return elsewhere() };
        let is_new =
            |keys| is_teaching(&config, &pool.target) && book.learnt.get(&learnt_for(&pool.target)) != Some(keys);
        if keys.as_ref().is_some_and(is_new) {
            return elsewhere();
        }
        drop(book);
        let is_known = self.cell.borrow().pools.get(pool.id.0).is_some_and(Option::is_some);
        if !is_known {
            return elsewhere();
        }
        let Ok(names) = self.reception.enter(self.index, Some(&identity.database)) else { return elsewhere() };
        let identity = std::mem::take(identity);
        let client = Admitted { identity, early: std::mem::take(&mut **inbox), late: std::mem::take(out) };
        Outcome::In(Box::new(client.introduce(&config, names, stream.ends_as(known), pool)))
    }
}

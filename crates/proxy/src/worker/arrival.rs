//! Clients at the door: each worker accepts them, and lets in those for whom nothing has to be encrypted, asked elsewhere or hashed for
//! long. The others go to the front's thread, with what is known of them so far.

use std::io;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use pgsluice_auth::{Nonce, ScramServer, Secret};
use pgsluice_config::{Config, RESERVED_DATABASES};
use pgsluice_session::{AuthMethod, ClientLogin, LoginWant, Refusal, Replication, ServerCredential};
use pgsluice_wire::Severity;
use tracing::{debug, info, warn};

use super::Worker;
use crate::caller::Caller;
use crate::demand::{Method, demand};
use crate::failures::Held;
use crate::inbox::{forget, read_into};
use crate::listen::{Fresh, Listener};
use crate::message::{Arrival, NewClient, Progress, ToFront, ToWorker};
use crate::net::{End, Kind, Known, Parcel, Stream};
use crate::random;
use crate::reactor::{Place, sleep, timeout};
use crate::reception::{Admitted, Login, is_teaching, learnt_for};

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
        let mut is_told = false;
        loop {
            let error = match Place::listening(&listener) {
                Ok(place) => {
                    let error = self.receive_at(&listener, &place, &mut is_told).await;
                    place.leave(&listener);
                    error
                }
                Err(error) => error,
            };
            if error.kind() == io::ErrorKind::InvalidInput {
                return;
            }
            // Once, until it works again.
            if !std::mem::replace(&mut is_told, true) {
                warn!(%error, "cannot accept a client");
            }
            sleep(ACCEPT_PAUSE).await;
        }
    }

    /// Returns when nobody can be accepted for now; `InvalidInput` when the socket listens no more.
    async fn receive_at(self: &Rc<Self>, listener: &Listener, place: &Place, is_told: &mut bool) -> io::Error {
        let (mut wanted, mut round) = (1, 0);
        loop {
            place.readable().await;
            place.note_empty();
            // Who comes alone costs one call. Of a crowd, which the next round would tell of, more are taken at once.
            let now = self.reactor.rounds();
            wanted = if now == round + 1 { ACCEPT_MAX.min(2 * wanted) } else { 1 };
            round = now;
            let config = self.reception.book().config.clone();
            for _ in 0..wanted {
                match listener.accept(config.settings.tcp_keepalive) {
                    Ok(fresh) => self.place_client(fresh),
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                    // It was in a hurry to leave, or cannot be reached any more.
                    Err(error) if is_of_one_client(&error) => continue,
                    Err(error) => return error,
                }
                *is_told = false;
            }
        }
    }

    fn place_client(self: &Rc<Self>, fresh: Fresh) {
        let worker = self.reception.least_loaded(self.index);
        let login = self.reception.begin_login(Some(worker));
        if worker == self.index {
            self.take_in(fresh, login);
        } else {
            self.reception.tell(worker, ToWorker::Accepted(fresh, login));
        }
    }

    /// Begins a login here.
    pub(super) fn take_in(self: &Rc<Self>, fresh: Fresh, count: Login) {
        let Fresh { parcel, known } = fresh;
        let book = self.reception.book();
        let (config, offer) = (book.config.clone(), book.tls.clone().filter(|_| parcel.kind() == Kind::Tcp));
        drop(book);
        if self.reception.is_crowded(&config) {
            return turn_away(&parcel, known, &config);
        }
        let is_offered = offer.is_some();
        let progress = Progress {
            count,
            since: Instant::now(),
            login: if is_offered { ClientLogin::offering_tls() } else { ClientLogin::default() },
            inbox: Default::default(),
            out: Vec::new(),
            offer,
            held: None,
        };
        if is_offered && config.settings.client_tls_sslmode.is_strict() {
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
        let Progress { login, inbox, out, held, .. } = progress;
        let kind = stream.socket().kind();
        let caller = Caller::at(kind, known.peer.and_then(|peer| peer.address));
        stream.suppose_readable();
        loop {
            // From before it is looked at until it is known to be right: others may be guessing at the same moment.
            if login.is_proving(inbox) && !self.hold(&caller, login, held) {
                let user = login.identity().user.as_str();
                return Outcome::Elsewhere(Err(Refusal::TooManyFailures(user.into())));
            }
            let (taken, want) = match login.handle(inbox, out) {
                Ok(step) => step,
                Err(refusal) => return Outcome::Elsewhere(Err(refusal)),
            };
            *held = None;
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

    /// Counts a client among those whose proof may be wrong. May it be looked at?
    fn hold(&self, caller: &Caller, login: &ClientLogin, held: &mut Option<Held>) -> bool {
        if self.reception.book().config.settings.auth_failure_delay.is_zero() {
            return true;
        }
        *held = Held::new(&self.reception, caller.place(), &login.identity().user, true);
        held.is_some()
    }

    /// What this client has to pass, if that can be passed here. Who is not known has to pass the same, and cannot.
    fn method_for(&self, login: &ClientLogin, caller: &Caller) -> Option<AuthMethod> {
        let book = self.reception.book();
        let (config, mock_key) = (book.config.clone(), book.mock_key.clone());
        drop(book);
        let identity = login.identity();
        let (user, database) = (identity.user.as_str(), identity.database.as_str());
        let is_special = identity.replication != Replication::No || RESERVED_DATABASES.contains(&database);
        if is_special || identity.fault.is_some() {
            return None;
        }
        let demand = demand(&config, identity, caller).ok().filter(|demand| demand.client_cert.is_none())?;
        let listed = config.users.get(user);
        let text = match demand.method {
            Method::Any => return Some(AuthMethod::Trust),
            Method::Trust => return listed.map(|_| AuthMethod::Trust),
            Method::Cert | Method::Peer => return None,
            Method::Password | Method::Md5 | Method::Scram
                if listed.is_none() && config.auth_user(database).is_some() =>
            {
                return None;
            }
            Method::Password | Method::Md5 | Method::Scram => listed.and_then(|listed| listed.password.as_ref()),
        };
        let place = caller.place();
        if self.reception.book().failures.is_full(&place, user) {
            return None;
        }
        let secret = text.map(|text| Secret::parse(text.expose()));
        let is_scram = matches!(secret, Some(Secret::Scram(_)));
        match demand.method {
            Method::Password => (!is_scram).then_some(AuthMethod::Plain(secret)),
            Method::Md5 if !is_scram => Some(AuthMethod::Md5(secret, random())),
            _ => {
                let nonce = Nonce::from_entropy(random());
                let server = match (&secret, text) {
                    (Some(Secret::Scram(stored)), _) => ScramServer::new(stored.clone(), nonce),
                    (Some(_), Some(text)) => {
                        let derived = self.reception.book().verifiers.get(user).cloned();
                        ScramServer::new(derived.filter(|(of, _)| of == text)?.1, nonce)
                    }
                    _ => ScramServer::mock(&mock_key, user.as_bytes(), config.settings.scram_iterations, nonce),
                };
                Some(AuthMethod::Scram(Box::new(server)))
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

/// There is no room for it. What it says is not waited for.
fn turn_away(parcel: &Parcel, known: Known, config: &Config) {
    let refusal = Refusal::TooManyClients { max: config.settings.max_client_conn };
    if config.settings.log_pooler_errors {
        let (address, port) = known.peer.map_or(("unix".into(), 0), End::describe);
        info!(from = %format!("{address}:{port}"), "client refused: {refusal}");
    }
    let mut words = Vec::new();
    refusal.write(Severity::Fatal, &mut words);
    parcel.write_now(&words);
}

/// Is that no reason to expect that the next one fails, too? (accept(2))
fn is_of_one_client(error: &io::Error) -> bool {
    use io::ErrorKind as K;
    matches!(
        error.kind(),
        K::ConnectionAborted | K::NetworkDown | K::NetworkUnreachable | K::HostUnreachable | K::PermissionDenied
    )
}

//! Opening a server: connect, log in, hand it to the worker that wants it.

use std::io;
use std::rc::Rc;
use std::time::{Duration, Instant, SystemTime};

use pgsluice_auth::Nonce;
use pgsluice_pool::PoolId;
use pgsluice_session::{IdleServer, LoginFailure, Server, ServerLogin};
use pgsluice_wire::{FrontendWriter, HEAD_LEN, Head, PROTOCOL_3_0, PROTOCOL_3_2, tag::backend};
use tracing::{debug, warn};

use super::{Front, random};
use crate::message::{NewServer, ServerInfo, ToWorker};
use crate::net::Stream;
use crate::spec::Target;

/// Bytes read from a server at once before it is logged in.
const READ_LEN: usize = 8 << 10;
/// Longest answer to one of our own questions, in bytes.
const ANSWER_MAX: usize = 1 << 20;

/// Rows of text, as answered to one of our own questions.
pub(super) type Rows = Vec<Vec<Option<String>>>;

impl Front {
    pub(super) async fn open_server(self: Rc<Self>, pool: PoolId, worker: usize) {
        let (spec, epoch) = {
            let state = self.cell.borrow();
            (state.pools[pool.0].spec.clone(), state.pools[pool.0].epoch)
        };
        let at_start: Vec<_> = spec.at_start.iter().collect();
        match self.open(&spec.target, &at_start).await {
            Ok((stream, server)) => {
                let pid = server.cancel_key().pid;
                self.note_pid(pool, pid);
                if let Some(query) = &spec.target.connect_query {
                    match tokio::time::timeout(ASK_TIMEOUT, ask(&stream, query)).await {
                        Ok(Ok(_)) => {}
                        Ok(Err(error)) if is_report(&error) => {
                            warn!(database = %spec.database, %error, "connect_query failed");
                        }
                        // What is still to come of its answer would be taken for another's.
                        broken => {
                            let why = match broken {
                                Ok(Err(error)) => format!("connect_query: {error}"),
                                _ => format!("connect_query took longer than {} s", ASK_TIMEOUT.as_secs()),
                            };
                            self.forget_pid(pool, pid);
                            self.note_failure(pool, worker, &LoginFailure::Unreachable(why));
                            return self.pump();
                        }
                    }
                }
                let info = ServerInfo {
                    id: self.next_id(),
                    pid,
                    ends: stream.ends(),
                    since: Instant::now(),
                    connected: SystemTime::now(),
                    epoch,
                };
                debug!(server = info.id, pid = info.pid, database = %spec.database, "server opened");
                match stream.pack() {
                    Ok(parcel) => {
                        self.hand_over(pool, worker, NewServer { parcel, info, server: IdleServer::fresh(server) })
                    }
                    Err(error) => {
                        self.forget_pid(pool, pid);
                        self.note_failure(pool, worker, &unreachable(&error));
                    }
                }
            }
            Err(failure) => self.note_failure(pool, worker, &failure),
        }
        self.pump();
    }

    /// It is there from now on, though nobody can use it yet.
    fn note_pid(&self, pool: PoolId, pid: u32) {
        let mut state = self.cell.borrow_mut();
        state.cluster_of(pool).pids.insert(pid);
        state.call_seat(pool);
    }

    fn forget_pid(&self, pool: PoolId, pid: u32) {
        self.cell.borrow_mut().cluster_of(pool).pids.remove(&pid);
    }

    fn hand_over(&self, pool: PoolId, worker: usize, server: NewServer) {
        let mut state = self.cell.borrow_mut();
        state.pools[pool.0].failed = None;
        let target = state.pools[pool.0].spec.target.clone();
        let id = state.cluster_of(pool).id;
        if state.broker.budget(id).limits().is_none() {
            // Its limits could not be read as whoever came first: this login works.
            state.cluster_of(pool).control = target;
        }
        state.broker.handle_connected(pool, worker, Instant::now());
        drop(state);
        self.tell(worker, ToWorker::Server { pool, server: Box::new(server) });
    }

    /// A connection to PostgreSQL, logged in. `extra` are startup parameters besides the target's.
    pub(super) async fn open(&self, target: &Target, extra: &[(&str, &str)]) -> Result<(Stream, Server), LoginFailure> {
        let limit = self.config().settings.server_connect_timeout;
        let opening = self.connect_and_log_in(target, extra);
        if limit.is_zero() {
            return opening.await;
        }
        let late =
            || LoginFailure::Unreachable(format!("no login within {} s (server_connect_timeout)", limit.as_secs()));
        tokio::time::timeout(limit, opening).await.unwrap_or_else(|_| Err(late()))
    }

    /// Asks for the newest protocol that we know; a server that turns us away for that is asked for 3.0.
    async fn connect_and_log_in(
        &self,
        target: &Target,
        extra: &[(&str, &str)],
    ) -> Result<(Stream, Server), LoginFailure> {
        let is_old = self.cell.borrow().old_protocol.contains(&target.address);
        let version = if is_old { PROTOCOL_3_0 } else { PROTOCOL_3_2 };
        match self.log_in_as(version, target, extra).await {
            Err((failure, true)) => {
                let second = self.log_in_as(PROTOCOL_3_0, target, extra).await.map_err(|(failure, _)| failure)?;
                // Who hung up may have had other reasons, and is asked for the newer one again.
                if matches!(failure, LoginFailure::Refused(_)) {
                    debug!(server = %target.address, "speaks protocol 3.0 only");
                    self.cell.borrow_mut().old_protocol.insert(target.address.clone());
                }
                Ok(second)
            }
            outcome => outcome.map_err(|(failure, _)| failure),
        }
    }

    /// One attempt. A failure says whether it may be for the version alone.
    async fn log_in_as(
        &self,
        version: u32,
        target: &Target,
        extra: &[(&str, &str)],
    ) -> Result<(Stream, Server), (LoginFailure, bool)> {
        let failed = |error: &io::Error| (unreachable(error), false);
        let stream = self.connect(&target.address).await.map_err(|e| failed(&e))?;
        let credential = self.credential(target);
        let (mut out, mut inbox) = (Vec::new(), Vec::new());
        let params = target.params.iter().map(|(n, v)| (*n, v.as_str())).chain(extra.iter().copied());
        let proof = (credential.clone(), Nonce::from_entropy(random()));
        let mut login = ServerLogin::new(version, (&target.user, &target.dbname), params, proof, &mut out)
            .with_end_point(stream.end_point());
        let judge = |login: &ServerLogin, failure: LoginFailure| {
            let for_version = login.may_be_for_version(&failure);
            (failure, for_version)
        };
        loop {
            stream.write_all(&out).await.map_err(|e| failed(&e))?;
            out.clear();
            if stream.read_some(&mut inbox, READ_LEN).await.map_err(|e| judge(&login, unreachable(&e)))? == 0 {
                let failure = LoginFailure::Unreachable("it closed the connection during login".into());
                return Err(judge(&login, failure));
            }
            let (taken, server) = login.handle(&inbox, &mut out).map_err(|failure| {
                self.unlearn(target, &credential, &failure);
                judge(&login, failure)
            })?;
            inbox.drain(..taken);
            if let Some(server) = server {
                if let Some(learnt) = login.salted_keys() {
                    let keys = (target.address.clone(), target.user.clone());
                    self.cell.borrow_mut().salted.insert(keys, (target.secret.clone(), learnt.clone()));
                }
                return Ok((stream, server));
            }
        }
    }
}

fn unreachable(error: &io::Error) -> LoginFailure {
    LoginFailure::Unreachable(error.to_string())
}

/// Is it PostgreSQL's own word on a question, after which the server is as good as before?
pub(super) fn is_report(error: &io::Error) -> bool {
    // As `ask` makes it; what goes wrong with the connection itself has another kind.
    error.kind() == io::ErrorKind::Other
}

/// Asks one question of our own on a server that nobody else uses.
pub(super) async fn ask(stream: &Stream, query: &str) -> io::Result<Rows> {
    let broken = || io::Error::new(io::ErrorKind::InvalidData, "the answer is not a PostgreSQL server's");
    let (mut out, mut inbox, mut rows) = (Vec::new(), Vec::new(), Rows::new());
    let (mut failed, mut received) = (None, 0);
    FrontendWriter(&mut out).query(query.as_bytes());
    stream.write_all(&out).await?;
    loop {
        while let Some(head) = Head::read(&inbox).map_err(|_| broken())? {
            let Some(body) = inbox.get(HEAD_LEN..head.total()) else { break };
            match head.tag {
                backend::DATA_ROW => {
                    let columns = pgsluice_wire::DataRow::new(body).columns().map_err(|_| broken())?;
                    rows.push(
                        columns.into_iter().map(|c| c.map(|c| String::from_utf8_lossy(c).into_owned())).collect(),
                    );
                }
                backend::ERROR_RESPONSE => {
                    let report = pgsluice_wire::Report::read(body).map_err(|_| broken())?;
                    failed = Some(String::from_utf8_lossy(report.message()).into_owned());
                }
                backend::READY_FOR_QUERY => return failed.map_or(Ok(rows), |text| Err(io::Error::other(text))),
                _ => {}
            }
            inbox.drain(..head.total());
        }
        match stream.read_some(&mut inbox, READ_LEN).await? {
            0 => return Err(io::ErrorKind::UnexpectedEof.into()),
            n => received += n,
        }
        if received > ANSWER_MAX {
            let why = format!("the answer is longer than {ANSWER_MAX} bytes");
            return Err(io::Error::new(io::ErrorKind::FileTooLarge, why));
        }
    }
}

/// How long a control question may take.
pub(super) const ASK_TIMEOUT: Duration = Duration::from_secs(10);

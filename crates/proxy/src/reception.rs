//! What has to be known to let a client in, wherever it is let in: on the front's thread or on a worker's. Nothing of a query is here.

use std::collections::{BTreeSet, HashMap};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use pgsluice_auth::ScramSecret;
use pgsluice_config::{Config, Secret};
use pgsluice_session::{Identity, Refusal, ServerCredential, Settings};
use pgsluice_wire::PROTOCOL_3_2;
use tokio::sync::mpsc;
use tracing::info;

use crate::failures::Failures;
use crate::front::ForClients;
use crate::message::{NewClient, ToWorker};
use crate::net::Ends;
use crate::random;
use crate::spec::{Address, PoolSpec, Target};

/// Clients that may be logging in at once, beyond max_client_conn.
const LOGINS_SPARE: usize = 100;

/// Database, user, and the settings that the pool's servers were started with.
pub(crate) type PoolName = (String, String, Settings);

/// By the entry of the configuration, its PostgreSQL and the user. The entry is a part of it: who owns another database may say there
/// what is asked for, and prove it.
pub(crate) type LearntFor = (String, Address, String);

/// Shared by all threads; the lock is held for a moment, when a client comes or goes.
#[derive(Debug)]
pub(crate) struct Reception {
    book: Mutex<Book>,
    workers: Vec<mpsc::UnboundedSender<ToWorker>>,
    /// Clients of each worker, those among them that are still logging in there included.
    loads: Vec<AtomicUsize>,
    /// Clients that are logging in, anywhere.
    logins: AtomicUsize,
}

/// What all have to agree upon.
#[derive(Debug)]
pub(crate) struct Book {
    /// In force.
    pub(crate) config: Arc<Config>,
    /// What clients over TCP that ask for TLS are offered.
    pub(crate) tls: Option<Arc<ForClients>>,
    /// Salts of users that do not exist.
    pub(crate) mock_key: Arc<[u8; 32]>,
    /// Nobody is let in any more.
    pub(crate) is_closed: bool,
    /// Databases that nobody is let into.
    pub(crate) disabled: BTreeSet<String>,
    pub(crate) pools: HashMap<PoolName, Arc<PoolSpec>>,
    pub(crate) failures: Failures,
    /// SCRAM secrets derived from plain passwords, by user.
    pub(crate) verifiers: HashMap<String, (Secret, ScramSecret)>,
    /// What clients proved at their logins.
    pub(crate) learnt: HashMap<LearntFor, ServerCredential>,
    /// Workers of the clients that were let in, by process id.
    clients: HashMap<u32, usize>,
    last_pid: u32,
    last_id: u64,
}

/// A client that has proven who it is.
#[derive(Debug)]
pub(crate) struct Admitted {
    pub(crate) identity: Identity,
    /// Bytes it sent behind its login.
    pub(crate) early: Vec<u8>,
    /// Bytes of ours it has not been sent yet.
    pub(crate) late: Vec<u8>,
}

/// A login under way, counted for as long as this lives.
#[derive(Debug)]
pub(crate) struct Login {
    reception: Arc<Reception>,
    /// Where it is carried out, if that is a worker.
    worker: Option<usize>,
}

impl Reception {
    pub(crate) fn new(
        config: Arc<Config>,
        tls: Option<Arc<ForClients>>,
        workers: Vec<mpsc::UnboundedSender<ToWorker>>,
    ) -> Self {
        let book = Book {
            config,
            tls,
            mock_key: Arc::new(random()),
            is_closed: false,
            disabled: BTreeSet::new(),
            pools: HashMap::new(),
            failures: Failures::default(),
            verifiers: HashMap::new(),
            learnt: HashMap::new(),
            clients: HashMap::new(),
            last_pid: 0,
            last_id: 0,
        };
        let loads = workers.iter().map(|_| AtomicUsize::new(0)).collect();
        Self { book: Mutex::new(book), workers, loads, logins: AtomicUsize::new(0) }
    }

    /// Not to be held while anything else is done.
    pub(crate) fn book(&self) -> MutexGuard<'_, Book> {
        self.book.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn workers(&self) -> usize {
        self.workers.len()
    }

    pub(crate) fn tell(&self, worker: usize, message: ToWorker) {
        // Workers live as long as their mailboxes, which are read until the end.
        let _ = self.workers[worker].send(message);
    }

    /// The worker with the fewest clients; `own` where that is no worse than the others.
    pub(crate) fn least_loaded(&self, own: usize) -> usize {
        let load = |worker: usize| self.loads[worker].load(Ordering::Relaxed);
        (0..self.loads.len()).min_by_key(|&worker| (load(worker), worker != own)).unwrap_or(own)
    }

    pub(crate) fn logins(&self) -> usize {
        self.logins.load(Ordering::Relaxed)
    }

    /// Are so many logging in that one more has to go?
    pub(crate) fn is_crowded(&self, config: &Config) -> bool {
        self.logins() > config.settings.max_client_conn as usize + LOGINS_SPARE
    }

    /// A login begins; on a worker, whose client it is to be, or on the front.
    pub(crate) fn begin_login(self: &Arc<Self>, worker: Option<usize>) -> Login {
        self.logins.fetch_add(1, Ordering::Relaxed);
        if let Some(worker) = worker {
            self.loads[worker].fetch_add(1, Ordering::Relaxed);
        }
        Login { reception: self.clone(), worker }
    }

    /// One more client of this worker, if there is room for it in its database: a number and a process id. None: it is our own.
    ///
    /// # Errors
    /// There is no room.
    pub(crate) fn enter(&self, worker: usize, database: Option<&str>) -> Result<(u64, u32), Refusal> {
        let mut book = self.book();
        if let Some(database) = database {
            book.check_room(database)?;
        }
        let names = book.enter(worker);
        drop(book);
        self.loads[worker].fetch_add(1, Ordering::Relaxed);
        Ok(names)
    }

    /// A client has gone.
    pub(crate) fn leave(&self, pid: u32) {
        if let Some(worker) = self.book().clients.remove(&pid) {
            self.loads[worker].fetch_sub(1, Ordering::Relaxed);
        }
    }
}

impl Admitted {
    /// What its worker has to know of a client that has entered.
    pub(crate) fn introduce(
        self,
        config: &Config,
        (id, pid): (u64, u32),
        ends: Ends,
        pool: Arc<PoolSpec>,
    ) -> NewClient {
        let Self { identity, early, late } = self;
        let Identity { user, database, version, settings, replication, .. } = identity;
        if config.settings.log_connections {
            let from = ends.peer.describe();
            info!(client = id, %user, %database, from = %format!("{}:{}", from.0, from.1), "client logged in");
        }
        NewClient {
            ends,
            id,
            is_ours: false,
            pid,
            secret: if version < PROTOCOL_3_2 { Box::from(random::<4>()) } else { Box::<[u8]>::from(random::<32>()) },
            query_wait: config.query_wait_timeout(&database, &user),
            client_idle: config.client_idle_timeout(&user),
            user,
            replication,
            settings,
            pool,
            early,
            late,
        }
    }
}

impl Book {
    /// Is there room for one more client, of this database?
    ///
    /// # Errors
    /// Why not.
    pub(crate) fn check_room(&self, database: &str) -> Result<(), Refusal> {
        let max = self.config.settings.max_client_conn;
        if self.is_closed {
            return Err(Refusal::ShuttingDown);
        }
        if self.disabled.contains(database) {
            return Err(Refusal::Disabled(database.into()));
        }
        if self.clients.len() >= max as usize {
            return Err(Refusal::TooManyClients { max });
        }
        Ok(())
    }

    pub(crate) fn clients(&self) -> usize {
        self.clients.len()
    }

    /// The worker of the client with this process id.
    pub(crate) fn worker_of(&self, pid: u32) -> Option<usize> {
        self.clients.get(&pid).copied()
    }

    /// A number that no client and no server had.
    pub(crate) fn next_id(&mut self) -> u64 {
        self.last_id += 1;
        self.last_id
    }

    fn enter(&mut self, worker: usize) -> (u64, u32) {
        loop {
            // A process id that no client has.
            self.last_pid = self.last_pid % i32::MAX as u32 + 1;
            if !self.clients.contains_key(&self.last_pid) {
                self.clients.insert(self.last_pid, worker);
                return (self.next_id(), self.last_pid);
            }
        }
    }
}

impl Login {
    /// It goes on on the front's thread.
    pub(crate) fn leave_worker(&mut self) {
        if let Some(worker) = self.worker.take() {
            self.reception.loads[worker].fetch_sub(1, Ordering::Relaxed);
        }
    }
}

impl Drop for Login {
    fn drop(&mut self) {
        self.leave_worker();
        self.reception.logins.fetch_sub(1, Ordering::Relaxed);
    }
}

/// For whom it is good what a client of this pool proves.
pub(crate) fn learnt_for(target: &Target) -> LearntFor {
    (target.database.clone(), target.address.clone(), target.user.clone())
}

/// May what a client proves open this target's servers?
pub(crate) fn is_teaching(config: &Config, target: &Target) -> bool {
    target.is_own && config.database(&target.database).is_some_and(|(entry, _)| entry.user.is_none())
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    fn reception(workers: usize) -> Arc<Reception> {
        let text = "[databases]\n* = host=127.0.0.1\n\n[pgbouncer]\nauth_type = trust\nmax_client_conn = 3\n";
        let (config, _) = pgsluice_config::parse_ini(text, Path::new("pgsluice.ini")).expect("a configuration");
        let workers = (0..workers).map(|_| mpsc::unbounded_channel().0).collect();
        Arc::new(Reception::new(Arc::new(config), None, workers))
    }

    #[test]
    fn a_client_is_the_workers_that_has_the_fewest() {
        let reception = reception(3);
        assert_eq!([0, 1, 2].map(|own| reception.least_loaded(own)), [0, 1, 2], "its own, if all have as many");
        let mut login = reception.begin_login(Some(1));
        assert_eq!([0, 1, 2].map(|own| reception.least_loaded(own)), [0, 0, 2]);
        let (_, pid) = reception.enter(0, Some("d")).expect("room");
        assert_eq!([0, 1, 2].map(|own| reception.least_loaded(own)), [2, 2, 2]);
        login.leave_worker();
        assert_eq!((reception.least_loaded(1), reception.logins()), (1, 1));
        drop(login);
        reception.leave(pid);
        reception.leave(pid);
        assert_eq!(([0, 1, 2].map(|own| reception.least_loaded(own)), reception.logins()), ([0, 1, 2], 0));
    }

    #[test]
    fn nobody_enters_beyond_what_may() {
        let reception = reception(1);
        let enter = |database| reception.enter(0, Some(database));
        let names: Vec<_> = (0..3).map(|_| enter("d").expect("room")).collect();
        assert_eq!(enter("d"), Err(Refusal::TooManyClients { max: 3 }));
        assert!(reception.enter(0, None).is_ok(), "one of our own");
        reception.leave(names[0].1);
        reception.leave(names[1].1);
        reception.book().disabled.insert("d".into());
        assert_eq!(enter("d"), Err(Refusal::Disabled("d".into())));
        assert!(enter("e").is_ok());
        reception.book().is_closed = true;
        assert_eq!(enter("e"), Err(Refusal::ShuttingDown));
    }

    #[test]
    fn process_ids_are_used_again_but_not_while_somebody_has_them() {
        let reception = reception(1);
        let enter = || reception.enter(0, None).expect("room").1;
        assert_eq!([enter(), enter()], [1, 2]);
        reception.book().last_pid = i32::MAX as u32 - 1;
        reception.leave(2);
        assert_eq!([enter(), enter(), enter()], [i32::MAX as u32, 2, 3]);
    }
}

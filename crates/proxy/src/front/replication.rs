//! Replication connections: a WAL sender is opened for the client, with its own startup parameters.

use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use pgsluice_config::Config;
use pgsluice_session::{Identity, Refusal, Replication, ServerCredential, Settings};

use super::Front;
use super::accept::LoggedIn;
use crate::message::{NewTunnel, ServerInfo, ToWorker};
use crate::net::Stream;
use crate::spec::PoolSpec;

impl Front {
    pub(super) async fn admit_replication(self: Rc<Self>, stream: Stream, logged_in: LoggedIn) {
        let LoggedIn { client, learnt } = logged_in;
        let pool = match self.replication_pool(&client.identity, learnt) {
            Ok(pool) => pool,
            Err(refusal) => return self.turn_away(&stream, &refusal, client.late),
        };
        // Until it has its WAL sender it counts as logging in.
        let _count = self.reception.begin_login(None);
        let parameters: Vec<_> = client.identity.verbatim.iter().map(|(n, v)| (n.as_str(), v.as_str())).collect();
        let (server, machine) = match self.open(&pool.target, &parameters).await {
            Ok(opened) => opened,
            Err(failure) => return self.turn_away(&stream, &failure.refusal(), client.late),
        };
        let info = ServerInfo {
            id: self.next_id(),
            pid: machine.cancel_key().pid,
            ends: server.ends(),
            since: Instant::now(),
            connected: SystemTime::now(),
            epoch: self.cell.borrow().pools[pool.id.0].epoch,
        };
        let Ok(server) = server.pack() else { return };
        if let Some((worker, parcel, mut client)) = self.introduce(stream, client, pool) {
            // Such a client may have nothing to say for hours.
            client.client_idle = Duration::ZERO;
            let (key, params) = (machine.cancel_key().clone(), machine.params().clone());
            self.tell(worker, ToWorker::Tunnel(Box::new(NewTunnel { parcel, client, server, info, key, params })));
        }
    }

    /// The pool whose numbers the client counts in, and whose target it is for.
    fn replication_pool(
        self: &Rc<Self>,
        identity: &Identity,
        learnt: Option<ServerCredential>,
    ) -> Result<Arc<PoolSpec>, Refusal> {
        let config = self.config();
        let named = identity.database.as_str();
        let database = match identity.replication {
            Replication::Physical if config.database(named).is_none() => only_cluster(&config).unwrap_or(named),
            _ => named,
        };
        self.reception.book().check_room(database)?;
        self.learn(database, &identity.user, learnt);
        self.pool(database, &identity.user, &Settings::default())
    }
}

/// Physical replication is bound to no database, and clients name one that need not exist: where all databases are of one
/// PostgreSQL, it is that.
fn only_cluster(config: &Config) -> Option<&str> {
    let mut databases = config.databases.iter();
    let (name, first) = databases.next()?;
    let elsewhere = |d: &pgsluice_config::Database| d.host != first.host || d.port != first.port;
    (!databases.any(|(_, other)| elsewhere(other))).then_some(name.as_str())
}

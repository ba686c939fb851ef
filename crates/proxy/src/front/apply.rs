//! Changes of the configuration while running: RELOAD, SIGHUP, SET.

use std::rc::Rc;
use std::sync::Arc;

use pgsluice_config::{Config, Problems};
use tracing::{info, warn};

use super::tls::Tls;
use super::{Front, Source};
use crate::message::ToWorker;
use crate::spec::PoolSpec;

impl Front {
    /// Reads the file again and applies all of it, or nothing.
    pub(super) fn reload(self: &Rc<Self>) -> Result<(), Problems> {
        let Source::File { path, fleet } = &self.source else {
            info!("reload: started from the command line, there is no file to read");
            return Ok(());
        };
        let (mut config, warnings) = pgsluice_config::load(path)?;
        warnings.iter().for_each(|w| warn!("{w}"));
        if let Some(fleet) = fleet {
            config.settings.fleet.clone_from(fleet);
        }
        self.apply(config)
    }

    /// Puts a configuration in force.
    ///
    /// # Errors
    /// A certificate or key that it names is of no use; nothing was changed.
    pub(super) fn apply(self: &Rc<Self>, mut config: Config) -> Result<(), Problems> {
        let tls = Tls::load(&config).map_err(|problem| Problems(vec![problem]))?;
        *self.tls.borrow_mut() = tls;
        let old = self.config();
        let diff = old.diff(&config);
        for change in &diff.settings {
            if change.changeable {
                info!("{} is now {} (was {})", change.key, change.new, change.old);
            } else {
                warn!("{} stays {} until a restart (the file says {})", change.key, change.old, change.new);
            }
        }
        for name in &diff.databases.removed {
            info!("database {name} is gone: no new clients; those who are there go on");
        }
        config.settings.keep_fixed(&old.settings);
        let config = Arc::new(config);
        *self.config.borrow_mut() = config.clone();
        let mut book = self.reception.book();
        book.config = config.clone();
        book.offers_tls = self.tls.borrow().clients.is_some();
        drop(book);
        self.answers.borrow_mut().forget_all();
        self.apply_budget(&config);
        self.know_clusters();
        self.apply_pools(&config);
        self.limits_due.notify_waiters();
        self.pump();
        Ok(())
    }

    fn apply_budget(&self, config: &Config) {
        let s = &config.settings;
        let cap = (s.max_server_connections > 0).then_some(s.max_server_connections);
        let mut state = self.cell.borrow_mut();
        for index in 0..state.clusters.len() {
            let id = state.clusters[index].id;
            state.broker.budget_mut(id).configure(s.budget_headroom, cap);
        }
    }

    /// Servers of pools whose target changed are obsolete.
    fn apply_pools(self: &Rc<Self>, config: &Config) {
        let count = self.cell.borrow().pools.len();
        for index in 0..count {
            let before = self.cell.borrow().pools[index].spec.clone();
            let user = server_user(config, &before);
            let new = PoolSpec::resolve(config, &before.database, user, &before.at_start, before.id);
            if let Some(spec) = new.filter(|new| **new != *before) {
                self.replace_pool(&before, spec);
            }
        }
    }

    fn replace_pool(self: &Rc<Self>, before: &PoolSpec, spec: Arc<PoolSpec>) {
        let index = spec.id.0;
        if spec.target.address != before.target.address || spec.target.user != before.target.user {
            // Its servers are counted where they are: the new place is for a new pool.
            info!(
                "database {} has moved: new clients go to {} as {}",
                spec.database, spec.target.address, spec.target.user
            );
            self.reception.book().pools.retain(|_, pool| pool.id != spec.id);
            return;
        }
        let mut state = self.cell.borrow_mut();
        let entry = &mut state.pools[index];
        if spec.target != before.target {
            entry.epoch += 1;
        }
        entry.failed = None;
        entry.spec = spec.clone();
        let mut book = self.reception.book();
        book.pools.values_mut().filter(|pool| pool.id == spec.id).for_each(|pool| *pool = spec.clone());
        drop(book);
        let epoch = entry.epoch;
        self.set_minimums(&mut state);
        self.tell_all(|| ToWorker::Pool { spec: spec.clone(), epoch });
    }
}

/// The user that a pool's servers log in as.
fn server_user<'a>(config: &'a Config, pool: &'a PoolSpec) -> &'a str {
    let before = pool.target.user.as_str();
    let forced = config.database(&pool.database).and_then(|(entry, _)| entry.user.as_deref());
    // Who asks for secrets is nobody's client.
    if config.auth_user(&pool.database) == Some(before) { before } else { forced.unwrap_or(before) }
}

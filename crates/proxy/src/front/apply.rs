//! Changes of the configuration while running: RELOAD, SIGHUP, SET.

use std::rc::Rc;
use std::sync::Arc;

use pgsluice_config::{Config, Problems};
use tracing::{info, warn};

use super::tls::Tls;
use super::{Front, Source};
use crate::message::ToWorker;
use crate::reception::Book;
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
        let changed = self.changed_pools(&config);
        // All of it at once: nobody is let in by half of it.
        let mut book = self.reception.book();
        book.config = config.clone();
        book.tls.clone_from(&tls.clients);
        changed.iter().for_each(|(before, spec)| replace_in(&mut book, before, spec));
        drop(book);
        *self.tls.borrow_mut() = tls;
        self.answers.borrow_mut().forget_all();
        self.apply_budget(&config);
        self.know_clusters();
        changed.into_iter().for_each(|(before, spec)| self.replace_pool(&before, spec));
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

    /// Pools that the configuration changes: as they were, and as they are.
    fn changed_pools(&self, config: &Config) -> Vec<(Arc<PoolSpec>, Arc<PoolSpec>)> {
        let state = self.cell.borrow();
        let changed = state.pools.iter().filter_map(|pool| {
            let before = &pool.spec;
            let user = server_user(config, before);
            let spec = PoolSpec::resolve(config, &before.database, user, &before.at_start, before.id)?;
            (*spec != **before).then(|| (before.clone(), spec))
        });
        changed.collect()
    }

    /// Servers of pools whose target changed are obsolete.
    fn replace_pool(self: &Rc<Self>, before: &PoolSpec, spec: Arc<PoolSpec>) {
        let index = spec.id.0;
        if has_moved(before, &spec) {
            // Its servers are counted where they are: the new place is for a new pool.
            info!(
                "database {} has moved: new clients go to {} as {}",
                spec.database, spec.target.address, spec.target.user
            );
            self.cell.borrow_mut().pools[index].has_moved = true;
            return;
        }
        let mut state = self.cell.borrow_mut();
        let entry = &mut state.pools[index];
        if spec.target != before.target {
            entry.epoch += 1;
        }
        entry.failed = None;
        entry.spec = spec.clone();
        let epoch = entry.epoch;
        self.set_minimums(&mut state);
        self.tell_all(|| ToWorker::Pool { spec: spec.clone(), epoch });
    }
}

fn has_moved(before: &PoolSpec, spec: &PoolSpec) -> bool {
    spec.target.address != before.target.address || spec.target.user != before.target.user
}

fn replace_in(book: &mut Book, before: &PoolSpec, spec: &Arc<PoolSpec>) {
    let name = (before.database.clone(), before.target.user.clone(), before.at_start.clone());
    // One that has moved before has left its name to another.
    if book.pools.get(&name).is_some_and(|pool| pool.id == spec.id) {
        if has_moved(before, spec) {
            book.pools.remove(&name);
        } else {
            book.pools.insert(name, spec.clone());
        }
    }
}

/// The user that a pool's servers log in as.
fn server_user<'a>(config: &'a Config, pool: &'a PoolSpec) -> &'a str {
    let before = pool.target.user.as_str();
    let forced = config.database(&pool.database).and_then(|(entry, _)| entry.user.as_deref());
    // Who asks for secrets is nobody's client.
    if config.auth_user(&pool.database) == Some(before) { before } else { forced.unwrap_or(before) }
}

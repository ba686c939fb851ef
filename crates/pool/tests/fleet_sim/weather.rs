//! What happens to a fleet from outside.

use super::instance::Instance;
use super::{Event, GHOST_MAX, MS, ORPHAN_MAX, OTHERS_MAX, SECOND, TRANSACTION_MAX, World, count};

impl World {
    pub(super) fn change_demand(&mut self, i: usize) {
        if self.weather.demand == 0 {
            return;
        }
        let is_burst = self.random.chance(self.weather.bursts);
        let demand = if is_burst { self.random.range(20, 201) } else { self.random.range(0, 3) };
        self.set_demand(i, count(demand as usize));
        self.again(self.weather.demand, Event::Demand(i));
    }

    pub(super) fn change_others(&mut self) {
        if self.weather.others == 0 {
            return;
        }
        if self.random.chance(50) && self.postgres.others < OTHERS_MAX {
            self.postgres.log_in_other();
        } else {
            self.postgres.others = self.postgres.others.saturating_sub(1);
        }
        self.again(self.weather.others, Event::Others);
    }

    fn any(&mut self) -> usize {
        self.random.range(0, self.instances.len() as u64) as usize
    }

    /// Somebody is killed: its idle servers end with it, those in a transaction do not.
    pub(super) fn crash_one(&mut self) {
        if self.weather.crashes == 0 {
            return;
        }
        let i = self.any();
        if self.instances[i].is_up {
            self.crash(i);
            let away = self.random.range(100 * MS, 15 * SECOND);
            self.after(away, Event::Start(i));
        }
        self.again(self.weather.crashes, Event::Crash);
    }

    fn crash(&mut self, i: usize) {
        self.counts.crashes += 1;
        let old = &mut self.instances[i];
        let new = Instance { life: old.life + 1, link: old.link + 1, demand: old.demand, ..Instance::default() };
        let old = std::mem::replace(old, new);
        let in_use = old.in_use();
        old.control.into_iter().for_each(|pid| self.postgres.end_control(pid));
        for (at, server) in old.open.into_iter().enumerate() {
            if at >= in_use || self.random.chance(50) {
                self.postgres.end_server(server.pid);
            } else {
                self.orphans += 1;
                let after = if self.random.chance(70) { TRANSACTION_MAX / 20 } else { ORPHAN_MAX };
                let after = self.random.range(0, after);
                self.after(after, Event::Orphan(server.pid));
            }
        }
        old.opening.into_iter().chain(old.closing).for_each(|pid| self.postgres.end_server(pid));
        self.weigh(i);
    }

    /// Somebody loses its control connection, of which PostgreSQL hears later.
    pub(super) fn cut_one(&mut self) {
        if self.weather.cuts == 0 {
            return;
        }
        let i = self.any();
        let ghost = if self.random.chance(30) { 0 } else { self.random.range(0, GHOST_MAX) };
        self.cut(i, ghost);
        self.again(self.weather.cuts, Event::Cut);
    }

    /// It loses its control connection, which PostgreSQL keeps for that long.
    pub(crate) fn cut(&mut self, i: usize, ghost: u64) {
        if let Some(pid) = self.instances[i].control {
            self.counts.cuts += 1;
            self.after(ghost, Event::Ghost(pid));
            self.lose(i);
        }
    }

    fn lose(&mut self, i: usize) {
        let now = self.at(self.now);
        let instance = &mut self.instances[i];
        let need = instance.need();
        instance.fleet.lose(&need, now);
        (instance.control, instance.flight, instance.will_wake) = (None, None, false);
        instance.link += 1;
        self.settle(i);
        self.connect_later(i);
    }

    /// PostgreSQL is restarted. Who hears of its control connection first is as likely as who hears of its servers first.
    pub(crate) fn restart_postgres(&mut self) {
        self.postgres.restart();
        self.orphans = 0;
        self.events.retain(|std::cmp::Reverse((_, _, event))| !matches!(event, Event::Orphan(_) | Event::Ghost(_)));
        for i in 0..self.instances.len() {
            let instance = &mut self.instances[i];
            if !instance.is_up {
                continue;
            }
            let pids: Vec<_> =
                instance.open.drain(..).map(|s| s.pid).chain(std::mem::take(&mut instance.opening)).collect();
            pids.into_iter().for_each(|pid| self.close(i, pid));
            if self.instances[i].control.is_some() {
                self.lose(i);
            }
        }
    }
}

//! What must be true of a fleet.

use super::instance::Instance;
use super::{MS, OTHERS_MAX, SECOND, TRANSACTION_MAX, World, count};

impl World {
    /// What an instance may come to has changed.
    pub(super) fn weigh(&mut self, i: usize) {
        let new = self.instances[i].potential();
        self.potential = self.potential + new - self.potentials[i];
        self.potentials[i] = new;
    }

    /// At every step: slots are numbers below the ceiling, so there are no more of them. What all instances may come to without
    /// another reading, and what is left of the dead, fits beside the control connections and strangers that there were at the
    /// reading which granted the last slot, and leaves the headroom; where there is less room than the headroom, it is one server. So
    /// PostgreSQL refuses a server only if more of those than the headroom have come since, which is checked where it does.
    pub(super) fn check(&self) {
        let (slots, highest) = self.postgres.slots();
        let ceiling = self.postgres.ceiling;
        assert!(slots <= ceiling && highest.is_none_or(|n| n < ceiling), "{slots} slots, {highest:?}");
        let room = ceiling.saturating_sub(self.grant.apart);
        let most = room.saturating_sub(self.postgres.headroom).max(room.min(1));
        let potential = self.potential + self.orphans;
        assert!(potential <= most, "{potential} for {most} at {}", self.now);
    }

    /// How many servers all of them may have.
    pub(crate) fn capacity(&self) -> u32 {
        let room = self.postgres.ceiling.saturating_sub(self.postgres.apart() + self.orphans);
        room.saturating_sub(self.postgres.headroom).max(room.min(1))
    }

    pub(crate) fn used(&self) -> u32 {
        self.instances.iter().map(|i| count(i.in_use())).sum()
    }

    /// Whether everybody has what it wants, or all there is is given and nobody has two more than somebody who lacks.
    pub(crate) fn is_fair(&self) -> bool {
        let wanted: u32 = self.instances.iter().map(|i| i.demand).sum();
        let lacking = self.instances.iter().filter(|i| count(i.in_use()) < i.demand).map(Instance::in_use).min();
        let most = self.instances.iter().map(Instance::in_use).max().unwrap_or(0);
        self.used() == wanted.min(self.capacity()) && lacking.is_none_or(|least| most <= least + 1)
    }

    /// Whether there are more who want a server than servers: they have one in turns.
    pub(crate) fn is_scarce(&self) -> bool {
        self.instances.iter().filter(|i| i.demand > 0).count() > self.capacity() as usize
    }

    /// What each of them has at least.
    pub(crate) fn least(&self) -> u32 {
        self.instances.iter().map(|i| count(i.in_use())).min().unwrap_or(0)
    }

    /// What each of them is due at least, if all want that much.
    pub(crate) fn due(&self) -> u32 {
        self.capacity() / count(self.instances.len())
    }

    /// The longest pause in a fleet of that size, jitter included.
    pub(crate) fn pause(&self) -> u64 {
        (20 * MS * self.instances.len() as u64).clamp(250 * MS, 5 * SECOND) * 5 / 4
    }

    /// Nobody who is connected has to go without for longer: everybody's turn comes, whoever had the server before may be in a
    /// transaction, and both look before they give and take.
    pub(crate) fn hunger_max(&self) -> u64 {
        let apart = count(self.instances.len()) + OTHERS_MAX;
        let capacity = self.postgres.ceiling - self.postgres.headroom - apart;
        // Turns do not come in order: 2.62 times as many as that would take are possible.
        let turns = self.instances.len() as u64 * 8 / (3 * u64::from(capacity.max(1))) + 1;
        // How long those who have a server where there are fewer than who want one keep it.
        let turn = (self.instances.len() as u64 / 15).clamp(5, 20) * SECOND;
        (turns + 1) * turn + TRANSACTION_MAX + 4 * self.pause()
    }
}

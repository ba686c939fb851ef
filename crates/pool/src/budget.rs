//! How many backends this instance may occupy on one PostgreSQL, and why.

/// What PostgreSQL says about its slots.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Limits {
    /// `max_connections`.
    pub max_connections: u32,
    /// `superuser_reserved_connections`.
    pub superuser_reserved: u32,
    /// `reserved_connections`, 0 before PostgreSQL 16.
    pub reserved: u32,
    /// Client backends that are not ours.
    pub others: u32,
}

/// How full PostgreSQL is, against its ceiling, the worst last.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum BudgetState {
    /// The server will not tell its limits.
    Unknown,
    /// Below the thresholds.
    Ok,
    /// At or over `budget_warning` percent.
    Warning,
    /// At or over `budget_critical` percent.
    Critical,
}

/// The arithmetic. All numbers are backends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Budget {
    limits: Option<Limits>,
    wanted_headroom: u32,
    cap: Option<u32>,
    /// Control connections of ours.
    control: u32,
    /// What a refusal (53300) showed to be possible, until the limits are read again.
    seen: Option<u32>,
    /// Servers that our fleet leaves us, if we are part of one.
    tokens: Option<u32>,
}

impl Budget {
    /// A budget of which nothing is known yet. `cap` is `max_server_connections`.
    pub fn new(headroom: u32, cap: Option<u32>) -> Self {
        Self { limits: None, wanted_headroom: headroom, cap, control: 0, seen: None, tokens: None }
    }

    /// What PostgreSQL last said.
    pub fn limits(&self) -> Option<Limits> {
        self.limits
    }

    /// The configured cap.
    pub fn cap(&self) -> Option<u32> {
        self.cap
    }

    /// Control connections of ours.
    pub fn control(&self) -> u32 {
        self.control
    }

    /// The limits were read, over a control connection; or it is gone and they are what they last were.
    pub fn set_limits(&mut self, limits: Limits, control: u32) {
        self.limits = Some(limits);
        self.control = control;
        self.seen = None;
    }

    /// The limits will not be told: the configured sizes are all there is.
    pub fn set_unknown(&mut self) {
        self.limits = None;
        self.control = 0;
        self.seen = None;
    }

    /// New configuration.
    pub fn configure(&mut self, headroom: u32, cap: Option<u32>) {
        self.wanted_headroom = headroom;
        self.cap = cap;
    }

    /// The fleet's tokens that we hold: servers that we may have. `None` outside a fleet.
    pub fn set_tokens(&mut self, tokens: Option<u32>) {
        self.tokens = tokens;
    }

    /// The fleet's tokens that we hold.
    pub fn tokens(&self) -> Option<u32> {
        self.tokens
    }

    /// PostgreSQL refused one more while we had `servers` open.
    pub fn refused_at(&mut self, servers: u32) {
        self.seen = Some(servers);
    }

    /// Slots that ordinary roles can have at all.
    pub fn ceiling(&self) -> Option<u32> {
        let l = self.limits?;
        Some(l.max_connections.saturating_sub(l.superuser_reserved).saturating_sub(l.reserved))
    }

    /// Slots left free so that a person can log in. Where others leave hardly anything, one server of ours goes before it.
    pub fn headroom(&self) -> u32 {
        match (self.ceiling(), self.limits) {
            (Some(ceiling), Some(l)) => {
                self.wanted_headroom.min(ceiling.saturating_sub(l.others).saturating_sub(self.control + 1))
            }
            _ => self.wanted_headroom,
        }
    }

    /// `min(ceiling - headroom - others, cap, tokens + control)`; `None` if nothing limits us.
    pub fn budget(&self) -> Option<u32> {
        let rest = match (self.ceiling(), self.limits) {
            (Some(ceiling), Some(l)) => Some(ceiling.saturating_sub(self.headroom()).saturating_sub(l.others)),
            _ => None,
        };
        let tokens = self.tokens.map(|tokens| tokens.saturating_add(self.control));
        [rest, self.cap, tokens].into_iter().flatten().min()
    }

    /// Servers we may have open: the budget less the control connections, and no more than a refusal showed.
    pub fn servers(&self) -> u32 {
        let budgeted = self.budget().map_or(u32::MAX, |b| b.saturating_sub(self.control));
        budgeted.min(self.seen.unwrap_or(u32::MAX))
    }

    /// Share of the ceiling in use, in percent, with `servers` of ours open.
    pub fn used_percent(&self, servers: u32) -> Option<u32> {
        let (ceiling, l) = (self.ceiling()?, self.limits?);
        let used = u64::from(l.others) + u64::from(self.control) + u64::from(servers);
        Some(u32::try_from(used * 100 / u64::from(ceiling.max(1))).unwrap_or(u32::MAX))
    }

    /// How full it is, with `servers` of ours open.
    pub fn state(&self, servers: u32, warning: u32, critical: u32) -> BudgetState {
        match self.used_percent(servers) {
            None => BudgetState::Unknown,
            Some(percent) if percent >= critical => BudgetState::Critical,
            Some(percent) if percent >= warning => BudgetState::Warning,
            Some(_) => BudgetState::Ok,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn limits(max_connections: u32, others: u32) -> Limits {
        Limits { max_connections, superuser_reserved: 3, reserved: 0, others }
    }

    #[test]
    fn the_arithmetic_adds_up() {
        let mut budget = Budget::new(3, None);
        assert_eq!((budget.budget(), budget.servers()), (None, u32::MAX));
        budget.set_limits(limits(20, 2), 1);
        assert_eq!(
            (budget.ceiling(), budget.headroom(), budget.budget(), budget.servers()),
            (Some(17), 3, Some(12), 11)
        );
        budget.set_tokens(Some(9));
        assert_eq!((budget.budget(), budget.servers()), (Some(10), 9));
        budget.configure(3, Some(5));
        assert_eq!((budget.budget(), budget.servers()), (Some(5), 4));
        assert_eq!(budget.used_percent(11), Some(82));
        assert_eq!(budget.state(11, 80, 95), BudgetState::Warning);
        assert_eq!(budget.state(14, 80, 95), BudgetState::Critical);
    }

    #[test]
    fn headroom_gives_way_to_one_server() {
        let mut budget = Budget::new(3, None);
        budget.set_limits(limits(20, 14), 1);
        assert_eq!((budget.headroom(), budget.budget(), budget.servers()), (1, Some(2), 1));
        budget.set_limits(limits(20, 17), 1);
        assert_eq!((budget.headroom(), budget.servers()), (0, 0));
    }

    #[test]
    fn a_refusal_counts_until_the_limits_are_read_again() {
        let mut budget = Budget::new(0, None);
        budget.refused_at(4);
        assert_eq!(budget.servers(), 4);
        budget.set_limits(limits(100, 0), 1);
        assert_eq!(budget.servers(), 96);
    }
}

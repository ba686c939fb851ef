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

/// How far below a threshold it is over.
const HYSTERESIS_PERCENT: u32 = 5;

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
    /// Servers that the configuration leaves us where there should be a fleet and is none.
    share: Option<u32>,
}

impl Budget {
    /// A budget of which nothing is known yet. `cap` is `max_server_connections`.
    pub fn new(headroom: u32, cap: Option<u32>) -> Self {
        Self { limits: None, wanted_headroom: headroom, cap, control: 0, seen: None, tokens: None, share: None }
    }

    /// What PostgreSQL last said.
    pub fn limits(&self) -> Option<Limits> {
        self.limits
    }

    /// Backends that the configuration allows us at most.
    pub fn cap(&self) -> Option<u32> {
        [self.cap, self.share.map(|share| share.saturating_add(self.control))].into_iter().flatten().min()
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

    /// We are in a fleet: the servers that its tokens of ours allow us. Whoever else is there is in these.
    pub fn set_tokens(&mut self, tokens: u32) {
        (self.tokens, self.share) = (Some(tokens), None);
    }

    /// We should be in a fleet and cannot: as many servers, if PostgreSQL has room.
    pub fn set_share(&mut self, share: u32) {
        (self.tokens, self.share) = (None, Some(share));
    }

    /// See [`Budget::set_tokens`]; `None` outside a fleet.
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

    /// `min(ceiling - headroom - others, cap)`, in a fleet `min(tokens + control, cap)`; `None` if nothing limits us.
    pub fn budget(&self) -> Option<u32> {
        let most = match (self.tokens, self.ceiling(), self.limits) {
            // All members leave room for the same others together. Would each do so for all of them, they would leave too much.
            (Some(tokens), ..) => Some(tokens.saturating_add(self.control)),
            (None, Some(ceiling), Some(l)) => Some(ceiling.saturating_sub(self.headroom()).saturating_sub(l.others)),
            _ => None,
        };
        [most, self.cap()].into_iter().flatten().min()
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

impl BudgetState {
    /// What to say now that was `self` when it was said last: `at(0)` is how full PostgreSQL is, `at(n)` with thresholds that are
    /// n percent lower. It is over only well below a threshold, so that nothing is said again and again.
    pub fn alarm(self, at: impl Fn(u32) -> BudgetState) -> BudgetState {
        let now = at(0);
        if now > self || at(HYSTERESIS_PERCENT) < self { now } else { self }
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
        budget.configure(3, Some(5));
        assert_eq!((budget.budget(), budget.servers()), (Some(5), 4));
        assert_eq!(budget.used_percent(11), Some(82));
        assert_eq!(budget.state(11, 80, 95), BudgetState::Warning);
        assert_eq!(budget.state(14, 80, 95), BudgetState::Critical);
    }

    #[test]
    fn in_a_fleet_the_tokens_leave_room_for_others() {
        let mut budget = Budget::new(3, None);
        budget.set_limits(limits(20, 12), 1);
        budget.set_tokens(9);
        assert_eq!((budget.budget(), budget.servers(), budget.tokens()), (Some(10), 9, Some(9)));
        budget.configure(3, Some(5));
        assert_eq!((budget.budget(), budget.servers(), budget.cap()), (Some(5), 4, Some(5)));
        budget.configure(3, None);
        budget.set_share(9);
        assert_eq!((budget.budget(), budget.servers(), budget.tokens(), budget.cap()), (Some(2), 1, None, Some(10)));
        budget.set_limits(limits(20, 0), 1);
        assert_eq!((budget.budget(), budget.servers()), (Some(10), 9));
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
    fn an_alarm_is_over_well_below_its_threshold() {
        use BudgetState::{Critical, Ok, Unknown, Warning};
        let mut budget = Budget::new(0, None);
        budget.set_limits(Limits { max_connections: 100, ..Limits::default() }, 0);
        let mut said = Unknown;
        let mut alarm = |servers| {
            said = said.alarm(|lower| budget.state(servers, 80 - lower, 95 - lower));
            said
        };
        let course = [(10, Ok), (80, Warning), (76, Warning), (95, Critical), (90, Critical), (89, Warning), (74, Ok)];
        course.iter().for_each(|&(servers, said)| assert_eq!(alarm(servers), said, "{servers}"));
        assert_eq!([alarm(79), alarm(100), alarm(0)], [Ok, Critical, Ok]);
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

//! A row of `SHOW BUDGET`: how many backends this instance may occupy on one PostgreSQL, and why. A row holds what was
//! found out and what was configured; what follows from that is computed, so that the arithmetic on the screen adds up.
//! The decisions themselves are made by the pool.

/// One PostgreSQL.
#[derive(Clone, Debug, Default)]
pub struct BudgetRow {
    /// Host and port.
    pub server: String,
    /// What the server says; `None` while it does not tell.
    pub limits: Option<Limits>,
    /// Slots left free on purpose.
    pub headroom: u32,
    /// Most backends the configuration allows us here.
    pub cap: Option<u32>,
    /// Servers that our tokens of the fleet allow us here; `None` outside a fleet.
    pub fleet_tokens: Option<u32>,
    /// What we occupy.
    pub ours: Ours,
    /// How near the ceiling it is, see [`BudgetRow::state_at`].
    pub state: BudgetState,
    /// Why the budget is what it is, for people.
    pub reason: String,
}

/// What a PostgreSQL says about its connection slots.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Limits {
    /// The setting max_connections.
    pub max_connections: u32,
    /// The setting superuser_reserved_connections; 0 when our role may use them.
    pub superuser_reserved: u32,
    /// The setting reserved_connections (16 and later); 0 when our role may use them.
    pub reserved: u32,
    /// Backends that are not ours.
    pub others: u32,
}

/// Backends of ours on one PostgreSQL, by what they do.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Ours {
    /// Linked to a client.
    pub active: u32,
    /// Free.
    pub idle: u32,
    /// Logging in.
    pub connecting: u32,
    /// Control connections.
    pub control: u32,
}

/// How near the ceiling a PostgreSQL is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum BudgetState {
    /// The limits are not known.
    #[default]
    Unknown,
    /// Under both thresholds.
    Ok,
    /// At or over the lower threshold.
    Warning,
    /// At or over the upper threshold.
    Critical,
}

impl BudgetState {
    /// As shown.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Unknown => "unknown",
            Self::Ok => "ok",
            Self::Warning => "warning",
            Self::Critical => "critical",
        }
    }
}

impl Limits {
    /// Slots that ordinary roles can have at all.
    pub fn ceiling(&self) -> u32 {
        self.max_connections.saturating_sub(self.superuser_reserved).saturating_sub(self.reserved)
    }
}

impl Ours {
    /// All of them.
    pub fn total(&self) -> u64 {
        [self.active, self.idle, self.connecting, self.control].into_iter().map(u64::from).sum()
    }
}

impl BudgetRow {
    /// Slots that ordinary roles can have at all; `None` while the limits are unknown.
    pub fn ceiling(&self) -> Option<u32> {
        self.limits.map(|limits| limits.ceiling())
    }

    /// Backends we may occupy: min(ceiling − headroom − others, cap), never under 0; in a fleet min(fleet_tokens + control
    /// connections, cap); over those that are known.
    pub fn budget(&self) -> Option<u32> {
        let room = self.limits.map(|l| l.ceiling().saturating_sub(self.headroom).saturating_sub(l.others));
        // Tokens are for servers alone.
        let fleet = self.fleet_tokens.map(|tokens| tokens.saturating_add(self.ours.control));
        [fleet.or(room), self.cap].into_iter().flatten().min()
    }

    /// Tenths of a percent of the ceiling in use, by us and others; `None` without a ceiling.
    pub fn used_permille(&self) -> Option<u64> {
        let limits = self.limits?;
        let used = self.ours.total() + u64::from(limits.others);
        (used * 1000).checked_div(u64::from(limits.ceiling()))
    }

    /// The state for these thresholds, in percent of the ceiling.
    pub fn state_at(&self, warning_percent: u32, critical_percent: u32) -> BudgetState {
        match (self.limits, self.used_permille()) {
            (None, _) => BudgetState::Unknown,
            // Nobody but superusers can log in.
            (Some(_), None) => BudgetState::Critical,
            (_, Some(used)) if used >= u64::from(critical_percent) * 10 => BudgetState::Critical,
            (_, Some(used)) if used >= u64::from(warning_percent) * 10 => BudgetState::Warning,
            _ => BudgetState::Ok,
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn thresholds_are_met_at_their_value() {
        let limits = Limits { max_connections: 103, superuser_reserved: 3, reserved: 0, others: 70 };
        let row = |active| BudgetRow {
            limits: Some(limits),
            ours: Ours { active, control: 1, ..Ours::default() },
            ..BudgetRow::default()
        };
        assert_eq!(row(8).state_at(80, 95), BudgetState::Ok);
        assert_eq!(row(9).state_at(80, 95), BudgetState::Warning);
        assert_eq!(row(23).state_at(80, 95), BudgetState::Warning);
        assert_eq!(row(24).state_at(80, 95), BudgetState::Critical);
        assert_eq!(BudgetRow::default().state_at(80, 95), BudgetState::Unknown);
    }

    #[test]
    fn a_server_that_does_not_tell_leaves_the_cap_and_the_tokens() {
        let mut row = BudgetRow { cap: Some(7), headroom: 3, ..BudgetRow::default() };
        assert_eq!((row.ceiling(), row.budget(), row.used_permille()), (None, Some(7), None));
        row.fleet_tokens = Some(5);
        row.ours.control = 1;
        assert_eq!(row.budget(), Some(6));
        row.cap = None;
        assert_eq!(row.budget(), Some(6));
        row.fleet_tokens = None;
        assert_eq!(row.budget(), None);
    }

    proptest! {
        #[test]
        fn the_row_adds_up(max in 0u32..2000, su in 0u32..50, res in 0u32..50, others in 0u32..2000,
                           headroom in 0u32..50, cap in proptest::option::of(0u32..2000),
                           fleet_tokens in proptest::option::of(0u32..2000), control in 0u32..3) {
            let limits = Limits { max_connections: max, superuser_reserved: su, reserved: res, others };
            let ours = Ours { control, ..Ours::default() };
            let row = BudgetRow { limits: Some(limits), headroom, cap, fleet_tokens, ours, ..BudgetRow::default() };
            let (ceiling, budget) = (row.ceiling().unwrap(), row.budget().unwrap());
            prop_assert_eq!(i64::from(ceiling), (i64::from(max) - i64::from(su) - i64::from(res)).max(0));
            let room = (i64::from(ceiling) - i64::from(headroom) - i64::from(others)).max(0);
            let most = fleet_tokens.map_or(room, |t| i64::from(t) + i64::from(control));
            prop_assert_eq!(i64::from(budget), cap.map_or(most, |c| most.min(i64::from(c))));
        }
    }
}

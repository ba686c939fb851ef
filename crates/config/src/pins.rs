//! What is to be done about session state that stays on a server in transaction mode: a policy for each reason to pin,
//! and when servers are audited. How such state is noticed is not known here.

use std::str::FromStr;

use crate::kinds::{Kind, Raw, Wrong, quoted};
use crate::model::UnknownName;

/// State that cannot be brought to another server, so that its session is pinned.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum PinReason {
    /// Temporary tables and other objects of the session's temporary schema.
    Temp,
    /// Advisory locks held by the session, not by its transaction.
    AdvisoryLock,
    /// Cursors WITH HOLD.
    Cursor,
    /// Statements prepared with SQL's PREPARE.
    Prepare,
    /// Channels that it listens on.
    Listen,
    /// Libraries loaded with LOAD.
    Load,
    /// Values of sequences that currval() and lastval() tell.
    Sequence,
}

/// What is done when a session would have to be pinned.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum PinPolicy {
    /// It keeps its server until the state is gone.
    #[default]
    Pin,
    /// It gets an error, SQLSTATE 0A000.
    Error,
    /// As [`PinPolicy::Pin`], and it gets a WARNING, once.
    Warn,
    /// The state is not kept for it; it is removed before anybody else gets the server.
    Ignore,
}

/// The policy for each reason.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct PinPolicies([PinPolicy; PinReason::ALL.len()]);

/// When a server is asked for the state that its client left there.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Audit {
    /// When something that ran there may have changed some.
    #[default]
    Suspects,
    /// After every transaction.
    Always,
    /// At no time.
    Never,
}

/// The word that stands for every reason.
const EVERY: &str = "all";
/// What stands in front of a policy, for messages.
const REASONS: &[&str] = &["all", "temp", "advisory_lock", "cursor", "prepare", "listen", "load", "sequence"];

const PAIRS: Wrong = Wrong::Expected(
    "pairs of reason and policy separated by blanks, such as \"listen=error temp=warn\", in TOML also a table",
);
const ORDER: Wrong = Wrong::Unsupported("names a reason twice, or all after others; name each once, and all first");

impl PinReason {
    /// Every reason.
    pub const ALL: [Self; 7] =
        [Self::Temp, Self::AdvisoryLock, Self::Cursor, Self::Prepare, Self::Listen, Self::Load, Self::Sequence];

    /// The name, as written in files.
    pub fn name(self) -> &'static str {
        match self {
            Self::Temp => "temp",
            Self::AdvisoryLock => "advisory_lock",
            Self::Cursor => "cursor",
            Self::Prepare => "prepare",
            Self::Listen => "listen",
            Self::Load => "load",
            Self::Sequence => "sequence",
        }
    }
}

impl FromStr for PinReason {
    type Err = UnknownName;

    /// Case does not matter.
    fn from_str(text: &str) -> Result<Self, UnknownName> {
        Self::ALL.into_iter().find(|r| r.name().eq_ignore_ascii_case(text)).ok_or(UnknownName)
    }
}

impl PinPolicy {
    /// Every name, as written in files.
    pub const NAMES: &'static [&'static str] = &["pin", "error", "warn", "ignore"];

    /// The name, as written in files.
    pub fn name(self) -> &'static str {
        Self::NAMES[self as usize]
    }
}

impl FromStr for PinPolicy {
    type Err = UnknownName;

    /// Case does not matter.
    fn from_str(text: &str) -> Result<Self, UnknownName> {
        let all = [Self::Pin, Self::Error, Self::Warn, Self::Ignore];
        all.into_iter().find(|p| p.name().eq_ignore_ascii_case(text)).ok_or(UnknownName)
    }
}

impl PinPolicies {
    /// The same policy for every reason.
    pub fn all(policy: PinPolicy) -> Self {
        Self([policy; PinReason::ALL.len()])
    }

    /// The policy for this reason.
    pub fn get(self, reason: PinReason) -> PinPolicy {
        self.0[reason as usize]
    }

    /// These policies, but for one reason.
    #[must_use]
    pub fn with(mut self, reason: PinReason, policy: PinPolicy) -> Self {
        self.0[reason as usize] = policy;
        self
    }

    /// Reads pairs in order, each reason once and `all` in front of the others.
    fn of_pairs<'a>(pairs: impl Iterator<Item = (&'a str, &'a str)>) -> Result<Self, Wrong> {
        let mut policies = Self::default();
        let mut seen: Vec<Option<PinReason>> = Vec::new();
        for (name, policy) in pairs {
            let reason = if name.eq_ignore_ascii_case(EVERY) {
                None
            } else {
                let unknown = |_| Wrong::Part { found: format!("reason {}", quoted(name)), allowed: REASONS };
                Some(name.parse().map_err(unknown)?)
            };
            let found = || format!("policy {} of {}", quoted(policy), reason.map_or(EVERY, PinReason::name));
            let policy = policy.parse().map_err(|_| Wrong::Part { found: found(), allowed: PinPolicy::NAMES })?;
            if seen.contains(&reason) || reason.is_none() && !seen.is_empty() {
                return Err(ORDER);
            }
            policies = reason.map_or(Self::all(policy), |reason| policies.with(reason, policy));
            seen.push(reason);
        }
        Ok(policies)
    }
}

/// Empty text means that every session is pinned. A reason that is not named is pinned too.
impl Kind for PinPolicies {
    type Value = PinPolicies;
    const EMPTY_IS_UNSET: bool = true;

    fn read(raw: &Raw) -> Result<PinPolicies, Wrong> {
        let pairs: Option<Vec<(&str, &str)>> = match raw {
            Raw::Table(table) => table.iter().map(|(key, value)| Some((key.as_str(), value.text()?))).collect(),
            _ => raw.text().and_then(|text| text.split_whitespace().map(|pair| pair.split_once('=')).collect()),
        };
        let mut pairs = pairs.ok_or(PAIRS)?;
        if matches!(raw, Raw::Table(_)) {
            // A table has no order.
            pairs.sort_by_key(|(reason, _)| !reason.eq_ignore_ascii_case(EVERY));
        }
        Self::of_pairs(pairs.into_iter())
    }

    fn show(value: &PinPolicies) -> String {
        let [first, rest @ ..] = &value.0;
        if rest.iter().all(|policy| policy == first) {
            return format!("{EVERY}={}", first.name());
        }
        let unusual = PinReason::ALL.into_iter().filter(|reason| value.get(*reason) != PinPolicy::default());
        let pairs: Vec<String> = unusual.map(|r| format!("{}={}", r.name(), value.get(r).name())).collect();
        pairs.join(" ")
    }
}

impl Audit {
    /// Every name, as written in files.
    pub const NAMES: &'static [&'static str] = &["suspects", "always", "never"];

    /// The name, as written in files.
    pub fn name(self) -> &'static str {
        Self::NAMES[self as usize]
    }
}

impl FromStr for Audit {
    type Err = UnknownName;

    /// Case does not matter.
    fn from_str(text: &str) -> Result<Self, UnknownName> {
        let all = [Self::Suspects, Self::Always, Self::Never];
        all.into_iter().find(|a| a.name().eq_ignore_ascii_case(text)).ok_or(UnknownName)
    }
}

impl Kind for Audit {
    type Value = Audit;

    fn read(raw: &Raw) -> Result<Audit, Wrong> {
        let text = raw.text().ok_or(Wrong::Choice(Audit::NAMES))?;
        Audit::from_str(text).map_err(|_| Wrong::Choice(Audit::NAMES))
    }

    fn show(value: &Audit) -> String {
        value.name().to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_names_are_all_there_and_what_is_shown_is_read_again() {
        assert_eq!(REASONS[0], EVERY);
        assert_eq!(REASONS[1..], PinReason::ALL.map(PinReason::name));
        for policy in PinPolicy::NAMES {
            let policy: PinPolicy = policy.parse().expect("a name");
            for reason in PinReason::ALL {
                for base in [PinPolicy::Pin, PinPolicy::Warn] {
                    let policies = PinPolicies::all(base).with(reason, policy);
                    assert_eq!(policies.get(reason), policy);
                    let shown = Raw::Text(PinPolicies::show(&policies));
                    assert_eq!(PinPolicies::read(&shown), Ok(policies), "{}", shown.describe(false));
                }
            }
        }
    }
}

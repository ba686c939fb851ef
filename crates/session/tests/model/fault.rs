//! What goes wrong on a server through nobody's fault: a replay or an audit that is cancelled, runs out of time, or fails.

use super::{Failure, Model};

/// The code of an error that nothing but a fault brings; the text of any that a fault brings names it.
pub(crate) const BROKEN: &str = "58000";

/// The code of a command that was cancelled, or ran out of time.
const CANCELED: &str = "57014";

/// What fails, once.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Fault {
    /// A replay, in front of this statement of it.
    Replay { at: usize, code: &'static str },
    /// An audit, at a message of this type.
    Audit { tag: u8, code: &'static str },
}

impl Fault {
    /// Some fault, or none; `roll` is given a number of sides.
    pub(crate) fn roll(mut roll: impl FnMut(usize) -> usize) -> Option<Self> {
        let code = [CANCELED, BROKEN][roll(2)];
        match roll(4) {
            0 => Some(Self::Replay { at: roll(5), code }),
            1 => Some(Self::Audit { tag: [b'P', b'B', b'E'][roll(3)], code }),
            _ => None,
        }
    }
}

/// How far faults have come.
#[derive(Clone, Debug, Default)]
pub(super) struct Faults {
    pub(super) happened: bool,
    /// Statements of a replay that have run.
    of_replay: Option<usize>,
    /// A replay failed, and nothing has put that right.
    replay_failed: bool,
    ran_astray: bool,
}

fn failure(code: &'static str) -> Failure {
    (code, format!("something went wrong: {BROKEN}"))
}

impl Model {
    /// A statement of a simple Query comes. Only a pooler begins a block like this.
    pub(super) fn check_replay(&mut self, text: &str) -> Result<(), Failure> {
        let faults = &mut self.faults;
        if text.starts_with("BEGIN ISOLATION LEVEL") {
            faults.of_replay = Some(0);
        }
        // The pooler's own: what follows BEGIN runs as a whole without it, too.
        if ["ROLLBACK", "RESET ALL", "COMMIT"].contains(&text) && self.tx != super::TxStatus::Failed {
            faults.replay_failed = false;
        }
        let Some(ran) = &mut faults.of_replay else { return Ok(()) };
        if let Some(Fault::Replay { at, code }) = self.fault
            && at == *ran
        {
            self.fault = None;
            *faults = Faults { happened: true, replay_failed: true, of_replay: None, ..*faults };
            return Err(failure(code));
        }
        *ran += 1;
        if text == "COMMIT" {
            faults.of_replay = None;
        }
        Ok(())
    }

    /// A message of the extended protocol comes.
    pub(super) fn check_audit(&mut self, tag: u8, body: &[u8]) -> Result<(), Failure> {
        let names = |part: &[u8]| body.starts_with(part);
        let is_audit = match tag {
            b'P' => names(b"pgsluice_audit\0"),
            b'B' => names(b"\0pgsluice_audit\0"),
            _ => self.portals.get(&b""[..]).is_some_and(|p| p.text.contains("pg_catalog.pg_settings")),
        };
        match self.fault {
            Some(Fault::Audit { tag: at, code }) if is_audit && at == tag => {
                self.fault = None;
                self.faults.happened = true;
                Err(failure(code))
            }
            _ => Ok(()),
        }
    }

    /// `mark` ran: it may not behind a replay that failed.
    pub(super) fn mark(&mut self) {
        self.faults.ran_astray |= self.faults.replay_failed;
        self.complete("MARK");
    }

    /// Has anything of a client's run where its settings were not?
    pub(crate) fn has_run_astray(&self) -> bool {
        self.faults.ran_astray
    }
}

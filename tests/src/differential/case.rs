//! A case: what three clients do, step by step. A step is one write by one client. The text form is
//!
//! ```text
//! # what it is about
//! client 0: Parse "a" "SELECT 1"
//! client 0: Sync
//!
//! client 1: split every byte
//! client 1: Query "SELECT 2"
//! ```
//!
//! Lines of one client that follow each other are one write, until an empty line. `split every byte` and `split 7 20` say
//! in which parts a write reaches the socket; `do not wait` leaves its answers for the client's next step.

use std::fmt;

use super::op::Op;

/// Clients of a case.
pub(super) const CLIENTS: usize = 3;

/// In which parts a write reaches the socket.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Split {
    /// In one.
    #[default]
    Whole,
    /// Byte by byte.
    EveryByte,
    /// Cut at these offsets.
    At(Vec<usize>),
}

/// One write.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Step {
    /// Whose.
    pub client: usize,
    /// What.
    pub ops: Vec<Op>,
    /// In which parts.
    pub split: Split,
    /// Is it left unread until the client's next step?
    pub later: bool,
}

/// What the clients do, in order.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Case {
    /// The writes.
    pub steps: Vec<Step>,
}

impl Step {
    /// What goes over the wire.
    pub fn bytes(&self) -> Vec<u8> {
        self.ops.iter().flat_map(Op::bytes).collect()
    }

    /// The offsets between parts.
    pub fn cuts(&self, len: usize) -> Vec<usize> {
        match &self.split {
            Split::Whole => Vec::new(),
            Split::EveryByte => (1..len).collect(),
            Split::At(at) => at.iter().copied().filter(|&at| at > 0 && at < len).collect(),
        }
    }

    /// Does it close the connection?
    pub fn ends(&self) -> bool {
        self.ops.last().is_some_and(Op::ends)
    }
}

impl Case {
    /// Reads the text form.
    ///
    /// # Errors
    /// The line and what is wrong with it.
    pub fn read(text: &str) -> Result<Case, String> {
        let mut steps: Vec<Step> = Vec::new();
        let mut open = false;
        for (number, line) in text.lines().enumerate() {
            let line = line.trim();
            if line.starts_with('#') {
                continue;
            }
            if line.is_empty() {
                open = false;
                continue;
            }
            let wrong = |why: String| format!("line {}: {why}", number + 1);
            let (client, what) = head(line).ok_or_else(|| wrong(format!("no \"client N: \": {line}")))?;
            if !open || steps.last().is_none_or(|step| step.client != client) {
                steps.push(Step { client, ..Step::default() });
            }
            open = true;
            let step = steps.last_mut().expect("one was just put there");
            step.add(what).map_err(wrong)?;
        }
        Ok(Case { steps })
    }
}

fn head(line: &str) -> Option<(usize, &str)> {
    let (number, what) = line.strip_prefix("client ")?.split_once(':')?;
    let client = number.trim().parse().ok().filter(|&client| client < CLIENTS)?;
    Some((client, what.trim()))
}

impl Step {
    fn add(&mut self, what: &str) -> Result<(), String> {
        if what == "do not wait" {
            self.later = true;
        } else if what == "split every byte" {
            self.split = Split::EveryByte;
        } else if let Some(at) = what.strip_prefix("split ") {
            let offsets = at.split_whitespace().map(|n| n.parse().map_err(|_| format!("no offset: {n}")));
            self.split = Split::At(offsets.collect::<Result<_, _>>()?);
        } else {
            self.ops.push(Op::read(what)?);
        }
        Ok(())
    }
}

impl fmt::Display for Case {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, step) in self.steps.iter().enumerate() {
            if at > 0 {
                writeln!(f)?;
            }
            write!(f, "{step}")?;
        }
        Ok(())
    }
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let client = self.client;
        if self.later {
            writeln!(f, "client {client}: do not wait")?;
        }
        match &self.split {
            Split::Whole => {}
            Split::EveryByte => writeln!(f, "client {client}: split every byte")?,
            Split::At(at) => {
                let at: Vec<_> = at.iter().map(ToString::to_string).collect();
                writeln!(f, "client {client}: split {}", at.join(" "))?;
            }
        }
        self.ops.iter().try_for_each(|op| writeln!(f, "client {client}: {op}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_and_back() {
        let text = "client 0: Parse \"a\" \"SELECT 1\"\nclient 0: Sync\n\nclient 0: do not wait\nclient 0: split 3 9\n\
                    client 0: Query \"\"\n\nclient 2: split every byte\nclient 2: Sync\n";
        let case = Case::read(text).unwrap();
        assert_eq!(case.steps.len(), 3);
        assert_eq!(case.to_string(), text);
        assert!(Case::read("client 3: Sync").is_err());
        assert!(Case::read("Sync").is_err());
    }
}

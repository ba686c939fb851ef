//! Maps of names (pg_ident.conf): who a certificate or the system says a client is, and which users it may be
//! (`check_ident_usermap` in PostgreSQL's `src/backend/libpq/hba.c`).

use super::matching::{Name, UserName};
use super::rule::{Wrong, name, one, user};
use super::tokens::{Line, shown};
use crate::problem::{ProblemKind, Syntax};

/// What stands for the group of the system user's pattern.
const GROUP: &str = "\\1";

/// The maps of a pg_ident.conf; none by default.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct IdentMaps {
    lines: Vec<Mapping>,
}

#[derive(Clone, Debug, PartialEq)]
struct Mapping {
    map: String,
    system: Name,
    database: DatabaseUser,
}

#[derive(Clone, Debug, PartialEq)]
enum DatabaseUser {
    Fixed(UserName),
    /// The group of the system user's pattern, between two texts.
    Group(String, String),
}

impl IdentMaps {
    /// Whether who is `system_user` elsewhere may be `database_user` here: without a map if the names are equal, with
    /// one if some line of it says so.
    pub fn allows(&self, map: Option<&str>, system_user: &str, database_user: &str) -> bool {
        let Some(map) = map else {
            return system_user == database_user;
        };
        self.lines.iter().any(|line| line.map == map && line.allows(system_user, database_user))
    }

    /// The map of each line.
    pub(crate) fn names(&self) -> impl Iterator<Item = &str> {
        self.lines.iter().map(|line| line.map.as_str())
    }

    /// Takes a line in.
    pub(super) fn add(&mut self, line: &Line) -> Result<(), Wrong> {
        let [map, system, database] = line.fields.as_slice() else {
            return Err((String::new(), ProblemKind::Syntax(Syntax::MapLine)));
        };
        let map = one(map, "map")?.text.clone();
        let system = name(one(system, "system user")?, "system user")?;
        let token = one(database, "database user")?;
        let database = match (&system, token.text.split_once(GROUP)) {
            (Name::Pattern(pattern), Some((before, after))) if token.pattern().is_none() && !token.is_group() => {
                if !pattern.has_group() {
                    return Err((format!("database user {}", shown(token)), ProblemKind::Syntax(Syntax::NoGroup)));
                }
                DatabaseUser::Group(before.to_string(), after.to_string())
            }
            _ => DatabaseUser::Fixed(user(token)?),
        };
        self.lines.push(Mapping { map, system, database });
        Ok(())
    }
}

impl Mapping {
    fn allows(&self, system_user: &str, database_user: &str) -> bool {
        match (&self.database, &self.system) {
            (DatabaseUser::Fixed(user), system) => system.matches(system_user) && user.matches(database_user),
            // The name that comes out is literal: nobody becomes everybody by being called "all" elsewhere.
            (DatabaseUser::Group(before, after), Name::Pattern(pattern)) => {
                let captures = pattern.captures(system_user);
                let group = captures.as_ref().and_then(|found| found.get(1));
                let middle =
                    database_user.strip_prefix(before.as_str()).and_then(|rest| rest.strip_suffix(after.as_str()));
                group.zip(middle).is_some_and(|(group, middle)| group.as_str() == middle)
            }
            (DatabaseUser::Group(..), Name::Literal(_)) => false,
        }
    }
}

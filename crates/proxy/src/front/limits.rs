//! `CONNECTION LIMIT` of databases and roles (`datconnlimit`, `rolconnlimit`), as PostgreSQL's catalog has them: what they
//! leave for servers of ours. Any role may read them.

use std::collections::HashMap;

use pgsluice_pool::CatalogLimits;

use super::connect::Rows;

/// What has a limit.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) enum Object {
    Database(String),
    Role(String),
}

/// A row for each limit: kind, name, limit, and how many backends that are not `ours` (process ids with commas) count for it.
/// Our control connection is one of these. A superuser's limits are not enforced (`InitPostgres` in PostgreSQL's postinit.c,
/// `InitializeSessionUserId` in miscinit.c).
pub(super) fn query(ours: &str) -> String {
    format!(
        "WITH others AS (SELECT datid, usesysid FROM pg_catalog.pg_stat_activity \
         WHERE datid IS NOT NULL AND usesysid IS NOT NULL \
         AND (backend_type IS NULL OR backend_type = 'client backend') AND pid <> ALL ('{{{ours}}}'::pg_catalog.int8[])) \
         SELECT 'database', datname, datconnlimit, (SELECT pg_catalog.count(*) FROM others WHERE datid = d.oid) \
         FROM pg_catalog.pg_database AS d WHERE datconnlimit >= 0 \
         UNION ALL \
         SELECT 'role', rolname, rolconnlimit, (SELECT pg_catalog.count(*) FROM others WHERE usesysid = r.oid) \
         FROM pg_catalog.pg_roles AS r WHERE rolconnlimit >= 0 AND NOT rolsuper"
    )
}

/// What the rows say, and who was counted. A login of ours that the list did not have yet is not one of the others: as with the
/// budget, a rise over the count `before` is believed when it lasts.
pub(super) fn read(rows: &Rows, before: &HashMap<Object, u32>) -> (CatalogLimits, HashMap<Object, u32>) {
    let (mut limits, mut counts) = (CatalogLimits::default(), HashMap::new());
    for (object, limit, counted) in rows.iter().filter_map(|row| read_row(row)) {
        let left = limit.saturating_sub(before.get(&object).map_or(counted, |&before| before.min(counted)));
        match &object {
            Object::Database(name) => limits.databases.insert(name.clone(), left),
            Object::Role(name) => limits.roles.insert(name.clone(), left),
        };
        counts.insert(object, counted);
    }
    (limits, counts)
}

fn read_row(row: &[Option<String>]) -> Option<(Object, u32, u32)> {
    let [Some(kind), Some(name), Some(limit), Some(counted)] = row else { return None };
    let object = match kind.as_str() {
        "database" => Object::Database(name.clone()),
        "role" => Object::Role(name.clone()),
        _ => return None,
    };
    Some((object, limit.parse().ok()?, counted.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rows(rows: &[[&str; 4]]) -> Rows {
        rows.iter().map(|row| row.iter().map(|t| Some((*t).to_owned())).collect()).collect()
    }

    #[test]
    fn what_others_have_is_not_ours_but_a_rise_has_to_last() {
        let first = rows(&[["database", "app", "9", "2"], ["role", "x", "3", "5"], ["table", "t", "1", "1"]]);
        let (limits, counts) = read(&first, &HashMap::new());
        assert_eq!(limits.databases, [("app".to_owned(), 7)].into());
        assert_eq!(limits.roles, [("x".to_owned(), 0)].into());
        let more = rows(&[["database", "app", "9", "4"]]);
        let (limits, counts) = read(&more, &counts);
        assert_eq!((limits.databases["app"], limits.roles.len()), (7, 0));
        assert_eq!(read(&more, &counts).0.databases["app"], 5);
        assert_eq!(read(&rows(&[["role", "x", "many", "0"]]), &counts), (CatalogLimits::default(), HashMap::new()));
    }
}

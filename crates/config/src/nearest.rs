//! "Did you mean": the known name closest to a misspelt one, by edit distance. Only for messages; nothing is ever
//! corrected silently.

/// Longest name compared, in characters: longer ones are no misspelling of ours, and the comparison is quadratic.
const NAME_CHARS_MAX: usize = 64;

/// The candidate within a third of the name's length (at least two edits) of `name`, the closest first.
pub(crate) fn nearest(name: &str, candidates: impl IntoIterator<Item = &'static str>) -> Option<&'static str> {
    let name: Vec<char> = name.chars().take(NAME_CHARS_MAX + 1).flat_map(char::to_lowercase).collect();
    if name.len() > NAME_CHARS_MAX {
        return None;
    }
    let limit = (name.len() / 3).max(2);
    let scored = candidates.into_iter().map(|c| (distance(&name, c), c));
    scored.filter(|(d, c)| *d <= limit && *d < c.len()).min_by_key(|(d, _)| *d).map(|(_, c)| c)
}

/// Optimal string alignment: insertions, deletions, substitutions and swaps of neighbours cost one each.
fn distance(a: &[char], b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut rows: Vec<Vec<usize>> = vec![(0..=b.len()).collect()];
    for i in 1..=a.len() {
        let mut row = vec![i; b.len() + 1];
        for j in 1..=b.len() {
            let change = usize::from(a[i - 1] != b[j - 1]);
            row[j] = (rows[i - 1][j] + 1).min(row[j - 1] + 1).min(rows[i - 1][j - 1] + change);
            if i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1] {
                row[j] = row[j].min(rows[i - 2][j - 2] + 1);
            }
        }
        rows.push(row);
    }
    rows[a.len()][b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_a_misspelling_and_leaves_strangers_alone() {
        let names = ["default_pool_size", "min_pool_size", "port", "host"];
        assert_eq!(nearest("default_pool_szie", names), Some("default_pool_size"));
        assert_eq!(nearest("Prot", names), Some("port"));
        assert_eq!(nearest("colour", names), None);
        assert_eq!(nearest("ab", names), None);
        assert_eq!(nearest(&"x".repeat(100_000), names), None);
    }
}

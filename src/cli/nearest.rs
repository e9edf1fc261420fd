//! The nearest of the names that there are to one that was typed: what a mistyped flag, subcommand or variable is answered with.
//!
//! Pure. Near is what a slip of the fingers makes: a letter too many, too few or wrong, or two of them swapped.

/// ` (did you mean NAME?)` with the nearest of `names`, or nothing if none is near.
pub fn hint<'a>(typed: &str, names: impl IntoIterator<Item = &'a str>) -> String {
    let near = names.into_iter().map(|name| (distance(typed, name), name)).min_by_key(|(distance, _)| *distance);
    // Of a short word nearly every letter would have to be another.
    let at_most = (typed.chars().count() / 3).clamp(1, 3);
    near.filter(|(distance, _)| *distance <= at_most).map_or_else(String::new, |(_, name)| format!(" (did you mean {name}?)"))
}

/// How many slips lie between two words.
fn distance(a: &str, b: &str) -> usize {
    let [a, b]: [Vec<char>; 2] = [a, b].map(|word| word.to_lowercase().chars().collect());
    // The rows of the usual table, for the beginnings of `a` that end at, one before, and two before.
    let mut rows: Vec<Vec<usize>> = vec![(0..=b.len()).collect()];
    for i in 1..=a.len() {
        let mut row = vec![i];
        for j in 1..=b.len() {
            let changed = rows[i - 1][j - 1] + usize::from(a[i - 1] != b[j - 1]);
            let mut least = changed.min(rows[i - 1][j] + 1).min(row[j - 1] + 1);
            if i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1] {
                least = least.min(rows[i - 2][j - 2] + 1);
            }
            row.push(least);
        }
        rows.push(row);
    }
    rows[a.len()][b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slip_is_near_and_another_word_is_not() {
        let names = ["listen", "db", "exec", "exec-timeout", "workers"];
        for (typed, meant) in [("listn", "listen"), ("lsiten", "listen"), ("dv", "db"), ("Exec", "exec"), ("worker", "workers")]
        {
            assert_eq!(hint(typed, names), format!(" (did you mean {meant}?)"), "{typed}");
        }
        for typed in ["", "colour", "x", "frobnicate"] {
            assert_eq!(hint(typed, names), "", "{typed}");
        }
    }
}

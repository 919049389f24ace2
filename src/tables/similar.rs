//! "Did you mean": the known name nearest to a mistyped one.
//!
//! The distance counts a swap of two neighbours as one slip, since that is what fingers do. Names are short, so two rows of the
//! table of distances do, and no index is worth its code.

/// Texts longer than this, in characters, are not compared: the longest region's name has 30.
const MAX_LEN: usize = 64;

/// The candidate nearest to `text` without regard to case, if few enough slips lie between them: one for each four characters, at
/// least one. The first of equals wins.
pub fn nearest<'a>(text: &str, candidates: impl Iterator<Item = (&'a str, &'a str)>) -> Option<&'a str> {
    let text = folded(text)?;
    let allowed = (text.len() / 4).max(1);
    let mut best: Option<(usize, &str)> = None;
    for (spelling, name) in candidates {
        let Some(spelling) = folded(spelling) else { continue };
        if spelling.len().abs_diff(text.len()) > allowed {
            continue;
        }
        let slips = distance(&text, &spelling);
        if slips <= allowed && best.is_none_or(|(least, _)| slips < least) {
            best = Some((slips, name));
        }
    }
    best.map(|(_, name)| name)
}

fn folded(text: &str) -> Option<Vec<char>> {
    let folded: Vec<char> = text.trim().chars().take(MAX_LEN + 1).map(|c| c.to_ascii_lowercase()).collect();
    (1..=MAX_LEN).contains(&folded.len()).then_some(folded)
}

/// Insertions, deletions, substitutions and swaps of neighbours between two texts (optimal string alignment).
fn distance(a: &[char], b: &[char]) -> usize {
    let mut before_last: Vec<usize> = vec![0; b.len() + 1];
    let mut last: Vec<usize> = (0..=b.len()).collect();
    for i in 1..=a.len() {
        let mut row = vec![i; b.len() + 1];
        for j in 1..=b.len() {
            let substitution = last[j - 1] + usize::from(a[i - 1] != b[j - 1]);
            row[j] = substitution.min(last[j] + 1).min(row[j - 1] + 1);
            if i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1] {
                row[j] = row[j].min(before_last[j - 2] + 1);
            }
        }
        before_last = std::mem::replace(&mut last, row);
    }
    last[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_slips() {
        let count = |a: &str, b: &str| distance(&a.chars().collect::<Vec<_>>(), &b.chars().collect::<Vec<_>>());
        assert_eq!(count("", "abc"), 3);
        assert_eq!(count("abc", "abc"), 0);
        assert_eq!(count("us-wset-2", "us-west-2"), 1);
        assert_eq!(count("kitten", "sitting"), 3);
    }

    #[test]
    fn says_nothing_when_nothing_is_near() {
        let names = ["aws/us-west-2", "aws/us-east-1"];
        let near = |text: &str| nearest(text, names.iter().map(|name| (*name, *name)));
        assert_eq!(near("aws/us-wset-2"), Some("aws/us-west-2"));
        assert_eq!(near("moon/tranquility"), None);
        assert_eq!(near(""), None);
        assert_eq!(near(&"a".repeat(100_000)), None);
    }
}

//! Which lines of a run were seen: the gaps are lines that were lost, and a number seen twice is a line that was read twice.
//!
//! Kept as ranges, because a log that is nearly whole is nearly one range, while a set of numbers would grow with the log.

use std::collections::{BTreeMap, HashMap};

/// Ranges kept for one run. Lines arrive a few buffers out of order at worst; a run in more pieces than this has lost more than
/// any report can mend, and its duplicates are no longer looked for.
const MAX_RANGES: usize = 65_536;
/// Runs told apart; a restart every minute for a week makes 10,080.
const MAX_RUNS: usize = 16_384;
/// Longest name of an instance or a run that is told apart, in bytes.
const MAX_NAME: usize = 256;

/// What was seen of every run.
#[derive(Debug, Default)]
pub(super) struct Runs {
    runs: HashMap<String, Seen>,
    /// Lines of runs beyond the limit.
    pub(super) unchecked: u64,
}

impl Runs {
    /// Notes a line; false when it has been seen before.
    pub(super) fn note(&mut self, instance: &str, run: &str, seq: u64) -> bool {
        // The length keeps `a` + `bc` apart from `ab` + `c`.
        let key = format!("{}:{instance}{run}", instance.len());
        if key.len() > MAX_NAME || (self.runs.len() >= MAX_RUNS && !self.runs.contains_key(&key)) {
            self.unchecked += 1;
            return true;
        }
        self.runs.entry(key).or_default().note(seq)
    }

    /// Runs, lines expected, lines seen, lines seen again, and whether all of it is exact.
    pub(super) fn totals(&self) -> Totals {
        let mut totals = Totals { runs: self.runs.len() as u64, exact: self.unchecked == 0, ..Totals::default() };
        for seen in self.runs.values() {
            totals.expected = totals.expected.saturating_add(seen.expected());
            totals.seen += seen.distinct;
            totals.duplicates += seen.duplicates;
            totals.exact &= !seen.in_pieces;
        }
        totals
    }
}

/// [`Runs`] in numbers.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Totals {
    pub(super) runs: u64,
    pub(super) expected: u64,
    pub(super) seen: u64,
    pub(super) duplicates: u64,
    pub(super) exact: bool,
}

#[derive(Debug, Default)]
struct Seen {
    /// First number of a range to its last; ranges neither touch nor overlap.
    ranges: BTreeMap<u64, u64>,
    span: Option<(u64, u64)>,
    distinct: u64,
    duplicates: u64,
    in_pieces: bool,
}

impl Seen {
    fn note(&mut self, seq: u64) -> bool {
        let before = self.ranges.range(..=seq).next_back().map(|(first, last)| (*first, *last));
        if before.is_some_and(|(_, last)| seq <= last) {
            self.duplicates += 1;
            return false;
        }
        self.distinct += 1;
        self.span = Some(self.span.map_or((seq, seq), |(low, high)| (low.min(seq), high.max(seq))));
        // `seq` is in no range, so it can extend the one before it, the one behind it, or join the two.
        let first = before.filter(|(_, last)| last + 1 == seq).map_or(seq, |(first, _)| first);
        let behind = seq.checked_add(1).and_then(|next| self.ranges.remove(&next));
        self.ranges.insert(first, behind.unwrap_or(seq));
        if self.ranges.len() > MAX_RANGES {
            self.in_pieces = true;
            self.ranges.pop_first();
        }
        true
    }

    /// Lines from the first seen to the last seen. What came before the first may be in a log that was not given.
    fn expected(&self) -> u64 {
        self.span.map_or(0, |(low, high)| (high - low).saturating_add(1))
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn gaps_and_duplicates_are_counted_for_each_run() {
        let mut runs = Runs::default();
        for (instance, run, seq, new) in [
            ("a", "1", 5, true),
            ("a", "1", 7, true),
            ("a", "1", 6, true),
            ("a", "1", 6, false),
            ("a", "1", 10, true),
            ("a", "2", 5, true),
            ("b", "1", 5, true),
        ] {
            assert_eq!(runs.note(instance, run, seq), new, "{instance} {run} {seq}");
        }
        assert_eq!(runs.totals(), Totals { runs: 3, expected: 8, seen: 6, duplicates: 1, exact: true });
    }

    #[test]
    fn too_many_pieces_are_said() {
        let mut seen = Seen::default();
        for index in 0..=MAX_RANGES as u64 {
            assert!(seen.note(index * 2));
        }
        assert!(seen.in_pieces && seen.ranges.len() == MAX_RANGES);
    }

    #[test]
    fn the_largest_numbers_fit() {
        let mut seen = Seen::default();
        assert!(seen.note(u64::MAX) && seen.note(0) && seen.note(u64::MAX - 1) && !seen.note(u64::MAX));
        assert_eq!(seen.expected(), u64::MAX);
    }

    proptest! {
        #[test]
        fn ranges_agree_with_a_set(numbers in proptest::collection::vec(0..60u64, 0..200)) {
            let mut set = HashSet::new();
            let mut seen = Seen::default();
            for number in numbers {
                prop_assert_eq!(seen.note(number), set.insert(number));
                let covered: u64 = seen.ranges.iter().map(|(first, last)| last - first + 1).sum();
                prop_assert_eq!(covered, set.len() as u64);
            }
            prop_assert_eq!(seen.distinct, set.len() as u64);
        }
    }
}

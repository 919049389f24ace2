//! A small linear programme by the simplex method: shares of groups, sent through columns that use up capacities.
//!
//! The programmes here have some fifty rows and a few hundred columns, and a first solution is always at hand (everything overflows),
//! so a dense table and one phase do. A solver from outside would bring a dozen crates for it.

/// Below this a number counts as zero. All numbers in a table are of the order of one.
const EPSILON: f64 = 1e-9;
/// After so many steps by the steepest column the first improving one is taken, which cannot go in circles (Bland, 1977).
const STEEPEST_STEPS: usize = 2_000;
/// After so many steps what was found is returned. It is allowed, but not the best; the tests have never seen it.
const MOST_STEPS: usize = 20_000;

/// A way to serve a group.
#[derive(Clone, Debug)]
pub struct Column {
    /// Which group.
    pub group: usize,
    /// What serving all of the group this way costs.
    pub cost: f64,
    /// Which share of which capacity that would take.
    pub uses: Vec<(usize, f64)>,
}

/// Every group is to be served whole, each capacity may be used up once.
#[derive(Clone, Debug)]
pub struct Programme {
    /// What leaving all of a group unserved costs, by group; more than any column, or it is preferred.
    pub overflow: Vec<f64>,
    /// How many capacities there are, each of size 1.
    pub capacities: usize,
    /// All ways.
    pub columns: Vec<Column>,
}

/// The cheapest way.
#[derive(Clone, Debug, PartialEq)]
pub struct Solution {
    /// The share of its group that takes each column.
    pub shares: Vec<f64>,
    /// The share of each group that is left unserved.
    pub overflow: Vec<f64>,
    /// What one more of each capacity would save, as a number that is not negative.
    pub prices: Vec<f64>,
    /// Whether it was shown to be the cheapest.
    pub optimal: bool,
}

/// The table: a row for each group, then for each capacity; a column for each way, then for the basis at the start, then the right
/// side.
struct Table {
    rows: Vec<Vec<f64>>,
    /// What each column would change the cost by.
    reduced: Vec<f64>,
    /// The column that each row stands for.
    basis: Vec<usize>,
}

impl Programme {
    /// Solves it.
    pub fn solve(&self) -> Solution {
        let (groups, ways) = (self.overflow.len(), self.columns.len());
        let height = groups + self.capacities;
        let mut table = self.first(ways, height);
        let mut optimal = false;
        for step in 0..MOST_STEPS {
            let Some(entering) = table.entering(step < STEEPEST_STEPS) else {
                optimal = true;
                break;
            };
            let Some(leaving) = table.leaving(entering) else { break };
            table.pivot(leaving, entering);
        }
        let mut values = vec![0.0; ways + height];
        for (row, column) in table.rows.iter().zip(&table.basis) {
            if let (Some(value), Some(right)) = (values.get_mut(*column), row.last()) {
                *value = right.max(0.0);
            }
        }
        let part = |from: usize, count: usize| values.iter().skip(from).take(count).copied().collect::<Vec<f64>>();
        let prices = table.reduced.iter().skip(ways + groups).take(self.capacities).map(|price| price.max(0.0)).collect();
        Solution { shares: part(0, ways), overflow: part(ways, groups), prices, optimal }
    }

    /// With everything unserved.
    fn first(&self, ways: usize, height: usize) -> Table {
        let groups = self.overflow.len();
        let width = ways + height + 1;
        let mut rows = vec![vec![0.0; width]; height];
        let mut reduced = vec![0.0; width];
        for (nth, column) in self.columns.iter().enumerate() {
            let entries = [(column.group, 1.0)].into_iter().chain(column.uses.iter().map(|(row, used)| (groups + row, *used)));
            for (row, amount) in entries {
                if let Some(slot) = rows.get_mut(row).and_then(|row| row.get_mut(nth)) {
                    *slot = amount;
                }
            }
            if let Some(slot) = reduced.get_mut(nth) {
                *slot = column.cost - self.overflow.get(column.group).copied().unwrap_or(0.0);
            }
        }
        for (nth, row) in rows.iter_mut().enumerate() {
            for at in [ways + nth, width - 1] {
                if let Some(slot) = row.get_mut(at) {
                    *slot = 1.0;
                }
            }
        }
        Table { rows, reduced, basis: (ways..ways + height).collect() }
    }
}

impl Table {
    /// A column that makes it cheaper: the steepest, or the first.
    fn entering(&self, steepest: bool) -> Option<usize> {
        let last = self.reduced.len().saturating_sub(1);
        let mut improving = self.reduced.iter().take(last).enumerate().filter(|(_, cost)| **cost < -EPSILON);
        if steepest {
            improving.min_by(|a, b| a.1.total_cmp(b.1)).map(|(column, _)| column)
        } else {
            improving.next().map(|(column, _)| column)
        }
    }

    /// The row that is the first to run out; of equals the one whose column is the first.
    fn leaving(&self, entering: usize) -> Option<usize> {
        let mut best: Option<(f64, usize, usize)> = None;
        for (nth, (row, basic)) in self.rows.iter().zip(&self.basis).enumerate() {
            let (Some(amount), Some(right)) = (row.get(entering), row.last()) else { continue };
            if *amount <= EPSILON {
                continue;
            }
            let ratio = right / amount;
            let better =
                best.is_none_or(|(least, column, _)| ratio < least - EPSILON || (ratio < least + EPSILON && *basic < column));
            if better {
                best = Some((ratio, *basic, nth));
            }
        }
        best.map(|(_, _, row)| row)
    }

    fn pivot(&mut self, leaving: usize, entering: usize) {
        let Some(mut pivot) = self.rows.get_mut(leaving).map(std::mem::take) else { return };
        let by = pivot.get(entering).copied().unwrap_or(1.0);
        for value in &mut pivot {
            *value /= by;
        }
        let others = self.rows.iter_mut().chain([&mut self.reduced]);
        for row in others.filter(|row| !row.is_empty()) {
            let factor = row.get(entering).copied().unwrap_or(0.0);
            if factor != 0.0 {
                row.iter_mut().zip(&pivot).for_each(|(value, step)| *value -= factor * step);
            }
        }
        if let (Some(row), Some(basic)) = (self.rows.get_mut(leaving), self.basis.get_mut(leaving)) {
            (*row, *basic) = (pivot, entering);
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn column(group: usize, cost: f64, uses: &[(usize, f64)]) -> Column {
        Column { group, cost, uses: uses.to_vec() }
    }

    #[test]
    fn who_gains_most_gets_the_scarce_one() {
        // Both want the first capacity, which is enough for one and a half of them; the second has the dearer way out.
        let programme = Programme {
            overflow: vec![100.0, 100.0],
            capacities: 2,
            columns: vec![
                column(0, 1.0, &[(0, 1.0)]),
                column(0, 2.0, &[(1, 0.5)]),
                column(1, 1.0, &[(0, 0.5)]),
                column(1, 9.0, &[(1, 0.5)]),
            ],
        };
        let solution = programme.solve();
        assert_eq!(solution.shares, [0.5, 0.5, 1.0, 0.0]);
        assert_eq!((solution.overflow, solution.optimal), (vec![0.0, 0.0], true));
        assert!((solution.prices[0] - 1.0).abs() < 1e-9, "one more of it would spare the first group its dearer way");
    }

    #[test]
    fn what_does_not_fit_overflows() {
        let programme = Programme { overflow: vec![50.0], capacities: 1, columns: vec![column(0, 1.0, &[(0, 4.0)])] };
        let solution = programme.solve();
        assert!((solution.shares[0] - 0.25).abs() < 1e-9 && (solution.overflow[0] - 0.75).abs() < 1e-9);
    }

    fn programmes() -> impl Strategy<Value = Programme> {
        (1_usize..6, 1_usize..5).prop_flat_map(|(groups, capacities)| {
            let way = (0..groups, 0.0_f64..10.0, proptest::collection::vec((0..capacities, 0.0_f64..3.0), 0..2));
            proptest::collection::vec(way, 0..16).prop_map(move |ways| Programme {
                overflow: vec![50.0; groups],
                capacities,
                columns: ways.into_iter().map(|(group, cost, uses)| Column { group, cost, uses }).collect(),
            })
        })
    }

    proptest! {
        /// What is allowed, and with prices by which nothing else is cheaper, is the cheapest.
        #[test]
        fn a_solution_proves_itself(programme in programmes()) {
            let solution = programme.solve();
            prop_assert!(solution.optimal);
            let mut served = solution.overflow.clone();
            let mut used = vec![0.0; programme.capacities];
            for (column, share) in programme.columns.iter().zip(&solution.shares) {
                served[column.group] += share;
                column.uses.iter().for_each(|(row, amount)| used[*row] += share * amount);
            }
            prop_assert!(served.iter().all(|share| (share - 1.0).abs() < 1e-6), "{:?}", served);
            prop_assert!(used.iter().all(|share| *share < 1.0 + 1e-6), "{:?}", used);
            let cost_of = |column: &Column| column.cost + column.uses.iter().map(|(row, a)| solution.prices[*row] * a).sum::<f64>();
            let mut dual = -solution.prices.iter().sum::<f64>();
            for (group, overflow) in programme.overflow.iter().enumerate() {
                let ways = programme.columns.iter().filter(|column| column.group == group).map(cost_of);
                dual += ways.fold(*overflow, f64::min);
            }
            let primal: f64 = programme.columns.iter().zip(&solution.shares).map(|(c, x)| c.cost * x).sum::<f64>()
                + programme.overflow.iter().zip(&solution.overflow).map(|(c, x)| c * x).sum::<f64>();
            prop_assert!((primal - dual).abs() < 1e-6 * (1.0 + primal.abs()), "{} {}", primal, dual);
        }
    }
}

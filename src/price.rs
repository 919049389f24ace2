//! What scarce capacity is worth: the shadow prices of a transport problem.
//!
//! Requests that could run anywhere fill the clean region, and then those that could run only there, or that would be much dirtier
//! elsewhere, find it full. Seen one by one, each of the first was placed well. What tells them apart is a price: by how many grams
//! all requests together would become dirtier if this backend had room for one output token a second less. It is the dual value of a
//! small linear programme, solved once a second beside the requests. The amounts of its solution are not used: a share that is
//! right for the last second overfills a region in the next, while a price and what is in flight at the moment do not.
//!
//! The solution is found by successive shortest paths, which for such a problem is exact; a test holds it against a solver of linear
//! programmes. Groups of demand that fit nowhere go to a place of last resort that is dearer than all others.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

/// Groups of demand, backends with their capacity, and what it costs to serve one at the other.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Market {
    /// Of each group: output tokens a second.
    pub demand: Vec<f64>,
    /// Of each backend: output tokens a second.
    pub capacity: Vec<f64>,
    /// Grams for each output token, group by group; infinite where a group may not or cannot be served.
    pub cost: Vec<f64>,
}

/// What remains when a market is cleared.
#[derive(Clone, Debug, PartialEq)]
pub struct Clearing {
    /// Of each backend: grams for each output token, finite and not negative; zero where there is room.
    pub prices: Vec<f64>,
    /// Of each backend: output tokens a second that it serves.
    pub served: Vec<f64>,
    /// Output tokens a second for which there is no room anywhere.
    pub unserved: f64,
    /// Grams a second of what is served.
    pub cost: f64,
}

/// Amounts below this share of the whole demand are rounding.
const DUST: f64 = 1e-9;
/// Steps for each pair of group and backend. A problem of this kind takes about one for each group and each full backend; the bound is
/// there so that rounding cannot make it endless.
pub const STEPS_PER_PAIR: usize = 4;
/// Pairs of group and place that are looked at in all of them at most: some tenths of a second, on the thread that does all that is no
/// request. 64 groups at 16 backends take 130,000.
const MOST_LOOKED: usize = 20_000_000;
/// The place of last resort costs so many times what the dearest place does.
const LAST_RESORT: f64 = 2.0;

impl Market {
    /// Serves as much as there is room for, at the least cost. `None` when that takes more steps than it may, or when the market is
    /// not one: sizes that do not match, or numbers that are none.
    pub fn clear(&self) -> Option<Clearing> {
        self.clear_within(STEPS_PER_PAIR)
    }

    /// The same in so many steps for each pair of group and backend.
    pub fn clear_within(&self, steps_per_pair: usize) -> Option<Clearing> {
        Work::begin(self)?.run(steps_per_pair)
    }
}

/// A market being cleared.
struct Work {
    groups: usize,
    /// With the place of last resort as the last one.
    places: usize,
    left: Vec<f64>,
    room: Vec<f64>,
    cost: Vec<f64>,
    flow: Vec<f64>,
    dust: f64,
    /// Potentials of groups, then of places: with them no step costs less than nothing.
    potential: Vec<f64>,
    /// Pairs of group and place that were looked at.
    looked: usize,
}

/// A cheapest way from some group to some place with room.
struct Way {
    /// For each node, by what it was reached.
    before: Vec<usize>,
    end: usize,
}

const NONE: usize = usize::MAX;

#[expect(clippy::indexing_slicing, reason = "all vectors are made in `begin` for exactly these numbers of groups and places")]
impl Work {
    fn begin(market: &Market) -> Option<Self> {
        let (groups, backends) = (market.demand.len(), market.capacity.len());
        let amounts = market.demand.iter().chain(&market.capacity);
        let fine = |value: &f64| value.is_finite() && *value >= 0.0;
        if market.cost.len() != groups * backends
            || !amounts.clone().all(fine)
            || market.cost.iter().any(|c| c.is_nan() || *c < 0.0)
        {
            return None;
        }
        let places = backends + 1;
        let dearest = market.cost.iter().copied().filter(|cost| cost.is_finite()).fold(0.0, f64::max);
        let last_resort = if dearest > 0.0 { dearest * LAST_RESORT } else { 1.0 };
        let mut cost = Vec::with_capacity(groups * places);
        for group in 0..groups {
            cost.extend_from_slice(&market.cost[group * backends..][..backends]);
            cost.push(last_resort);
        }
        let whole: f64 = market.demand.iter().sum();
        let room = market.capacity.iter().copied().chain([f64::INFINITY]).collect();
        Some(Self {
            groups,
            places,
            left: market.demand.clone(),
            room,
            cost,
            flow: vec![0.0; groups * places],
            dust: whole * DUST,
            potential: vec![0.0; groups + places],
            looked: 0,
        })
    }

    fn run(mut self, steps_per_pair: usize) -> Option<Clearing> {
        let most = steps_per_pair * self.groups * self.places;
        let mut steps = 0;
        while self.left.iter().any(|left| *left > self.dust) {
            steps += 1;
            if steps > most || self.looked > MOST_LOOKED {
                return None;
            }
            let way = self.cheapest_way()?;
            self.send(&way);
        }
        let backends = self.places - 1;
        let served = |place: usize| (0..self.groups).map(|group| self.flow[group * self.places + place]).sum::<f64>();
        let prices = self.prices();
        let pairs = (0..self.groups).flat_map(|group| (0..backends).map(move |place| group * self.places + place));
        Some(Clearing {
            prices: prices[..backends].to_vec(),
            served: (0..backends).map(served).collect(),
            unserved: served(backends),
            cost: pairs.filter(|pair| self.flow[*pair] > 0.0).map(|pair| self.flow[pair] * self.cost[pair]).sum(),
        })
    }

    /// Dijkstra from every group with demand left, over costs made positive by the potentials, which are then moved on. A place with room
    /// is an end, and only the nearest of them counts, so that none waits among the others for its turn.
    fn cheapest_way(&mut self) -> Option<Way> {
        let nodes = self.groups + self.places;
        let (mut distance, mut before, mut done) = (vec![f64::INFINITY; nodes], vec![NONE; nodes], vec![false; nodes]);
        let (mut waiting, mut end, mut reached) = (BinaryHeap::new(), NONE, f64::INFINITY);
        // All begin at one source, from which the way to each costs nothing, so that their potentials stay zero.
        for (group, _) in self.left.iter().enumerate().filter(|(_, left)| **left > self.dust) {
            distance[group] = 0.0;
            waiting.push(Reverse((0, group)));
        }
        let mut looked = 0;
        while let Some(Reverse((bits, node))) = waiting.pop() {
            if f64::from_bits(bits) >= reached {
                break;
            }
            if std::mem::replace(&mut done[node], true) {
                continue;
            }
            looked += if node < self.groups { self.places } else { self.groups };
            for (other, cost) in self.steps_from(node) {
                let far = distance[node] + (cost + self.potential[node] - self.potential[other]).max(0.0);
                // Behind the nearest end nothing is looked for.
                if far >= distance[other].min(reached) {
                    continue;
                }
                (distance[other], before[other]) = (far, node);
                if other < self.groups || self.room[other - self.groups] <= self.dust {
                    // Of numbers that are not negative the bits are in the same order.
                    waiting.push(Reverse((far.to_bits(), other)));
                } else {
                    (end, reached) = (other, far);
                }
            }
        }
        self.looked += looked;
        if end == NONE {
            return None;
        }
        for (potential, distance) in self.potential.iter_mut().zip(&distance) {
            *potential += distance.min(reached);
        }
        Some(Way { before, end })
    }

    /// Where one can go from a node: from a group to the places that may serve it, from a place back to the groups it serves.
    fn steps_from(&self, node: usize) -> impl Iterator<Item = (usize, f64)> + '_ {
        let (groups, places) = (self.groups, self.places);
        let forth = (node < groups).then(|| (0..places).map(move |place| (groups + place, self.cost[node * places + place])));
        let back = (node >= groups).then(|| {
            let place = node - groups;
            (0..groups)
                .filter(move |group| self.flow[group * places + place] > self.dust)
                .map(move |group| (group, -self.cost[group * places + place]))
        });
        forth.into_iter().flatten().filter(|(_, cost)| cost.is_finite()).chain(back.into_iter().flatten())
    }

    /// Sends as much along a way as it bears.
    fn send(&mut self, way: &Way) {
        let (groups, places) = (self.groups, self.places);
        let mut amount = self.room[way.end - groups];
        let mut node = way.end;
        while way.before[node] != NONE {
            let from = way.before[node];
            if from >= groups {
                amount = amount.min(self.flow[node * places + from - groups]);
            }
            node = from;
        }
        amount = amount.min(self.left[node]);
        self.left[node] -= amount;
        self.room[way.end - groups] -= amount;
        let mut node = way.end;
        while way.before[node] != NONE {
            let from = way.before[node];
            if from < groups {
                self.flow[from * places + node - groups] += amount;
            } else {
                self.flow[node * places + from - groups] -= amount;
            }
            node = from;
        }
    }

    /// For each place: the cheapest way to make room there by moving what it serves to where there is room.
    fn prices(&self) -> Vec<f64> {
        let mut price: Vec<f64> = self.room.iter().map(|room| if *room > self.dust { 0.0 } else { f64::INFINITY }).collect();
        // A way passes each place once at most.
        for _ in 0..self.places {
            let mut changed = false;
            for group in 0..self.groups {
                let row = group * self.places;
                let cheapest = (0..self.places).map(|place| self.cost[row + place] + price[place]).fold(f64::INFINITY, f64::min);
                for place in (0..self.places).filter(|place| self.flow[row + place] > self.dust) {
                    let moved = (cheapest - self.cost[row + place]).max(0.0);
                    if moved < price[place] - 1e-15 {
                        price[place] = moved;
                        changed = true;
                    }
                }
            }
            if !changed {
                break;
            }
        }
        // A full place that serves nobody has no capacity at all, and nobody who would pay for it.
        price.iter().map(|price| if price.is_finite() { *price } else { 0.0 }).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NO: f64 = f64::INFINITY;

    fn market(demand: &[f64], capacity: &[f64], cost: &[f64]) -> Market {
        Market { demand: demand.to_vec(), capacity: capacity.to_vec(), cost: cost.to_vec() }
    }

    fn near(a: &[f64], b: &[f64]) -> bool {
        a.len() == b.len() && a.iter().zip(b).all(|(a, b)| (a - b).abs() < 1e-9)
    }

    #[test]
    fn where_there_is_room_nothing_has_a_price() {
        let cleared = market(&[10.0, 5.0], &[20.0, 20.0], &[1.0, 3.0, 2.0, 9.0]).clear().unwrap();
        assert!(near(&cleared.prices, &[0.0, 0.0]) && near(&cleared.served, &[15.0, 0.0]));
        assert!((cleared.cost - 20.0).abs() < 1e-9 && cleared.unserved == 0.0);
    }

    #[test]
    fn a_full_clean_place_is_worth_what_the_next_best_costs_more() {
        // The first can move at a loss of 2, the second at a loss of 7: the first moves, and its loss is the price.
        let cleared = market(&[10.0, 10.0], &[15.0, 100.0], &[1.0, 3.0, 2.0, 9.0]).clear().unwrap();
        assert!(near(&cleared.prices, &[2.0, 0.0]), "{cleared:?}");
        assert!(near(&cleared.served, &[15.0, 5.0]) && (cleared.cost - 40.0).abs() < 1e-9, "{cleared:?}");
    }

    #[test]
    fn a_chain_of_moves_is_found() {
        // Room at the last place only: the first group could go there by way of the second.
        let cleared = market(&[10.0, 10.0], &[10.0, 10.0, 10.0], &[1.0, 2.0, NO, NO, 1.0, 4.0]).clear().unwrap();
        assert!(near(&cleared.prices, &[0.0, 0.0, 0.0]) || cleared.prices[0] <= 4.0, "{cleared:?}");
        let fuller = market(&[11.0, 9.5], &[10.0, 10.0, 10.0], &[1.0, 2.0, NO, NO, 1.0, 4.0]).clear().unwrap();
        assert!(near(&fuller.prices, &[4.0, 3.0, 0.0]), "{fuller:?}");
    }

    #[test]
    fn what_fits_nowhere_makes_all_places_dear_and_is_said() {
        let cleared = market(&[30.0], &[10.0, 10.0], &[1.0, 2.0]).clear().unwrap();
        assert!((cleared.unserved - 10.0).abs() < 1e-9);
        assert!(near(&cleared.prices, &[3.0, 2.0]), "{cleared:?}");
        let nowhere = market(&[5.0], &[10.0], &[NO]).clear().unwrap();
        assert!((nowhere.unserved - 5.0).abs() < 1e-9 && near(&nowhere.prices, &[0.0]));
    }

    #[test]
    fn what_is_no_market_is_refused() {
        assert_eq!(market(&[1.0], &[1.0], &[]).clear(), None);
        assert_eq!(market(&[f64::NAN], &[1.0], &[1.0]).clear(), None);
        assert_eq!(market(&[1.0], &[1.0], &[-1.0]).clear(), None);
        assert!(market(&[], &[], &[]).clear().is_some() && market(&[1.0], &[], &[]).clear().is_some());
    }

    #[test]
    fn a_market_beyond_all_measure_is_given_up() {
        let (groups, places) = (64, 1000);
        let cost: Vec<f64> = (0..groups * places).map(|pair| 1.0 + f64::from(pair * 7919 % 1009)).collect();
        // Nearly every place is filled by a step of its own.
        let (demand, capacity) = (vec![100.0; 64], vec![6.336; 1000]);
        assert_eq!(market(&demand, &capacity, &cost).clear(), None);
    }

    proptest::proptest! {
        /// Nothing is lost, no place is overfilled, and the prices are those of an optimum: nobody who is served somewhere would, with
        /// them, be cheaper elsewhere, and where there is room there is no price.
        #[test]
        fn prices_are_those_of_an_optimum(
            demand in proptest::collection::vec(0.0_f64..100.0, 1..12),
            capacity in proptest::collection::vec(proptest::prop_oneof![proptest::strategy::Just(0.0), 0.0_f64..200.0], 1..8),
            costs in proptest::collection::vec(proptest::prop_oneof![8 => 0.0_f64..10.0, 1 => proptest::strategy::Just(NO)], 96),
        ) {
            let cost: Vec<f64> = costs[..demand.len() * capacity.len()].to_vec();
            let market = Market { demand: demand.clone(), capacity: capacity.clone(), cost };
            let cleared = market.clear();
            proptest::prop_assert!(cleared.is_some());
            let cleared = cleared.unwrap();
            let whole: f64 = demand.iter().sum();
            let served: f64 = cleared.served.iter().sum();
            proptest::prop_assert!((served + cleared.unserved - whole).abs() <= 1e-6 * whole.max(1.0));
            for ((served, room), price) in cleared.served.iter().zip(&capacity).zip(&cleared.prices) {
                proptest::prop_assert!(*served <= room + 1e-6 && price.is_finite() && *price >= 0.0);
                proptest::prop_assert!(*served >= room - 1e-6 * whole.max(1.0) || *price == 0.0, "{} of {} at {}", served, room, price);
            }
        }
    }
}

//! A region in virtual time: the model of [`crate::fleet`], with its batch as one clock of tokens.
//!
//! All requests of a batch get their tokens in step, so the number of tokens that each has had since any moment is the same for all
//! of them, and grows by one in each decoding step. That number is the clock. A request that begins at 100 and wants 50 more ends at
//! 150, whatever happens to the speed in between; a change of the batch changes only how fast the clock runs. So a request costs two
//! events however long its answer is.

use std::cmp::Ordering;
use std::collections::{BinaryHeap, HashMap};
use std::time::Duration;

use fastrand::Rng;
use smallvec::SmallVec;

use crate::fleet::{Admission, Faults, Region, Spec, Start, Ticket};

/// Two token counts are the same when they differ by less: what adding up small steps may lose.
const EPSILON: f64 = 1e-6;

/// A region with what is under way in it.
#[derive(Debug)]
pub struct Site {
    region: Region,
    /// Whose each ticket is.
    holders: HashMap<Ticket, u32>,
    /// Steps of the batch so far.
    tokens: f64,
    /// When that was.
    at: Duration,
    ends: BinaryHeap<End>,
    /// Counts changes of speed: what was scheduled before the last one is void.
    version: u64,
}

/// A request's last token.
#[derive(Debug)]
struct End {
    tokens: f64,
    ticket: Ticket,
}

impl PartialEq for End {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other).is_eq()
    }
}

impl Eq for End {}

impl PartialOrd for End {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for End {
    /// The earliest is the greatest, as a heap hands out the greatest.
    fn cmp(&self, other: &Self) -> Ordering {
        other.tokens.total_cmp(&self.tokens).then_with(|| other.ticket.cmp(&self.ticket))
    }
}

/// Requests that have got a slot: whose, and when their first token is there.
pub type Started = SmallVec<[(u32, Duration); 2]>;

impl Site {
    /// An idle region.
    pub fn new(spec: Spec) -> Self {
        Self {
            region: Region::new(spec),
            holders: HashMap::new(),
            tokens: 0.0,
            at: Duration::ZERO,
            ends: BinaryHeap::new(),
            version: 0,
        }
    }

    /// The model itself.
    pub fn region(&self) -> &Region {
        &self.region
    }

    /// Steps of the batch so far.
    pub fn tokens(&self) -> f64 {
        self.tokens
    }

    /// A request sets out.
    pub fn arrive(&mut self, now: Duration, who: u32, prompt_tokens: u32, rng: &mut Rng) -> (Admission, Option<Ticket>) {
        let admission = self.region.arrive(now, prompt_tokens, rng);
        let ticket = match &admission {
            Admission::Queued { ticket, .. } => Some(*ticket),
            Admission::Started { start, .. } => Some(start.ticket),
            _ => None,
        };
        if let Some(ticket) = ticket {
            self.holders.insert(ticket, who);
        }
        (admission, ticket)
    }

    /// A request's first token is there, and `more` will follow.
    pub fn first_token(&mut self, now: Duration, ticket: Ticket, more: u32) {
        self.catch_up(now);
        self.region.first_token(ticket);
        self.ends.push(End { tokens: self.tokens + f64::from(more), ticket });
        self.version += 1;
    }

    /// When the next answer ends, as it looks now, and under which version.
    pub fn next_end(&self) -> Option<(Duration, u64)> {
        let left = (self.ends.peek()?.tokens - self.tokens).max(0.0);
        let span = Duration::try_from_secs_f64(left * self.region.token_time().get() / 1e3).unwrap_or(Duration::MAX);
        Some((self.at.saturating_add(span), self.version))
    }

    /// Those whose answers have ended, if `version` is still the one.
    pub fn ended(&mut self, now: Duration, version: u64) -> Option<(SmallVec<[u32; 2]>, Started)> {
        if version != self.version {
            return None;
        }
        self.catch_up(now);
        let (mut ended, mut started) = (SmallVec::new(), Started::new());
        // The first was scheduled for now, whatever rounding made of it.
        while let Some(end) = self.ends.peek()
            && (ended.is_empty() || end.tokens <= self.tokens + EPSILON)
        {
            let ticket = end.ticket;
            self.ends.pop();
            ended.extend(self.holders.remove(&ticket));
            let starts = self.region.depart(now, ticket);
            started.extend(self.named(&starts));
        }
        self.version += 1;
        Some((ended, started))
    }

    /// Other conditions from now on.
    pub fn set(&mut self, now: Duration, faults: Faults, others: usize) -> Started {
        self.catch_up(now);
        let mut starts = self.region.set_others(now, others);
        starts.extend(self.region.set_faults(now, faults));
        self.version += 1;
        self.named(&starts)
    }

    /// Everybody is thrown out. Returns who they were, by their tickets' order.
    pub fn empty(&mut self, now: Duration) -> Vec<u32> {
        self.catch_up(now);
        self.ends.clear();
        let mut holders: Vec<(Ticket, u32)> = self.holders.drain().collect();
        holders.sort_unstable();
        for (ticket, _) in &holders {
            // Who gets a slot by it is thrown out as well.
            let _ = self.region.depart(now, *ticket);
        }
        self.version += 1;
        holders.into_iter().map(|(_, who)| who).collect()
    }

    fn named(&self, starts: &[Start]) -> Started {
        starts.iter().filter_map(|start| Some((*self.holders.get(&start.ticket)?, start.first_token_at))).collect()
    }

    /// Lets the clock run until now.
    fn catch_up(&mut self, now: Duration) {
        let step = self.region.token_time().get() / 1e3;
        let span = now.saturating_sub(self.at).as_secs_f64();
        if step > 0.0 {
            self.tokens += span / step;
        }
        self.at = self.at.max(now);
    }
}

#[cfg(test)]
mod tests {
    use std::num::NonZeroU16;

    use super::*;
    use crate::fleet::{Noise, Positive};
    use crate::units::Millis;

    /// One replica with a step of 16 ms and 0.4 ms for each in the batch.
    fn quiet() -> Site {
        let spec = Spec::new("here", Millis::saturating(10.0), NonZeroU16::MIN);
        Site::new(Spec { noise: Noise::NONE, ..spec })
    }

    fn seconds(seconds: f64) -> Duration {
        Duration::from_secs_f64(seconds)
    }

    fn started(site: &mut Site, now: Duration, who: u32) -> Ticket {
        let (admission, ticket) = site.arrive(now, who, 100, &mut Rng::with_seed(1));
        assert!(matches!(admission, Admission::Started { .. }));
        ticket.unwrap()
    }

    fn near(at: Duration, expected: f64) -> bool {
        (at.as_secs_f64() - expected).abs() < 1e-6
    }

    #[test]
    fn an_answer_alone_takes_its_tokens_times_the_step() {
        let mut site = quiet();
        let ticket = started(&mut site, Duration::ZERO, 7);
        site.first_token(seconds(1.0), ticket, 100);
        let (at, version) = site.next_end().unwrap();
        assert!(near(at, 1.0 + 100.0 * 0.0164), "{at:?}");
        let (ended, _) = site.ended(at, version).unwrap();
        assert_eq!(ended.to_vec(), [7]);
        assert!(site.next_end().is_none() && site.region().resident() == 0);
    }

    #[test]
    fn two_share_the_batch_and_what_was_planned_before_is_void() {
        let mut site = quiet();
        let (first, second) = (started(&mut site, Duration::ZERO, 1), started(&mut site, Duration::ZERO, 2));
        site.first_token(seconds(1.0), first, 100);
        let (old, void) = site.next_end().unwrap();
        // Half way the second one joins: the rest takes 16.8 ms a token instead of 16.4.
        site.first_token(seconds(1.0 + 50.0 * 0.0164), second, 200);
        assert!(site.ended(old, void).is_none());
        let (at, version) = site.next_end().unwrap();
        assert!(near(at, 1.0 + 50.0 * 0.0164 + 50.0 * 0.0168), "{at:?}");
        assert_eq!(site.ended(at, version).unwrap().0.to_vec(), [1]);
        // Alone again, with 150 to go.
        let (end, _) = site.next_end().unwrap();
        assert!(near(end, at.as_secs_f64() + 150.0 * 0.0164), "{end:?}");
    }

    #[test]
    fn a_slower_region_is_slower_from_then_on() {
        let mut site = quiet();
        let ticket = started(&mut site, Duration::ZERO, 1);
        site.first_token(Duration::ZERO, ticket, 100);
        let slow = Faults { slow: Positive::new(2.0).unwrap(), ..Faults::default() };
        site.set(seconds(0.82), slow, 0);
        assert!(near(site.next_end().unwrap().0, 0.82 + 50.0 * 0.0328));
        // Ten others in the batch: 16 + 0.4 x 11 ms, twice.
        site.set(seconds(0.82), Faults { slow: Positive::new(2.0).unwrap(), ..Faults::default() }, 10);
        assert!(near(site.next_end().unwrap().0, 0.82 + 50.0 * 0.0408));
    }

    #[test]
    fn who_is_thrown_out_is_gone() {
        let mut site = quiet();
        for who in 0..70 {
            site.arrive(Duration::ZERO, who, 100, &mut Rng::with_seed(1));
        }
        assert_eq!((site.region().resident(), site.region().waiting()), (64, 6));
        let gone = site.empty(seconds(1.0));
        assert_eq!(gone, (0..70).collect::<Vec<u32>>());
        assert_eq!((site.region().resident(), site.region().waiting(), site.next_end()), (0, 0, None));
    }
}

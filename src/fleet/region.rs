//! One region as a queueing model: slots, a short queue, prefill servers, and a batch that slows down as it grows.
//!
//! The caller tells what happens when (an arrival, a first token, a departure) and is told what follows. All times are spans since
//! the caller's own start, so they can come from a socket's clock or from a simulation's heap of events.

use std::collections::{HashMap, VecDeque};
use std::num::NonZeroU16;
use std::time::Duration;

use fastrand::Rng;
use smallvec::SmallVec;

use super::{Faults, Spec};
use crate::units::Millis;

/// What a refusal advises: about the time in which a full replica finishes one of its answers.
const RETRY_AFTER: Duration = Duration::from_secs(1);
/// How much a full region's prompts are slowed by the decoding that goes on beside them.
const PREFILL_LOAD: f64 = 0.5;

/// One admitted request.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Ticket(u64);

/// A request has got its slot.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Start {
    /// Whose.
    pub ticket: Ticket,
    /// When its first token reaches the client, if nothing goes wrong on the way.
    pub first_token_at: Duration,
}

/// What a region says to a request. `answer_at` is when a short answer, or the head of a long one, reaches the client.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Admission {
    /// Nothing at all: the region is not there.
    Down,
    /// 429.
    Refused {
        /// When the client reads it.
        answer_at: Duration,
        /// What it is told to wait.
        retry_after: Duration,
    },
    /// 500.
    Failed {
        /// When the client reads it.
        answer_at: Duration,
    },
    /// It waits for a slot; a later [`Region::depart`] will start it.
    Queued {
        /// Its place.
        ticket: Ticket,
        /// When the client could read the head.
        answer_at: Duration,
    },
    /// It has a slot.
    Started {
        /// Its slot.
        start: Start,
        /// When the client could read the head.
        answer_at: Duration,
    },
}

/// What becomes of the next tokens of a request.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Step {
    /// They come after this long.
    After(Duration),
    /// Nothing comes until the faults change.
    Stalled,
    /// The connection breaks.
    Cut,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Prefill,
    Decode,
}

#[derive(Debug)]
struct Waiting {
    ticket: Ticket,
    /// When it reached the region.
    reached_at: Duration,
    way_back: Duration,
    prompt_tokens: u32,
    /// How far reading it strays. Drawn on arrival, so that what a request draws does not depend on who leaves before it.
    noise: f64,
}

/// A region at work.
#[derive(Debug)]
pub struct Region {
    spec: Spec,
    faults: Faults,
    residents: HashMap<Ticket, Phase>,
    decoding: usize,
    /// Requests of tenants that nobody here knows of: they have slots, and are in the batch.
    others: usize,
    waiting: VecDeque<Waiting>,
    /// For each replica, when it will have read all prompts given to it.
    prefill_free_at: Vec<Duration>,
    next_ticket: u64,
}

impl Region {
    /// An idle region with nothing wrong.
    pub fn new(spec: Spec) -> Self {
        let replicas = usize::from(spec.replicas.get());
        Self {
            spec,
            faults: Faults::default(),
            residents: HashMap::new(),
            decoding: 0,
            others: 0,
            waiting: VecDeque::new(),
            prefill_free_at: vec![Duration::ZERO; replicas],
            next_ticket: 0,
        }
    }

    /// What it is built of.
    pub fn spec(&self) -> &Spec {
        &self.spec
    }

    /// What is wrong with it.
    pub fn faults(&self) -> &Faults {
        &self.faults
    }

    /// Requests in slots.
    pub fn resident(&self) -> usize {
        self.residents.len()
    }

    /// Requests in slots that have had their first token: the batch.
    pub fn decoding(&self) -> usize {
        self.decoding
    }

    /// Requests without a slot yet.
    pub fn waiting(&self) -> usize {
        self.waiting.len()
    }

    /// A request sets out at `now`. Whoever is admitted has to be taken out with [`Region::depart`] once.
    pub fn arrive(&mut self, now: Duration, prompt_tokens: u32, rng: &mut Rng) -> Admission {
        let rtt = self.round_trip(rng);
        let fails = rng.f64() < self.faults.error_rate.get();
        let noise = self.spec.noise.spiky(self.spec.noise.prefill, rng);
        let answer_at = now + rtt;
        if !self.faults.up {
            return Admission::Down;
        }
        let full = self.occupied() >= self.slots() && self.waiting.len() >= self.queue_limit();
        if self.faults.refuse || full {
            return Admission::Refused { answer_at, retry_after: RETRY_AFTER };
        }
        if fails {
            return Admission::Failed { answer_at };
        }
        let ticket = Ticket(self.next_ticket);
        self.next_ticket += 1;
        let request = Waiting { ticket, reached_at: now + rtt / 2, way_back: rtt / 2, prompt_tokens, noise };
        // First come, first served: a slot that is free while others wait (capacity came back) belongs to them.
        if self.occupied() >= self.slots() || !self.waiting.is_empty() {
            self.waiting.push_back(request);
            return Admission::Queued { ticket, answer_at };
        }
        Admission::Started { start: self.start(now, &request), answer_at }
    }

    /// The request's first token is out: it joins the batch, and slows it for everybody.
    pub fn first_token(&mut self, ticket: Ticket) {
        if let Some(phase @ Phase::Prefill) = self.residents.get_mut(&ticket) {
            *phase = Phase::Decode;
            self.decoding += 1;
        }
    }

    /// What becomes of the next `tokens` of a request that has had `sent`, at the present size of the batch.
    pub fn step(&self, sent: u32, tokens: u32, rng: &mut Rng) -> Step {
        if !self.faults.up || self.faults.cut_after_tokens.is_some_and(|limit| sent >= limit) {
            return Step::Cut;
        }
        if self.faults.stall {
            return Step::Stalled;
        }
        let noise = self.spec.noise.token.factor(rng);
        Step::After(Millis::saturating(self.token_time().get() * f64::from(tokens) * noise).to_duration())
    }

    /// The time of one decoding step at the present size of the batch, without noise.
    pub fn token_time(&self) -> Millis {
        let batch = (self.decoding + self.others) as f64 / f64::from(self.replicas().get());
        self.spec.token_time(batch) * self.faults.slow.get()
    }

    /// A request ends, or its client has gone. Returns those that got a slot by it, in the order of their arrival.
    ///
    /// A prompt that was already given to a replica is still read to its end, as an engine does with a step that it has begun.
    pub fn depart(&mut self, now: Duration, ticket: Ticket) -> SmallVec<[Start; 1]> {
        match self.residents.remove(&ticket) {
            Some(Phase::Decode) => self.decoding -= 1,
            Some(Phase::Prefill) => {}
            None => self.waiting.retain(|waiting| waiting.ticket != ticket),
        }
        self.fill(now)
    }

    /// Other faults from now on. Returns those that got a slot by it.
    pub fn set_faults(&mut self, now: Duration, faults: Faults) -> SmallVec<[Start; 1]> {
        self.faults = faults;
        let replicas = usize::from(self.replicas().get());
        if !self.faults.up {
            // What was being read is lost with whoever read it.
            self.prefill_free_at.clear();
        }
        self.prefill_free_at.resize(replicas, now);
        self.fill(now)
    }

    /// So many requests of other tenants from now on. Returns those that got a slot by it.
    pub fn set_others(&mut self, now: Duration, others: usize) -> SmallVec<[Start; 1]> {
        self.others = others;
        self.fill(now)
    }

    fn fill(&mut self, now: Duration) -> SmallVec<[Start; 1]> {
        let mut started = SmallVec::new();
        while self.occupied() < self.slots()
            && let Some(request) = self.waiting.pop_front()
        {
            started.push(self.start(now, &request));
        }
        started
    }

    fn start(&mut self, now: Duration, request: &Waiting) -> Start {
        let load = self.occupied() as f64 / self.slots() as f64;
        let seconds = f64::from(request.prompt_tokens) / self.spec.prefill_rate.get()
            * (1.0 + PREFILL_LOAD * load)
            * self.faults.slow.get()
            * request.noise;
        let ready = now.max(request.reached_at);
        let read_at = match self.prefill_free_at.iter_mut().min() {
            Some(free_at) => {
                *free_at = ready.max(*free_at).saturating_add(Millis::saturating(seconds * 1e3).to_duration());
                *free_at
            }
            None => ready,
        };
        self.residents.insert(request.ticket, Phase::Prefill);
        Start { ticket: request.ticket, first_token_at: read_at.saturating_add(request.way_back) }
    }

    fn round_trip(&self, rng: &mut Rng) -> Duration {
        let median = self.faults.rtt_ms.unwrap_or(self.spec.rtt);
        (median * self.spec.noise.spiky(self.spec.noise.rtt, rng)).to_duration()
    }

    fn replicas(&self) -> NonZeroU16 {
        self.faults.replicas.unwrap_or(self.spec.replicas)
    }

    fn occupied(&self) -> usize {
        self.residents.len() + self.others
    }

    fn slots(&self) -> usize {
        usize::from(self.replicas().get()) * usize::from(self.spec.slots_per_replica.get())
    }

    fn queue_limit(&self) -> usize {
        usize::from(self.replicas().get()) * usize::from(self.spec.queue_per_replica)
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Noise, Positive, Share};
    use super::*;

    const NOW: Duration = Duration::from_secs(100);

    fn quiet(replicas: u16) -> Region {
        let spec = Spec::new("aws/us-west-2", Millis::saturating(60.0), NonZeroU16::new(replicas).unwrap());
        Region::new(Spec { noise: Noise::NONE, ..spec })
    }

    fn started(admission: Admission) -> Start {
        match admission {
            Admission::Started { start, .. } => start,
            other => panic!("not started: {other:?}"),
        }
    }

    fn near(span: Duration, ms: f64) -> bool {
        (span.as_secs_f64() * 1e3 - ms).abs() < 0.01
    }

    fn after(at: Duration, from: Duration) -> Duration {
        at.checked_sub(from).unwrap()
    }

    #[test]
    fn an_idle_region_answers_after_the_round_trip_and_the_prompt() {
        let mut region = quiet(1);
        let start = started(region.arrive(NOW, 2400, &mut Rng::with_seed(1)));
        assert!(near(after(start.first_token_at, NOW), 160.0), "{:?}", start.first_token_at);
        region.first_token(start.ticket);
        let Step::After(step) = region.step(1, 10, &mut Rng::with_seed(1)) else { panic!("no step") };
        assert!(near(step, 164.0), "{step:?}");
    }

    #[test]
    fn slots_then_the_queue_then_a_refusal() {
        let (mut region, mut rng) = (quiet(2), Rng::with_seed(1));
        let mut tickets = Vec::new();
        for _ in 0..128 {
            tickets.push(started(region.arrive(NOW, 100, &mut rng)).ticket);
        }
        let queued: Vec<Ticket> = (0..32)
            .map(|_| match region.arrive(NOW, 100, &mut rng) {
                Admission::Queued { ticket, .. } => ticket,
                other => panic!("not queued: {other:?}"),
            })
            .collect();
        assert!(matches!(region.arrive(NOW, 100, &mut rng), Admission::Refused { retry_after: RETRY_AFTER, .. }));
        // Who gives up in the queue starts nobody; who leaves a slot starts the oldest that still waits.
        assert!(region.depart(NOW, queued[0]).is_empty());
        let next = region.depart(NOW + RETRY_AFTER, tickets[0]);
        assert_eq!(next.iter().map(|start| start.ticket).collect::<Vec<_>>(), [queued[1]]);
        assert!(next[0].first_token_at > NOW + RETRY_AFTER);
        assert_eq!((region.resident(), region.waiting()), (128, 30));
    }

    #[test]
    fn load_raises_the_first_token_and_the_token_time() {
        let (mut region, mut rng) = (quiet(1), Rng::with_seed(1));
        let mut last = Duration::ZERO;
        let idle = region.token_time();
        for _ in 0..60 {
            let start = started(region.arrive(NOW, 1000, &mut rng));
            assert!(start.first_token_at > last, "one replica reads one prompt after the other");
            last = start.first_token_at;
            region.first_token(start.ticket);
            region.first_token(start.ticket);
        }
        assert_eq!(region.decoding(), 60);
        assert!((region.token_time().get() - (idle.get() + 24.0)).abs() < 1e-9);
        let full = started(region.arrive(NOW * 2, 2400, &mut rng));
        assert!(near(after(full.first_token_at, NOW * 2), 60.0 + 100.0 * (1.0 + 0.5 * 60.0 / 64.0)));
    }

    #[test]
    fn one_seed_is_one_history() {
        let history = |seed| {
            let mut region = Region::new(Spec::new("aws/us-west-2", Millis::saturating(60.0), NonZeroU16::MIN));
            let mut rng = Rng::with_seed(seed);
            (0..100).map(|i| region.arrive(NOW * i, 500, &mut rng)).collect::<Vec<_>>()
        };
        assert_eq!(history(7), history(7));
        assert_ne!(history(7), history(8));
    }

    #[test]
    fn faults_do_what_they_say() {
        let (mut region, mut rng) = (quiet(1), Rng::with_seed(1));
        let with = |region: &mut Region, faults| {
            region.set_faults(NOW, faults);
        };
        with(&mut region, Faults { slow: Positive::new(3.0).unwrap(), ..Faults::default() });
        assert!((region.token_time().get() - 48.0).abs() < 1e-9);
        with(&mut region, Faults { rtt_ms: Some(Millis::saturating(10.0)), ..Faults::default() });
        assert!(near(after(started(region.arrive(NOW, 0, &mut rng)).first_token_at, NOW), 10.0));
        with(&mut region, Faults { refuse: true, ..Faults::default() });
        assert!(matches!(region.arrive(NOW, 1, &mut rng), Admission::Refused { .. }));
        with(&mut region, Faults { error_rate: Share::new(1.0).unwrap(), ..Faults::default() });
        assert!(matches!(region.arrive(NOW, 1, &mut rng), Admission::Failed { .. }));
        with(&mut region, Faults { cut_after_tokens: Some(5), ..Faults::default() });
        assert!(matches!(region.step(4, 1, &mut rng), Step::After(_)));
        assert_eq!(region.step(5, 1, &mut rng), Step::Cut);
        with(&mut region, Faults { stall: true, ..Faults::default() });
        assert_eq!(region.step(0, 1, &mut rng), Step::Stalled);
        with(&mut region, Faults { up: false, ..Faults::default() });
        assert_eq!(region.arrive(NOW, 1, &mut rng), Admission::Down);
        assert_eq!(region.step(0, 1, &mut rng), Step::Cut);
    }

    #[test]
    fn lost_replicas_shrink_it_and_their_return_starts_who_waits() {
        let (mut region, mut rng) = (quiet(2), Rng::with_seed(1));
        region.set_faults(NOW, Faults { replicas: Some(NonZeroU16::MIN), ..Faults::default() });
        for _ in 0..80 {
            region.arrive(NOW, 10, &mut rng);
        }
        assert_eq!((region.resident(), region.waiting()), (64, 16));
        assert_eq!(region.set_faults(NOW, Faults::default()).len(), 16);
        assert_eq!((region.resident(), region.waiting()), (80, 0));
    }

    proptest::proptest! {
        /// Whatever happens in whatever order: nothing is above its bound, and once all have left, nothing is left.
        #[test]
        fn bounds_hold_and_all_slots_come_back(events in proptest::collection::vec((0_u8..4, 0_usize..400), 0..600)) {
            let (mut region, mut rng) = (quiet(2), Rng::with_seed(1));
            let mut here: Vec<Ticket> = Vec::new();
            for (event, which) in events {
                match event {
                    0 | 1 => match region.arrive(NOW, 10, &mut rng) {
                        Admission::Started { start, .. } => here.push(start.ticket),
                        Admission::Queued { ticket, .. } => here.push(ticket),
                        Admission::Refused { .. } => proptest::prop_assert_eq!(here.len(), 160),
                        other => proptest::prop_assert!(false, "{:?}", other),
                    },
                    2 if which < here.len() => region.first_token(here[which]),
                    _ if which < here.len() => {
                        region.depart(NOW, here.swap_remove(which));
                    }
                    _ => {}
                }
                proptest::prop_assert!(region.resident() <= 128 && region.waiting() <= 32);
                proptest::prop_assert!(region.decoding() <= region.resident());
                proptest::prop_assert_eq!(region.resident() + region.waiting(), here.len());
                proptest::prop_assert!(region.waiting() == 0 || region.resident() == 128, "nobody waits for a free slot");
            }
            for ticket in here {
                region.depart(NOW, ticket);
            }
            proptest::prop_assert_eq!((region.resident(), region.decoding(), region.waiting()), (0, 0, 0));
        }
    }
}

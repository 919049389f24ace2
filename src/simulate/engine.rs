//! One run: a heap of events in virtual time, between requests that come and regions that answer.

use std::cmp::Ordering;
use std::collections::{BinaryHeap, HashMap};
use std::time::{Duration, Instant};

use jiff::Timestamp;

use super::Player;
use super::conditions;
use super::flight::{Attempt, Failure, Flight};
use super::post::{Mail, Post};
use super::router::{Decided, FirstSeen, Moment, Outcome, Router, Seen, route_of};
use super::score::{End, Score, Tally};
use super::site::{Site, Started};
use super::traffic::{Ask, Course, noise_of};
use super::truth::{cached, counts, truth, wall};
use super::world::World;
use crate::clock::{Clock, SystemClock};
use crate::config::scenario::{Changes, Scenario};
use crate::decide::Reason;
use crate::estimate::Demand;
use crate::fleet::Admission;
use crate::tables::TokenCounts;

/// How often `control` is called.
const TICK: Duration = Duration::from_secs(1);
/// How long it takes to notice that a backend is gone and to ask another one.
const NOTICE: Duration = Duration::from_millis(50);
/// So long after the last arrival whoever is still under way has failed, so that a region which stands still cannot keep a run from
/// its end; the usual client would have given up before.
const LINGER: Duration = Duration::from_mins(10);
/// No request is held back for longer, whatever a policy says: the longest budget that is usual.
const LONGEST_HOLD: Duration = Duration::from_mins(1);

/// What happens at a moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum What {
    /// The first token of an attempt is there.
    FirstToken { ask: u32, attempt: u8 },
    /// The next answer of a region ends.
    End { region: u16, version: u64 },
    /// An attempt is known to have failed or to have been refused.
    Known { ask: u32, attempt: u8, failure: Failure },
    /// The next attempt begins.
    Again { ask: u32 },
    /// A request that was held back is decided again.
    Decide { ask: u32 },
    /// A second has passed.
    Tick,
    /// Proxies speak to each other.
    Mail(Mail),
    /// The feed has an hour's readings.
    Readings { hour: u32 },
    /// Conditions may be others.
    Change { nth: u32 },
    /// Nobody waits any longer.
    Close,
}

#[derive(Debug, PartialEq, Eq)]
struct Event {
    at: Duration,
    /// Those of one moment happen in the order in which they were planned.
    nth: u64,
    what: What,
}

impl PartialOrd for Event {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Event {
    fn cmp(&self, other: &Self) -> Ordering {
        other.at.cmp(&self.at).then(other.nth.cmp(&self.nth))
    }
}

/// One policy on one course.
pub struct Engine<'a> {
    scenario: &'a Scenario,
    world: &'a World,
    course: &'a Course,
    origin: Instant,
    routers: Vec<Router>,
    post: Option<Post>,
    sites: Vec<Site>,
    conditions: Vec<Option<Changes>>,
    changes: Vec<Duration>,
    events: BinaryHeap<Event>,
    planned: u64,
    flights: HashMap<u32, Flight>,
    /// Which region served a conversation last, and when.
    warm: HashMap<u32, (usize, Duration)>,
    tally: Tally<'a>,
    watch: &'a mut dyn Watch,
}

/// Whoever looks on.
pub trait Watch {
    /// A request is over.
    fn ended(&mut self, over: &Over<'_>);
}

/// A request that is over.
#[derive(Debug)]
pub struct Over<'f> {
    /// Which, as an index of the course.
    pub index: u32,
    /// What was asked.
    pub ask: &'f Ask,
    /// The proxy that it went through.
    pub router: &'f Router,
    /// When it came, by the grid's clock.
    pub wall: Timestamp,
    /// When it was over, since the start.
    pub at: Duration,
    /// What was decided last.
    pub decided: &'f Decided,
    /// What was tried.
    pub attempts: &'f [Attempt],
    /// How it ended.
    pub end: End,
}

impl<'a> Engine<'a> {
    /// A run of a policy.
    pub fn new(scenario: &'a Scenario, world: &'a World, course: &'a Course, player: &Player, watch: &'a mut dyn Watch) -> Self {
        // Any origin will do: only differences to it are ever looked at.
        let origin = SystemClock.monotonic();
        let mut engine = Self {
            scenario,
            world,
            course,
            origin,
            routers: (0..scenario.proxies).map(|proxy| Router::new(proxy.into(), player, origin)).collect(),
            post: scenario.exchange.filter(|_| scenario.proxies > 1).map(|means| Post::new(means, course.seed)),
            sites: scenario.regions.iter().map(|region| Site::new(region.spec.clone())).collect(),
            conditions: vec![None; scenario.regions.len()],
            changes: conditions::moments(scenario),
            events: BinaryHeap::new(),
            planned: 0,
            flights: HashMap::new(),
            warm: HashMap::new(),
            tally: Tally::new(scenario, course.asks.len()),
            watch,
        };
        engine.plan(Duration::ZERO, What::Change { nth: 0 });
        engine.plan(Duration::ZERO, What::Readings { hour: 0 });
        engine.plan(TICK, What::Tick);
        let mail = engine.post.as_mut().map(|post| post.begin(scenario.proxies));
        mail.into_iter().flatten().for_each(|(at, mail)| engine.plan(at, What::Mail(mail)));
        engine.plan(scenario.duration() + LINGER, What::Close);
        engine
    }

    /// Plays it to its end: until the last request is over.
    pub fn run(mut self) -> Finished {
        let mut next = 0;
        loop {
            let arrival = self.course.asks.get(next).map(|ask| ask.at);
            let event = self.events.peek().map(|event| event.at);
            match (arrival, event) {
                (Some(arrival), event) if event.is_none_or(|event| arrival < event) => {
                    self.decide(next as u32, arrival);
                    next += 1;
                }
                (None, _) if self.flights.is_empty() => break,
                (_, Some(_)) => {
                    if let Some(event) = self.events.pop() {
                        self.happen(event.at, event.what);
                    }
                }
                (_, None) => break,
            }
        }
        let under_way = self.routers.iter().map(Router::under_way).fold((0, 0), |a, b| (a.0 + b.0, a.1 + b.1));
        Finished { all: self.tally.all, under_way, score: self.tally.finish() }
    }

    fn plan(&mut self, at: Duration, what: What) {
        self.planned += 1;
        self.events.push(Event { at, nth: self.planned, what });
    }

    fn moment(&self, at: Duration) -> Moment {
        Moment { now: self.origin + at, wall: wall(self.scenario, at) }
    }

    fn happen(&mut self, now: Duration, what: What) {
        match what {
            What::FirstToken { ask, attempt } => self.first_token(ask, attempt, now),
            What::End { region, version } => self.end(usize::from(region), version, now),
            What::Known { ask, attempt, failure } => self.known(ask, attempt, failure, now),
            What::Again { ask } => self.send(ask, now),
            What::Decide { ask } => self.decide(ask, now),
            What::Tick => {
                let at = self.moment(now);
                self.routers.iter_mut().for_each(|router| router.tick(at));
                self.plan(now + TICK, What::Tick);
            }
            What::Mail(mail) => {
                let at = self.moment(now);
                let more = self.post.as_mut().map(|post| post.happen(mail, &mut self.routers, at));
                more.into_iter().flatten().for_each(|(later, mail)| self.plan(now + later, What::Mail(mail)));
            }
            What::Readings { hour } => self.readings(hour, now),
            What::Change { nth } => self.change(nth, now),
            What::Close => self.close(now),
        }
    }

    fn readings(&mut self, hour: u32, now: Duration) {
        let at = self.moment(now);
        for (region, readings) in self.course.readings.iter().enumerate() {
            let stale = conditions::at(self.scenario, self.course, region, now).stale;
            let reading = readings.get(hour as usize).or(readings.last()).filter(|_| !stale);
            for router in &mut self.routers {
                if let Some(intensity) = reading {
                    router.reading(region, *intensity, at);
                }
            }
        }
        self.plan(self.scenario.carbon_hour * (hour + 1), What::Readings { hour: hour + 1 });
    }

    fn change(&mut self, nth: u32, now: Duration) {
        for region in 0..self.sites.len() {
            let changes = conditions::at(self.scenario, self.course, region, now);
            let before = self.conditions.get(region).copied().flatten();
            if before == Some(changes) {
                continue;
            }
            if changes.down && before.is_none_or(|before| !before.down) {
                self.lose(region, now);
            }
            let (faults, others) = conditions::of_model(self.scenario, region, &changes);
            if let Some(site) = self.sites.get_mut(region) {
                let started = site.set(now, faults, others);
                self.start(&started);
                self.plan_end(region);
            }
            if let Some(slot) = self.conditions.get_mut(region) {
                *slot = Some(changes);
            }
        }
        if let Some(at) = self.changes.get(nth as usize + 1).copied() {
            self.plan(at, What::Change { nth: nth + 1 });
        }
    }

    /// Decides a request that has come, or that was held back.
    fn decide(&mut self, index: u32, now: Duration) {
        let mut at = self.moment(now);
        let Some(ask) = self.course.asks.get(index as usize) else { return };
        let proxy = index as usize % self.routers.len().max(1);
        let Some(router) = self.routers.get_mut(proxy) else { return };
        let decided = if let Some(held) = self.flights.remove(&index) {
            // The time of day of a request is that at which it came.
            at.wall = wall(self.scenario, ask.at);
            router.decide_again(&held.decided, ask.session, now.saturating_sub(ask.at), at)
        } else {
            let demand = Demand { body_bytes: ask.bytes as usize, max_output_tokens: None, streamed: true, embeddings: false };
            router.decide(route_of(ask.class, ask.resident), demand, ask.session, at)
        };
        let flight = Flight::new(proxy, decided);
        match &flight.decided.outcome {
            Outcome::Hold(span) if now.saturating_sub(ask.at) < LONGEST_HOLD => {
                let next = now + (*span).max(Duration::from_millis(1));
                self.flights.insert(index, flight);
                self.plan(next, What::Decide { ask: index });
            }
            Outcome::Serve(decision) => {
                if matches!(decision.reason, Reason::FastestOverBudget | Reason::LastResort) {
                    self.tally.spilled(ask);
                }
                self.flights.insert(index, flight);
                self.send(index, now);
            }
            Outcome::Hold(_) | Outcome::Refuse(_) | Outcome::Shed => {
                self.flights.insert(index, flight);
                self.over(index, now, End::Shed, None);
            }
        }
    }

    /// The next attempt of a request.
    fn send(&mut self, index: u32, now: Duration) {
        let at = self.moment(now);
        let (Some(flight), Some(ask)) = (self.flights.get_mut(&index), self.course.asks.get(index as usize)) else { return };
        let Some(router) = self.routers.get(flight.proxy) else { return };
        let Some(policy) = router.policy(flight.decided.route) else { return };
        let Some((attempt, candidate)) = flight.next(policy, now.saturating_sub(ask.at)) else { return };
        let region = candidate.backend.index();
        flight.permit = Some(router.dispatched(&candidate, attempt == 0, at));
        let last = ask.session.and_then(|session| self.warm.get(&session).copied());
        let cached = cached(self.scenario, last, ask, region, now);
        let Some(site) = self.sites.get_mut(region) else { return };
        let mut noise = noise_of(self.course.seed, index, attempt);
        let (admission, ticket) = site.arrive(now, index, ask.prompt - cached, &mut noise);
        flight.attempts.push(Attempt::new(region, now, cached, ticket));
        if attempt > 0 {
            self.tally.retried(ask);
        }
        let rtt = site.region().spec().rtt.to_duration();
        let mut known = |at, failure| self.plan(at, What::Known { ask: index, attempt, failure });
        match admission {
            Admission::Down => known(now + rtt, Failure::Unreachable),
            Admission::Refused { answer_at, retry_after } => known(answer_at, Failure::Refused(retry_after)),
            Admission::Failed { answer_at } => known(answer_at, Failure::Error),
            Admission::Queued { .. } => {}
            Admission::Started { start, .. } => self.start(&[(index, start.first_token_at)]),
        }
    }

    /// Requests that have got a slot.
    fn start(&mut self, started: &[(u32, Duration)]) {
        for (ask, at) in started {
            if let Some(flight) = self.flights.get(ask) {
                let attempt = flight.attempts.len().saturating_sub(1) as u8;
                self.plan(*at, What::FirstToken { ask: *ask, attempt });
            }
        }
    }

    fn first_token(&mut self, index: u32, nth: u8, now: Duration) {
        let Some(ask) = self.course.asks.get(index as usize) else { return };
        let Some(flight) = self.flights.get_mut(&index).filter(|flight| flight.is_at(nth)) else { return };
        let Some(candidate) = flight.candidate() else { return };
        let (Some(router), Some(permit)) = (self.routers.get(flight.proxy), flight.permit.as_mut()) else { return };
        let Some(attempt) = flight.attempts.last_mut() else { return };
        let (took, waited) = (now.saturating_sub(attempt.begun), now.saturating_sub(ask.at));
        let seen = FirstSeen { took, waited, now: self.origin + now };
        router.first_token(permit, &flight.decided, &candidate, seen);
        let (Some(site), Some(ticket)) = (self.sites.get_mut(attempt.region), attempt.ticket) else { return };
        attempt.first_token = Some(now);
        attempt.in_flight_then = permit.in_flight();
        site.first_token(now, ticket, ask.output.saturating_sub(1));
        attempt.tokens_then = site.tokens();
        let region = attempt.region;
        self.plan_end(region);
    }

    fn plan_end(&mut self, region: usize) {
        if let Some((at, version)) = self.sites.get(region).and_then(Site::next_end) {
            self.plan(at, What::End { region: region as u16, version });
        }
    }

    fn end(&mut self, region: usize, version: u64, now: Duration) {
        let Some((ended, started)) = self.sites.get_mut(region).and_then(|site| site.ended(now, version)) else { return };
        let started: Started = started;
        for ask in ended {
            self.answered(ask, now);
        }
        self.start(&started);
        self.plan_end(region);
    }

    fn answered(&mut self, index: u32, now: Duration) {
        let at = self.moment(now);
        let (Some(flight), Some(ask)) = (self.flights.get_mut(&index), self.course.asks.get(index as usize)) else { return };
        let (Some(candidate), Some(attempt)) = (flight.candidate(), flight.attempts.last_mut()) else { return };
        let first_token = attempt.first_token.unwrap_or(now);
        flight.permit = None;
        attempt.ended = now;
        attempt.answered = true;
        attempt.tokens = Some(counts(ask, attempt.cached, ask.output));
        let (region, begun, tokens) = (attempt.region, attempt.begun, attempt.tokens);
        if let Some(router) = self.routers.get(flight.proxy) {
            let seen = Seen {
                first_token: first_token.saturating_sub(begun),
                in_flight_then: attempt.in_flight_then,
                total: now.saturating_sub(begun),
                input_tokens: u64::from(ask.prompt),
                cached_tokens: u64::from(attempt.cached),
                output_tokens: u64::from(ask.output),
            };
            router.ended(&flight.decided, &candidate, &seen, at);
        }
        self.charge(ask, region, tokens, false);
        if let Some(session) = ask.session {
            self.warm.insert(session, (region, now));
        }
        let end = End::Answered { first_token: first_token.saturating_sub(ask.at), total: now.saturating_sub(ask.at) };
        self.over(index, now, end, Some(region));
    }

    /// A region is gone, with all that was under way in it.
    fn lose(&mut self, region: usize, now: Duration) {
        let lost = self.sites.get_mut(region).map(|site| site.empty(now)).unwrap_or_default();
        for index in lost {
            if let Some((nth, failure)) = self.cut(index) {
                self.known(index, nth, failure, now);
            }
        }
    }

    /// Books what the attempt under way has burned, now that it will not end. The whole prompt counts, as in the product's books.
    fn cut(&mut self, index: u32) -> Option<(u8, Failure)> {
        let ask = self.course.asks.get(index as usize)?;
        let flight = self.flights.get_mut(&index)?;
        let nth = flight.attempts.len().checked_sub(1)? as u8;
        let attempt = flight.attempts.last_mut().filter(|attempt| attempt.ticket.is_some() && attempt.failure.is_none())?;
        let (failure, output) = match attempt.first_token {
            Some(_) => {
                let steps = self.sites.get(attempt.region).map_or(0.0, Site::tokens) - attempt.tokens_then;
                (Failure::Cut, (steps as u32).saturating_add(1).min(ask.output))
            }
            None => (Failure::Broken, 0),
        };
        attempt.tokens = Some(counts(ask, attempt.cached, output));
        let (region, burned) = (attempt.region, attempt.tokens);
        self.charge(ask, region, burned, true);
        Some((nth, failure))
    }

    /// An attempt came to nothing: the next candidate is asked, if that may be.
    fn known(&mut self, index: u32, nth: u8, failure: Failure, now: Duration) {
        let at = self.moment(now);
        let (Some(flight), Some(ask)) = (self.flights.get_mut(&index), self.course.asks.get(index as usize)) else { return };
        if !flight.is_at(nth) {
            return;
        }
        let (Some(candidate), Some(router)) = (flight.candidate(), self.routers.get(flight.proxy)) else { return };
        if let Some(attempt) = flight.attempts.last_mut() {
            (attempt.failure, attempt.ended) = (Some(failure), now);
        }
        match failure {
            Failure::Refused(after) => {
                router.refused(candidate.backend, Some(after), at);
                self.tally.refused(ask);
            }
            Failure::Unreachable | Failure::Error | Failure::Broken | Failure::Cut => {
                router.failed(candidate.backend, &flight.decided, at);
            }
        }
        let attempts = router.policy(flight.decided.route).map(|policy| policy.attempts);
        let again = match failure {
            Failure::Refused(_) | Failure::Unreachable => true,
            Failure::Error | Failure::Broken => attempts.is_some_and(|attempts| attempts.retry_unsafe),
            Failure::Cut => false,
        };
        let more = flight.has_another(attempts.map_or(1, |attempts| attempts.max));
        if again && more && router.may_retry(at) {
            let pause = if failure == Failure::Broken { NOTICE } else { Duration::ZERO };
            self.plan(now + pause, What::Again { ask: index });
        } else {
            self.over(index, now, End::Failed, None);
        }
    }

    fn close(&mut self, now: Duration) {
        let mut left: Vec<u32> = self.flights.keys().copied().collect();
        left.sort_unstable();
        for index in left {
            self.cut(index);
            self.over(index, now, End::Failed, None);
        }
    }

    /// Books what a request burned somewhere, at the true intensity of the hour in which it came.
    fn charge(&mut self, ask: &Ask, region: usize, tokens: Option<TokenCounts>, wasted: bool) {
        if let Some(tokens) = tokens {
            let grams = truth(self.scenario, self.world, self.course, ask, region, tokens);
            self.tally.emitted(ask, grams, wasted);
        }
    }

    fn over(&mut self, index: u32, now: Duration, end: End, region: Option<usize>) {
        let (Some(mut flight), Some(ask)) = (self.flights.remove(&index), self.course.asks.get(index as usize)) else { return };
        flight.permit = None;
        self.tally.ended(ask, end, region);
        if let Some(router) = self.routers.get(flight.proxy) {
            let wall = wall(self.scenario, ask.at);
            let (decided, attempts) = (&flight.decided, &*flight.attempts);
            self.watch.ended(&Over { index, ask, router, wall, at: now, decided, attempts, end });
        }
    }
}

/// What a run came to.
#[derive(Clone, Debug, PartialEq)]
pub struct Finished {
    /// The figures.
    pub score: Score,
    /// All requests: answered, failed, shed.
    pub all: [u64; 3],
    /// What the proxies still counted as under way when all was over.
    pub under_way: (u64, u64),
}

//! Replicas that tell each other what they have in flight and what they have learned.
//!
//! A backend has one capacity, however many proxies send to it. A proxy that counts only its own requests fills a clean region as if
//! it had it alone, and learns a limit from answers that others have slowed down. So every replica says, many times a second, what it
//! has at each backend, and a few times a second what its responses taught and what it was asked for. The first are absolute numbers
//! and the second sums since its start, so a message that is lost is made up for by the next one. A decision then counts the others'
//! requests with its own ([`crate::live::Live::load`]); it waits for nobody.
//!
//! # What cannot hurt
//!
//! * **Forged**: a message ends with an HMAC under a shared secret ([`Seal`]).
//! * **Repeated**: messages of a run are counted up, and a number that is not higher is refused. A recording of an earlier run of either
//!   side says nothing, because a message names the runs that its sender has heard lately, and only whoever is named listens.
//! * **Lost, late, out of order**: the next one says it all again. No clock is held against another machine's. Until it does, a replica
//!   that
//!   is heard less than four times a second is taken to do as this process has done since ([`crate::live::Heard`]), to have as many prompt
//!   tokens waiting as it usually has, and, of whatever it speaks seldom, to be asked as this process is: in flight without demand would be
//!   a capacity that is full and a price of nothing.
//! * **Silent**: who is not heard for two seconds, or for twenty of its usual pauses where these are longer, is forgotten with all that it
//!   had in flight. If it was not at its end it comes back, and counts again once it has been heard eight times more without a long pause.
//!   When all fall silent at once, they may be cut off and still be sending, so for half a minute each backend is used as if they did as
//!   this process does; a replica that ends says so, and is not waited for.
//! * **Another plan or version**: names travel as hashes, unknown ones are passed over, and messages of another version are refused.
//! * **Absurd**: a load counts up to what the backend takes, and what a sum has grown by must be what responses can have summed up to.
//!
//! # What is not told
//!
//! * **Conversations**: which backend has what of a prompt at hand. A replica that did not serve the turn before takes it for cold, as
//!   one that runs alone does with a client it does not know; a balancer that keeps a session at one replica makes up for it. A table of
//!   conversations would be a hundred times what is told now, and tell every replica of every client.
//! * **Dollars**: there is nothing to tell. `max_usd_per_kg` weighs each request by itself, and no sum is kept that could run out.
//! * **The error budget** of a policy, which is about a replica's own clients; ids of what backends keep; health, refusals and quotas,
//!   which each replica meets itself within a few requests.
//! * **First tokens, between two sites**: from elsewhere the way to a backend is longer or shorter, so what they teach is only taken from
//!   whoever names the same site. Limits, token rates and demand are the same from everywhere.
//!
//! None of this makes a replica do worse than it would alone, by more than two in a hundred grams and two in a thousand missed: four of
//! them with messages every 20 and 500 ms, 200 ms late, in `simulate`, `eu/normal`, a day of seed 301 of recorded grids, as mg a request
//! and percentage missed, with all of that and without what is guessed of demand and of what waits, the patience and the trial:
//!
//! | of the messages are lost | with | without |
//! |---|---|---|
//! | none | 16.23 / 0.13 | 16.33 / 0.14 |
//! | 90 % | 16.42 / 0.12 | 16.69 / 0.14 |
//! | 97 % | 16.59 / 0.11 | 19.43 / 0.21 |
//! | 99 % | 16.65 / 0.14 | 20.20 / 1.64 |
//! | 99.7 % | 17.10 / 0.61 | - |
//! | 99.9 % | 16.80 / 0.63 | 18.53 / 1.54 |
//! | each of them alone | 16.77 / 0.53 | |
//!
//! Words that are late without being lost show no loss, and nobody's clock is another's: so each says a few times a second what time it
//! is by its own, and is told it again with how long that lay. From 0.7 s there and back on a replica counts no more until it takes 0.4 s.
//! That gives up the fewer misses that there were with words half a second to a second late, for grams that are no worse than alone
//! however late they come. Two days of the same, without losses:
//!
//! | late by | with | without that |
//! |---|---|---|
//! | 0.2 s | 16.02 / 0.14 | the same |
//! | 0.5 s | 16.61 / 0.65 | 16.52 / 0.17 |
//! | 0.7 s | 16.56 / 0.62 | - |
//! | 1 s | 16.56 / 0.55 | 17.09 / 0.16 |
//! | 3 s | 16.61 / 0.66 | 18.69 / 0.26 |
//! | each of them alone | 16.57 / 0.48 | |
//!
//! This module holds no socket and reads no clock: [`crate::control::peers`] carries the messages, and `simulate` does so in virtual time.

mod demand;
mod message;
mod names;
mod peer;
mod refused;
mod seal;

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use demand::Demand;
use message::{Entry, Head, Unread};
pub use message::{MOST_BYTES, MOST_PEERS};
use names::Names;
use peer::Peer;
pub use peer::SILENT_AFTER;
pub use refused::Refused;
pub use seal::Seal;

use crate::config::Plan;
use crate::live::{Heard, Load};
use crate::state::Snapshot;

/// Messages for one turn of either kind, each of at least forty loads or two models; what is left is said in the next turn.
const MOST_MESSAGES: usize = 16;
/// Ended runs whose last number is kept, so that a recording of them is known for one.
const MOST_GONE: usize = 256;
/// How long it is believed that others who fell silent all at once may go on sending. If they have ended, what balances the load has
/// sent their clients here long before.
const CUT_OFF_FOR: Duration = Duration::from_secs(30);
/// So far back it is looked how many there were.
const LATELY: Duration = Duration::from_secs(5);

/// One other replica, for people to read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PeerSeen {
    /// The random number of its run.
    pub run: u64,
    /// How long ago it was last heard; `None` when it does not hear this process.
    pub heard: Option<Duration>,
    /// How long words take to it and back; `None` while that is not known.
    pub way: Option<Duration>,
    /// Requests that it has in flight, over all backends.
    pub in_flight: u32,
    /// Whether it is at the site of this process, so that what it learns of first tokens is taken from it; `None` while it has not said.
    pub same_site: Option<bool>,
}

/// What this replica tells the others and has heard of them.
#[derive(Debug)]
pub struct Exchange {
    run: u64,
    seq: u64,
    site: u64,
    plan: Arc<Plan>,
    names: Names,
    peers: Vec<Peer>,
    gone: VecDeque<(u64, u64)>,
    next_load: usize,
    next_lesson: usize,
    /// When others were first and last looked at: the time that this process tells is counted from the first.
    looked: Option<(Instant, Instant)>,
    /// By `FlowId`: what this process had been asked for when it was last looked at.
    own_then: Vec<Demand>,
    /// The most that were heard at once lately, and when.
    lately: Option<(usize, Instant)>,
    /// When all fell silent.
    cut_off: Option<Instant>,
}

impl Exchange {
    /// Nobody was heard yet. `run` is a random number, another one for each process.
    pub fn new(run: u64, snapshot: &Snapshot) -> Self {
        let plan = Arc::clone(&snapshot.plan);
        let names = Names::of(&plan);
        let (peers, gone, own_then) = (Vec::new(), VecDeque::new(), Vec::new());
        Self {
            run,
            seq: 0,
            site: 0,
            plan,
            names,
            peers,
            gone,
            next_load: 0,
            next_lesson: 0,
            looked: None,
            own_then,
            lately: None,
            cut_off: None,
        }
    }

    /// The same at a site of that name; without one it is where all are that have none.
    #[must_use]
    pub fn at(self, site: &str) -> Self {
        Self { site: names::site(site), ..self }
    }

    /// What is to be said many times a second: what is in flight now. Never nothing, because silence means that one is gone.
    pub fn loads(&mut self, snapshot: &Snapshot) -> Vec<Vec<u8>> {
        self.follow(snapshot);
        let load = |index: usize| {
            let (name, backend) = (self.names.backends.get(index)?, self.plan.backends.get(index)?);
            let live = snapshot.live(backend.id);
            Some(Entry::Load(*name, Load { in_flight: live.in_flight(), pending_prompt_tokens: live.pending_prompt_tokens() }))
        };
        let (messages, next) =
            written(self.head().write(), &self.head().write(), self.names.backends.len(), self.next_load, load);
        self.next_load = next;
        self.numbered(messages)
    }

    /// What is to be said a few times a second: what responses taught, and what was asked for.
    pub fn lessons(&mut self, snapshot: &Snapshot) -> Vec<Vec<u8>> {
        self.follow(snapshot);
        self.guess(snapshot);
        let models = self.names.models.len();
        let lesson = |index: usize| {
            if let Some((name, backend, model)) = self.names.models.get(index) {
                let taught = snapshot.live(*backend).model(model)?.taught();
                return (taught.responses() > 0).then(|| Entry::Model(*name, Box::new(taught)));
            }
            let place = index - models;
            let asked = snapshot.flow(crate::route::FlowId(place as u32))?.own_totals();
            let any = asked.iter().any(|class| class.requests > 0);
            any.then_some(Entry::Flow(*self.names.flows.get(place)?, asked))
        };
        let mut empty = self.head().write();
        // There is room for them beside any other.
        let _ = Entry::Site(self.site).write(&mut empty);
        if let Some(time) = self.time() {
            let _ = Entry::Time(time).write(&mut empty);
        }
        let mut first = empty.clone();
        let echoes = self.peers.iter().filter_map(|peer| peer.echo(self.looked?.1));
        // There is room for those of as many as are heard.
        for echo in echoes {
            let _ = echo.write(&mut first);
        }
        let (messages, next) = written(first, &empty, models + self.names.flows.len(), self.next_lesson, lesson);
        self.next_lesson = next;
        self.numbered(messages)
    }

    /// It is that time: to be said before lessons are, which tell it.
    pub fn it_is(&mut self, now: Instant) {
        self.looked = Some((self.looked.map_or(now, |(first, _)| first), now));
    }

    /// The time that this process tells, in milliseconds; `None` before others were looked at.
    fn time(&self) -> Option<u64> {
        self.looked.map(|(first, last)| last.saturating_duration_since(first).as_millis() as u64)
    }

    /// What is to be said at the end.
    pub fn farewell(&mut self) -> Vec<Vec<u8>> {
        let mut message = self.head().write();
        // It is the only entry.
        let _ = Entry::Leaving.write(&mut message);
        self.numbered(vec![message])
    }

    fn head(&self) -> Head {
        // Those that listen first: others may be recordings, and there is room for so many only.
        let mut peers: Vec<&Peer> = self.peers.iter().collect();
        peers.sort_by_key(|peer| peer.heard.is_none());
        Head { run: self.run, seq: 0, heard: peers.iter().map(|peer| peer.run).collect() }
    }

    /// Counts the messages up.
    fn numbered(&mut self, mut messages: Vec<Vec<u8>>) -> Vec<Vec<u8>> {
        for message in &mut messages {
            self.seq += 1;
            // Behind the four bytes of the version and the run.
            if let Some(place) = message.get_mut(12..20) {
                place.copy_from_slice(&self.seq.to_le_bytes());
            }
        }
        messages
    }

    /// Takes in a message whose seal was good. What it says of loads counts from the next [`Self::look`] on: with many replicas that
    /// is far less work than to count anew for each message, and half a pause later in the mean.
    pub fn take(&mut self, message: &[u8], snapshot: &Snapshot, now: Instant) -> Result<(), Refused> {
        self.follow(snapshot);
        let (head, entries) = Head::read(message).map_err(|unread| match unread {
            Unread::Version => Refused::Version,
            Unread::Malformed => Refused::Malformed,
        })?;
        if head.run == self.run {
            return Err(Refused::Own);
        }
        let place = self.place(&head, now)?;
        let Some(peer) = self.peers.get_mut(place) else { return Err(Refused::Crowded) };
        (peer.seq, peer.seen) = (head.seq, now);
        if !head.heard.contains(&self.run) {
            return Err(Refused::Unmet);
        }
        peer.hears_us(now);
        let counts = peer.counts();
        let time = self.looked.map(|(first, _)| now.saturating_duration_since(first).as_millis() as u64);
        let mut site = 0;
        for entry in entries {
            match entry {
                None => return Err(Refused::Malformed),
                Some(Entry::Site(name)) => (site, peer.site) = (name, Some(name)),
                Some(Entry::Time(said)) => peer.says_time(said, now),
                Some(Entry::Echo { run, time: said, held }) if run == self.run => {
                    // What cannot be, since it would have come before it was said, took no time.
                    peer.took(Duration::from_millis(time.unwrap_or(said).saturating_sub(said).saturating_sub(held)));
                }
                Some(Entry::Leaving) => {
                    self.forget(place);
                    self.lately = None;
                    return Ok(());
                }
                Some(_) if !counts => {}
                Some(entry) => learn(entry, site == self.site, peer, &self.names, snapshot),
            }
        }
        Ok(())
    }

    /// The place of a message's sender, which may be new.
    fn place(&mut self, head: &Head, now: Instant) -> Result<usize, Refused> {
        if let Some(place) = self.peers.iter().position(|peer| peer.run == head.run) {
            let last = self.peers.get(place).map_or(0, |peer| peer.seq);
            return if head.seq > last { Ok(place) } else { Err(Refused::Repeated) };
        }
        if self.gone.iter().any(|(run, last)| *run == head.run && head.seq <= *last) {
            return Err(Refused::Repeated);
        }
        if self.peers.len() >= MOST_PEERS {
            // Whoever does not listen may be a recording, and makes room for whoever may not be.
            let unmet = self.peers.iter().position(|peer| peer.heard.is_none()).ok_or(Refused::Crowded)?;
            self.peers.remove(unmet);
        }
        let again = self.gone.iter().any(|(run, _)| *run == head.run);
        self.peers.push(Peer::new(head.run, again, now));
        Ok(self.peers.len() - 1)
    }

    fn forget(&mut self, place: usize) {
        let peer = self.peers.remove(place);
        // What never counted needs no remembering.
        if peer.heard.is_some() {
            self.gone.retain(|(run, _)| *run != peer.run);
            self.gone.push_back((peer.run, peer.seq));
            if self.gone.len() > MOST_GONE {
                self.gone.pop_front();
            }
        }
    }

    /// Makes what was heard count, and forgets who is silent; to be called before something is said. `others` is how many replicas there
    /// should be beside this
    /// one.
    pub fn look(&mut self, snapshot: &Snapshot, now: Instant, others: usize) {
        self.follow(snapshot);
        self.it_is(now);
        while let Some(silent) = self.peers.iter().position(|peer| peer.is_silent(now)) {
            self.forget(silent);
        }
        let heard = self.heard();
        let lately = self.lately.filter(|(_, at)| now.saturating_duration_since(*at) < LATELY);
        if heard > 0 {
            self.cut_off = None;
            if lately.is_none_or(|(most, _)| heard >= most) {
                self.lately = Some((heard, now));
            }
        } else if let Some((most, _)) = self.lately {
            let since = *self.cut_off.get_or_insert(now);
            if others == 0 || now.saturating_duration_since(since) >= CUT_OFF_FOR {
                (self.lately, self.cut_off) = (None, None);
            } else {
                self.lately = Some((most.min(others), now));
            }
        } else {
            self.cut_off = None;
        }
        self.publish(snapshot, now);
    }

    /// How many others are heard and count.
    pub fn heard(&self) -> usize {
        self.peers.iter().filter(|peer| peer.counts()).count()
    }

    /// The others, for people to read.
    pub fn seen(&self, now: Instant) -> Vec<PeerSeen> {
        let one = |peer: &Peer| PeerSeen {
            run: peer.run,
            heard: peer.heard.map(|heard| now.saturating_duration_since(heard)),
            way: peer.way(),
            in_flight: (0..self.plan.backends.len()).map(|index| peer.load(index, now).0.in_flight).fold(0, u32::saturating_add),
            same_site: peer.site.map(|site| site == self.site),
        };
        self.peers.iter().map(one).collect()
    }

    /// The random number of this process.
    pub const fn run(&self) -> u64 {
        self.run
    }

    /// How many fell silent all at once and may go on sending.
    fn cut_off(&self) -> usize {
        self.cut_off.and(self.lately).map_or(0, |(others, _)| others)
    }

    /// Counts what the others will have been asked for since the last time, as far as they have not said.
    fn guess(&mut self, snapshot: &Snapshot) {
        let cut_off = self.cut_off() as f64;
        for (index, name) in self.names.flows.iter().enumerate() {
            let Some(flow) = snapshot.flow(crate::route::FlowId(index as u32)) else { continue };
            let own = flow.own_totals();
            let Some(then) = self.own_then.get_mut(index) else {
                self.own_then.push(own);
                continue;
            };
            let Some(grown) = demand::since(&own, &std::mem::replace(then, own)) else { continue };
            let mut more = grown.map(|class| class.times(cut_off));
            for peer in self.peers.iter_mut().filter(|peer| peer.counts()) {
                if let Some(guessed) = peer.guess(*name, &grown) {
                    more = demand::plus(&more, &guessed);
                }
            }
            flow.asked_elsewhere(&more);
        }
    }

    /// Makes what was heard count in decisions.
    fn publish(&self, snapshot: &Snapshot, now: Instant) {
        let cut_off = self.cut_off() as u16;
        for (index, backend) in self.plan.backends.iter().enumerate() {
            let mut all = Heard { guessed: cut_off, ..Heard::default() };
            for peer in self.peers.iter().filter(|peer| peer.counts()) {
                let (load, own_then) = peer.load(index, now);
                all.in_flight = all.in_flight.saturating_add(load.in_flight.min(backend.max_in_flight));
                all.pending_prompt_tokens = all.pending_prompt_tokens.saturating_add(load.pending_prompt_tokens);
                if peer.is_seldom_heard(now) {
                    all.guessed += 1;
                    all.own_then = all.own_then.saturating_add(own_then);
                }
            }
            snapshot.live(backend.id).hear(all);
        }
    }

    /// Speaks of the snapshot's plan from now on.
    fn follow(&mut self, snapshot: &Snapshot) {
        if Arc::ptr_eq(&self.plan, &snapshot.plan) {
            return;
        }
        self.plan = Arc::clone(&snapshot.plan);
        let old = std::mem::replace(&mut self.names, Names::of(&self.plan));
        self.peers.iter_mut().for_each(|peer| peer.rename(&old, &self.names));
        (self.next_load, self.next_lesson) = (0, 0);
        self.own_then.clear();
    }
}

/// Messages of which the first begins with `first` and others with `empty`, with as many entries as fit, from the one at `from` on and
/// around; and where the next turn goes on.
fn written(
    first: Vec<u8>,
    empty: &[u8],
    all: usize,
    from: usize,
    entry: impl Fn(usize) -> Option<Entry>,
) -> (Vec<Vec<u8>>, usize) {
    let mut messages = vec![first];
    for step in 0..all {
        let index = (from + step) % all;
        let Some(entry) = entry(index) else { continue };
        if messages.last_mut().is_some_and(|message| entry.write(message)) {
            continue;
        }
        if messages.len() == MOST_MESSAGES {
            return (messages, index);
        }
        let mut message = empty.to_vec();
        // Any entry fits into a message of its own.
        let _ = entry.write(&mut message);
        messages.push(message);
    }
    (messages, 0)
}

/// Prompt tokens that a request in flight may have pending: the longest context that is sold, so that an absurd number ends there.
const MOST_PENDING: u64 = 2 << 20;

/// Takes in one thing that a replica said, which is as far from all backends as this one or not. Names of another plan are passed over.
fn learn(entry: Entry, near: bool, peer: &mut Peer, names: &Names, snapshot: &Snapshot) {
    match entry {
        Entry::Load(name, load) => {
            if let Some(backend) = names.backend(name) {
                let in_flight = load.in_flight.min(snapshot.plan.backend(backend).max_in_flight);
                let most = u64::from(in_flight).saturating_mul(MOST_PENDING);
                let load = Load { pending_prompt_tokens: load.pending_prompt_tokens.min(most), ..load };
                peer.set_load(backend.index(), load, snapshot.live(backend).in_flight());
            }
        }
        Entry::Model(name, taught) => {
            if let Some((backend, model)) = names.model(name)
                && let (Some(grown), Some(known)) = (peer.taught(name, *taught), snapshot.live(backend).model(model))
            {
                known.hear(&if near { grown } else { grown.without_first_tokens() });
            }
        }
        Entry::Flow(name, asked) => {
            if let Some(id) = names.flow(name)
                && let (Some(grown), Some(flow)) = (peer.asked(name, asked), snapshot.flow(id))
            {
                flow.asked_elsewhere(&grown);
            }
        }
        Entry::Leaving | Entry::Site(_) | Entry::Time(_) | Entry::Echo { .. } | Entry::Other => {}
    }
}

#[cfg(test)]
mod adverse_tests;
#[cfg(test)]
mod tests;

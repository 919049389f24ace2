//! One other replica, as far as it has been heard.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use super::demand::{Demand, Word};
use super::message::Entry;
use super::names::Names;
use crate::live::{Load, Taught};

/// Whoever is not heard for so long is taken for gone: a hundredfold of the usual pause, and far below what a request lasts ..
pub const SILENT_AFTER: Duration = Duration::from_secs(2);
/// .. unless so many of its own usual pauses are longer: where nearly all messages are lost, two seconds without one are nothing new,
/// and each time that a replica is forgotten and met again turns the meaning of what all have learned around ..
const PAUSES: f64 = 20.0;
/// .. and no longer than this: what it did a minute ago says nothing.
const LONGEST_SILENCE: Duration = Duration::from_mins(1);
/// Whoever was taken for gone and comes back counts after so many messages ..
const TRIAL: u32 = 8;
/// .. without a longer pause than this between them. With one message in a thousand everybody is better off alone.
const TRIAL_PAUSE: Duration = Duration::from_secs(4);
/// Weight of one message in the prompt tokens that a replica usually has waiting.
const USUAL_PENDING: f64 = 0.1;
/// Whoever is heard no more often than this is not counted by what it said alone. Simulation lost two points of the possible saving at
/// one second when it was, and most of a half at a quarter of a second.
const SELDOM: Duration = Duration::from_millis(250);
/// Weight of one pause in the usual one.
const SMOOTHING: f64 = 0.2;
/// Whoever's words take so long, there and back, counts no more: half of it is how old a load is when it is heard. Of words that overtake
/// each other the quick ones are heard, so this is less than the mean of their ways, of which simulation had a gain at 0.2 s and a loss
/// of grams at 0.7 s ..
const LATE: Duration = Duration::from_millis(700);
/// .. and counts again when they take no more than this.
const IN_TIME: Duration = Duration::from_millis(400);
/// Weight of one way, there and back, in the usual one. One message that is late makes nobody late.
const WAY_SMOOTHING: f64 = 0.2;
/// Names of which the last word is kept for one replica; a plan of a thousand backends with four models each.
const MOST_NAMES: usize = 4096;

/// Another replica.
#[derive(Debug)]
pub(super) struct Peer {
    pub(super) run: u64,
    /// The last message of it that was taken.
    pub(super) seq: u64,
    /// When any message of it came last.
    pub(super) seen: Instant,
    /// When one came that was meant for this process; `None` when none did.
    pub(super) heard: Option<Instant>,
    /// The usual pause between those, in seconds.
    pause: f64,
    /// Its site as it said last: 0 is where all are that name none.
    pub(super) site: Option<u64>,
    /// Messages that it has yet to be heard with before it counts.
    trial: u32,
    /// What it last said of its time, and when that came.
    said: Option<(u64, Instant)>,
    /// How long words usually take there and back, in seconds, once that is known.
    way: Option<f64>,
    /// Whether that is too long.
    late: bool,
    /// By `BackendId`.
    there: Vec<There>,
    /// What it said last of each model and flow, from which the next is told apart.
    models: HashMap<u64, Taught>,
    flows: HashMap<u64, Word>,
}

/// What a replica has at a backend.
#[derive(Clone, Copy, Debug, Default)]
struct There {
    load: Load,
    /// What this process had in flight when it said so.
    own: u32,
    /// Prompt tokens that it usually has waiting there.
    usual_pending: f64,
}

impl Peer {
    /// One that is new; `again` says that it was taken for gone before.
    pub(super) fn new(run: u64, again: bool, now: Instant) -> Self {
        Self {
            run,
            seq: 0,
            seen: now,
            heard: None,
            pause: 0.0,
            site: None,
            trial: if again { TRIAL } else { 0 },
            said: None,
            way: None,
            late: false,
            there: Vec::new(),
            models: HashMap::new(),
            flows: HashMap::new(),
        }
    }

    /// A message came that was meant for this process.
    pub(super) fn hears_us(&mut self, now: Instant) {
        if let Some(before) = self.heard.replace(now) {
            let pause = now.saturating_duration_since(before);
            self.pause += SMOOTHING * (pause.as_secs_f64() - self.pause);
            if self.trial > 0 {
                self.trial = if pause <= TRIAL_PAUSE { self.trial - 1 } else { TRIAL };
            }
        }
    }

    /// Whether what it says counts.
    pub(super) fn counts(&self) -> bool {
        self.heard.is_some() && self.trial == 0 && !self.late
    }

    /// It says what time it is there.
    pub(super) fn says_time(&mut self, time: u64, now: Instant) {
        self.said = Some((time, now));
    }

    /// What it is to be told of its own time: the last that it said, and how many milliseconds ago.
    pub(super) fn echo(&self, now: Instant) -> Option<Entry> {
        let (time, at) = self.said?;
        Some(Entry::Echo { run: self.run, time, held: now.saturating_duration_since(at).as_millis() as u64 })
    }

    /// How long they usually take.
    pub(super) fn way(&self) -> Option<Duration> {
        self.way.map(Duration::from_secs_f64)
    }

    /// Words have taken so long there and back.
    pub(super) fn took(&mut self, way: Duration) {
        let way = way.as_secs_f64();
        let usual = self.way.get_or_insert(way);
        *usual += WAY_SMOOTHING * (way - *usual);
        let late = *usual >= if self.late { IN_TIME } else { LATE }.as_secs_f64();
        if std::mem::replace(&mut self.late, late) && !late {
            // As of one that is met anew, its next word is what later ones are told apart from.
            self.there.clear();
            self.models.clear();
            self.flows.clear();
        }
    }

    /// Whether it is heard so seldom that what it said is old.
    pub(super) fn is_seldom_heard(&self, now: Instant) -> bool {
        let since = self.heard.map_or(Duration::ZERO, |heard| now.saturating_duration_since(heard));
        self.pause.max(since.as_secs_f64()) >= SELDOM.as_secs_f64()
    }

    /// Whether it has been silent for too long.
    pub(super) fn is_silent(&self, now: Instant) -> bool {
        let patience = Duration::from_secs_f64(self.pause * PAUSES).clamp(SILENT_AFTER, LONGEST_SILENCE);
        now.saturating_duration_since(self.heard.unwrap_or(self.seen)) >= patience
    }

    pub(super) fn set_load(&mut self, backend: usize, load: Load, own: u32) {
        if self.there.len() <= backend {
            self.there.resize(backend + 1, There::default());
        }
        if let Some(there) = self.there.get_mut(backend) {
            let usual_pending = there.usual_pending + USUAL_PENDING * (load.pending_prompt_tokens as f64 - there.usual_pending);
            *there = There { load, own, usual_pending };
        }
    }

    /// What it has at a backend, and what this process had when it said so. A prompt waits for a tenth of a second: what waited when it
    /// was last heard is no measure of what waits now where that was long ago, and what usually does is a better one.
    pub(super) fn load(&self, backend: usize, now: Instant) -> (Load, u32) {
        let There { load, own, usual_pending } = self.there.get(backend).copied().unwrap_or_default();
        let pending_prompt_tokens = if self.is_seldom_heard(now) { usual_pending as u64 } else { load.pending_prompt_tokens };
        (Load { pending_prompt_tokens, ..load }, own)
    }

    /// What its responses taught since it last said so; `None` when it never did, or when that cannot be.
    pub(super) fn taught(&mut self, name: u64, now: Taught) -> Option<Taught> {
        let grown = self.models.get(&name).and_then(|before| now.since(before));
        keep(&mut self.models, name, now);
        grown
    }

    /// What is to be counted because it says what it was asked for; likewise.
    pub(super) fn asked(&mut self, name: u64, now: Demand) -> Option<Demand> {
        if let Some(word) = self.flows.get_mut(&name) {
            return word.next(now);
        }
        keep(&mut self.flows, name, Word::first(now));
        None
    }

    /// This process was asked for so much more: what it will have been, if it speaks of such requests at all.
    pub(super) fn guess(&mut self, name: u64, own: &Demand) -> Option<Demand> {
        self.flows.get_mut(&name).map(|word| word.guess(own))
    }

    /// Another plan is in force: what is known goes on by name.
    pub(super) fn rename(&mut self, old: &Names, new: &Names) {
        let place = |name: &u64| old.backend(*name).and_then(|id| self.there.get(id.index())).copied();
        self.there = new.backends.iter().map(|name| place(name).unwrap_or_default()).collect();
        self.models.retain(|name, _| new.model(*name).is_some());
        self.flows.retain(|name, _| new.flow(*name).is_some());
    }
}

fn keep<T>(words: &mut HashMap<u64, T>, name: u64, word: T) {
    if words.len() < MOST_NAMES || words.contains_key(&name) {
        words.insert(name, word);
    }
}

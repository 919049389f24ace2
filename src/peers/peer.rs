//! One other replica, as far as it has been heard.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use super::names::Names;
use crate::live::{Asked, Load, PROMPT_CLASSES, Taught};

/// Whoever is not heard for so long is taken for gone: a hundredfold of the usual pause, and far below what a request lasts.
pub const SILENT_AFTER: Duration = Duration::from_secs(2);
/// Whoever is heard no more often than this is not counted by what it said alone. Simulation lost two points of the possible saving at
/// one second when it was, and most of a half at a quarter of a second.
const SELDOM: Duration = Duration::from_millis(250);
/// Weight of one pause in the usual one.
const SMOOTHING: f64 = 0.2;
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
    /// By `BackendId`: what it has there.
    loads: Vec<Load>,
    /// By `BackendId`: what this process had in flight when it said so.
    own_then: Vec<u32>,
    /// What it said last of each model and flow, from which the next is told apart.
    models: HashMap<u64, Taught>,
    flows: HashMap<u64, [Asked; PROMPT_CLASSES]>,
}

impl Peer {
    pub(super) fn new(run: u64, now: Instant) -> Self {
        Self {
            run,
            seq: 0,
            seen: now,
            heard: None,
            pause: 0.0,
            loads: Vec::new(),
            own_then: Vec::new(),
            models: HashMap::new(),
            flows: HashMap::new(),
        }
    }

    /// A message came that was meant for this process.
    pub(super) fn hears_us(&mut self, now: Instant) {
        if let Some(before) = self.heard.replace(now) {
            let pause = now.saturating_duration_since(before).as_secs_f64();
            self.pause += SMOOTHING * (pause - self.pause);
        }
    }

    /// Whether it is heard so seldom that what it said is old.
    pub(super) fn is_seldom_heard(&self, now: Instant) -> bool {
        let since = self.heard.map_or(Duration::ZERO, |heard| now.saturating_duration_since(heard));
        self.pause.max(since.as_secs_f64()) >= SELDOM.as_secs_f64()
    }

    /// Whether it has been silent for too long.
    pub(super) fn is_silent(&self, now: Instant) -> bool {
        now.saturating_duration_since(self.heard.unwrap_or(self.seen)) >= SILENT_AFTER
    }

    pub(super) fn set_load(&mut self, backend: usize, load: Load, own: u32) {
        let places = backend + 1;
        if self.loads.len() < places {
            self.loads.resize(places, Load::default());
            self.own_then.resize(places, 0);
        }
        if let (Some(slot), Some(then)) = (self.loads.get_mut(backend), self.own_then.get_mut(backend)) {
            (*slot, *then) = (load, own);
        }
    }

    /// What it has at a backend, and what this process had when it said so.
    pub(super) fn load(&self, backend: usize) -> (Load, u32) {
        let own = self.own_then.get(backend).copied().unwrap_or_default();
        (self.loads.get(backend).copied().unwrap_or_default(), own)
    }

    /// What its responses taught since it last said so; `None` when it never did, or when that cannot be.
    pub(super) fn taught(&mut self, name: u64, now: Taught) -> Option<Taught> {
        let grown = self.models.get(&name).and_then(|before| now.since(before));
        keep(&mut self.models, name, now);
        grown
    }

    /// What it was asked for since it last said so; likewise.
    pub(super) fn asked(&mut self, name: u64, now: [Asked; PROMPT_CLASSES]) -> Option<[Asked; PROMPT_CLASSES]> {
        let before = self.flows.get(&name).copied();
        keep(&mut self.flows, name, now);
        let mut grown = before?;
        for (class, now) in grown.iter_mut().zip(now) {
            *class = now.since(class)?;
        }
        Some(grown)
    }

    /// Another plan is in force: what is known goes on by name.
    pub(super) fn rename(&mut self, old: &Names, new: &Names) {
        let place = |name: &u64| old.backend(*name).map(|id| self.load(id.index()));
        let (loads, own_then) = new.backends.iter().map(|name| place(name).unwrap_or_default()).unzip();
        (self.loads, self.own_then) = (loads, own_then);
        self.models.retain(|name, _| new.model(*name).is_some());
        self.flows.retain(|name, _| new.flow(*name).is_some());
    }
}

fn keep<T>(words: &mut HashMap<u64, T>, name: u64, word: T) {
    if words.len() < MOST_NAMES || words.contains_key(&name) {
        words.insert(name, word);
    }
}

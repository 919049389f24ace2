//! The figures of the live view, taken from where every figure of Windward comes from: the access log.
//!
//! The log is read as it grows. So the view counts requests that somebody else sends, too, and shows nothing that the report at the
//! end could not.

use std::collections::{HashMap, VecDeque};
use std::io::{BufRead, BufReader, Read};

use sketches_ddsketch::{Config, DDSketch};

use crate::record::AccessRecord;
use crate::units::{Grams, GramsSaved, Millis};

/// The latest requests that a region's share is taken of: a few seconds of traffic, so that a turn of the grid can be seen.
const LATEST: usize = 200;

/// What the log has said so far.
pub struct Tally<R> {
    log: BufReader<R>,
    line: Vec<u8>,
    latest: VecDeque<String>,
    first_tokens: HashMap<String, DDSketch>,
    /// Lines read.
    pub requests: u64,
    /// Emitted.
    pub grams: Grams,
    /// What the baseline would have emitted.
    pub baseline: Grams,
    /// The difference.
    pub saved: GramsSaved,
}

impl<R: Read> Tally<R> {
    /// Nothing read yet.
    pub fn new(log: R) -> Self {
        Self {
            log: BufReader::new(log),
            line: Vec::new(),
            latest: VecDeque::new(),
            first_tokens: HashMap::new(),
            requests: 0,
            grams: Grams::ZERO,
            baseline: Grams::ZERO,
            saved: GramsSaved::default(),
        }
    }

    /// Reads what has been written since the last time. A line that is only half there waits for its other half.
    pub fn catch_up(&mut self) -> std::io::Result<()> {
        while self.log.read_until(b'\n', &mut self.line)? > 0 && self.line.ends_with(b"\n") {
            let line = std::mem::take(&mut self.line);
            if let Ok(record) = serde_json::from_slice::<AccessRecord<'_>>(&line) {
                self.count(&record);
            }
        }
        Ok(())
    }

    fn count(&mut self, record: &AccessRecord<'_>) {
        self.requests += 1;
        if let Some(emissions) = &record.emissions {
            self.grams += emissions.grams;
            self.baseline += emissions.baseline_grams;
            self.saved += emissions.saved_grams;
        }
        let Some(backend) = &record.backend else { return };
        if let Some(first) = record.first_token_ms.filter(|_| record.stream) {
            let sketch = self.first_tokens.entry(backend.to_string()).or_insert_with(|| DDSketch::new(Config::defaults()));
            sketch.add(first.get());
        }
        self.latest.push_back(backend.to_string());
        if self.latest.len() > LATEST {
            self.latest.pop_front();
        }
    }

    /// A backend's share of the latest requests.
    pub fn share(&self, backend: &str) -> f64 {
        let count = self.latest.iter().filter(|name| *name == backend).count();
        count as f64 / self.latest.len().max(1) as f64
    }

    /// A backend's time to the first token at a quantile, of its streams.
    pub fn first_token(&self, backend: &str, quantile: f64) -> Option<Millis> {
        Millis::new(self.first_tokens.get(backend)?.quantile(quantile).ok()??)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_that_is_half_written_waits() {
        let sample = include_str!("../../../tests/cases/log/sample.jsonl");
        let whole = sample.lines().next().unwrap().to_owned() + "\n";
        let (first, second) = whole.split_at(100);
        let mut tally = Tally::new(first.as_bytes());
        tally.catch_up().unwrap();
        assert_eq!(tally.requests, 0);
        tally.log = BufReader::new(second.as_bytes());
        tally.catch_up().unwrap();
        assert_eq!(tally.requests, 1);
        assert!(tally.grams.get() > 0.0);
    }
}

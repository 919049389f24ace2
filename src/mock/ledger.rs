//! What a simulated region served, from its own point of view: the truth against which a proxy's log is checked.

use std::collections::VecDeque;
use std::time::Duration;

use serde::{Deserialize, Serialize};

/// Rows kept: a few minutes at the highest rate that two cores can serve, in about 30 MB.
const MAX_ROWS: usize = 100_000;

/// One request and what became of it. Times are milliseconds since the fleet started.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Row {
    /// The `x-request-id` that came with it, or one that the region made up.
    pub id: String,
    /// The region's name.
    pub region: String,
    /// The path that was called.
    pub path: String,
    /// When its head was read.
    pub arrival_ms: f64,
    /// When the first token was there; on a stream it left at once.
    pub first_byte_ms: Option<f64>,
    /// When it was over.
    pub end_ms: f64,
    /// Tokens of the prompt.
    pub prompt_tokens: u32,
    /// Tokens generated, also when nobody was left to read them.
    pub output_tokens: u32,
    /// The status answered; none when there was no answer.
    pub status: Option<u16>,
    /// Whether the whole answer was generated.
    pub complete: bool,
    /// Whether the client went away before that.
    pub cancelled: bool,
}

/// The last rows of one region.
#[derive(Debug, Default)]
pub(super) struct Ledger {
    rows: VecDeque<Row>,
}

impl Ledger {
    pub(super) fn push(&mut self, row: Row) {
        if self.rows.len() == MAX_ROWS {
            self.rows.pop_front();
        }
        self.rows.push_back(row);
    }

    pub(super) fn clear(&mut self) {
        self.rows.clear();
    }

    pub(super) fn rows(&self) -> Vec<Row> {
        self.rows.iter().cloned().collect()
    }
}

/// As the ledger writes times.
pub(super) fn millis(at: Duration) -> f64 {
    at.as_secs_f64() * 1e3
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_oldest_rows_go_first() {
        let mut ledger = Ledger::default();
        for i in 0..=MAX_ROWS {
            ledger.push(Row { id: i.to_string(), ..Row::default() });
        }
        let rows = ledger.rows();
        assert_eq!((rows.len(), rows[0].id.as_str()), (MAX_ROWS, "1"));
    }
}

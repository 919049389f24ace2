//! What the proxy says about itself: the access log, the metrics and the diagnostics.
//!
//! The three are kept apart because they are for different readers and fail differently. A line of the access log is evidence: it
//! is numbered, and a lost one shows. A metric is a sum that may be read at any moment. A diagnostic is for whoever mends the
//! machine. None of them may ever hold up a request.

pub mod json;
pub mod line;
pub mod log;
pub mod metrics;
pub mod trace;

mod buffer;
mod exposition;
mod kept;
mod sink;
mod writer;

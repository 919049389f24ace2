//! Other replicas.

use std::time::Duration;

/// Between two messages on what is in flight: in simulation 50 ms lost a few tenths of a point against knowing at once, and a second
/// two points.
pub(in crate::config) const FAST: Duration = Duration::from_millis(50);
/// Between two on what was learned, which changes more slowly.
pub(in crate::config) const SLOW: Duration = Duration::from_millis(500);
/// Not more often: a thousand messages a second to each of many replicas would be traffic of its own.
pub(in crate::config) const MOST_OFTEN: Duration = Duration::from_millis(1);

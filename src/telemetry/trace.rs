//! Diagnostics for whoever mends the machine: on standard error, so that standard output stays free for the access log.

use std::io::IsTerminal;

use tracing_subscriber::EnvFilter;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;

/// What is said unless the operator asks for more or less.
pub const DEFAULT_FILTER: &str = "info";

/// Why diagnostics could not be set up.
#[derive(Debug, thiserror::Error)]
pub enum TraceError {
    /// The filter is none.
    #[error("`{filter}` is not a filter such as `info` or `warn,windward=debug`: {error}")]
    Filter {
        /// What was given.
        filter: String,
        /// Where it fails.
        error: tracing_subscriber::filter::ParseError,
    },
    /// It was done already.
    #[error("diagnostics are set up already")]
    Twice,
}

/// Sends diagnostics to standard error from now on: those that `filter` lets pass (as `RUST_LOG` has it; [`DEFAULT_FILTER`]
/// without one), as JSON lines or as text, with colour only on a terminal.
pub fn install(filter: Option<&str>, json: bool) -> Result<(), TraceError> {
    let filter = parse(filter.unwrap_or(DEFAULT_FILTER))?;
    let registry = tracing_subscriber::registry().with(filter);
    let layer = tracing_subscriber::fmt::layer().with_writer(std::io::stderr).with_target(false);
    let done = if json {
        registry.with(layer.json().flatten_event(true).with_target(true)).try_init()
    } else {
        registry.with(layer.with_ansi(std::io::stderr().is_terminal())).try_init()
    };
    done.map_err(|_| TraceError::Twice)
}

fn parse(filter: &str) -> Result<EnvFilter, TraceError> {
    let filter = EnvFilter::try_new(filter).map_err(|error| TraceError::Filter { filter: filter.to_owned(), error })?;
    // It traces every field that a client signed, and a client may sign its secrets.
    Ok("aws_sigv4=off".parse().map_or_else(|_| EnvFilter::new("off"), |off| filter.add_directive(off)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_filter_is_checked_before_it_is_used() {
        assert!(parse("warn,windward::control=debug").is_ok());
        let error = parse("windward=loud").unwrap_err();
        assert!(error.to_string().starts_with("`windward=loud` is not a filter"), "{error}");
    }
}

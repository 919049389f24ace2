//! The shipped facts: where each cloud region draws its power, how clean that grid was over a year, what its building adds,
//! what a token costs, and which model is reached where.
//!
//! They are CSV files compiled into the program, each value with its source and year, because a default that nobody can look up
//! is a claim that nobody can check. They are parsed once, on first use and never on a request's path; that every row parses is
//! held by the tests, so that a bad table cannot leave the build. Anything here can be overridden by the configuration.

mod catalogue;
mod endpoints;
mod energy;
mod glob;
mod places;
mod regions;
mod render;
mod similar;
mod withheld;

pub use catalogue::{Catalogue, Found, Offer, Profile, Reach};
pub use endpoints::{Endpoint, HostPattern};
pub use energy::{Band, Coefficients, EnergyBand, EnergyQuality, EnergyTable, Override, TokenCounts};
pub use glob::{Glob, GlobError};
pub use places::Place;
pub use regions::{PueScope, Region, Regions, Zone};
pub use render::{to_csv, to_text};
pub use similar::nearest;
pub use withheld::{FIELDS as WITHHELD_FIELDS, PARAMETERS as WITHHELD_PARAMETERS, withholds_field, withholds_parameter};

/// A shipped row that does not parse. It cannot be met in a build whose tests passed.
#[derive(Debug, thiserror::Error)]
pub enum TableError {
    /// The file is no CSV of the expected columns.
    #[error("the shipped table is not readable: {0}")]
    Csv(#[from] csv::Error),
    /// A value is outside what its column allows.
    #[error("row {row}: {what}")]
    Value {
        /// The row's name in the table.
        row: String,
        /// What is wrong with it.
        what: &'static str,
    },
}

impl TableError {
    fn value(row: &str, what: &'static str) -> Self {
        Self::Value { row: row.to_owned(), what }
    }
}

/// Reads a shipped file: comma separated, a header, and comment lines that begin with `#`.
fn reader(text: &str) -> csv::Reader<&[u8]> {
    csv::ReaderBuilder::new().comment(Some(b'#')).from_reader(text.as_bytes())
}

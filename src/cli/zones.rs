//! `windward zones`: the shipped table of cloud regions.

use std::io::{ErrorKind, Write};
use std::process::ExitCode;

use clap::Args;

use crate::tables::{Regions, to_csv, to_text};

/// Arguments of `windward zones`.
#[derive(Debug, Args)]
pub struct ZonesArgs {
    /// Part of a region's name, city or grid zone; all when absent
    text: Option<String>,
    /// As CSV
    #[arg(long)]
    csv: bool,
}

/// Prints the rows that match; exit code 1 when none does.
pub fn run(args: &ZonesArgs) -> anyhow::Result<ExitCode> {
    let table = Regions::shipped();
    let text = args.text.as_deref().unwrap_or_default();
    let rows = table.search(text);
    if rows.is_empty() {
        let hint = table.suggest(text).map(|name| format!("; did you mean {name}?")).unwrap_or_default();
        anyhow::bail!("no region matches {text:?}{hint}");
    }
    let out = if args.csv { to_csv(&rows) } else { to_text(&rows) };
    match std::io::stdout().lock().write_all(out.as_bytes()) {
        Err(error) if error.kind() != ErrorKind::BrokenPipe => Err(error.into()),
        _ => Ok(ExitCode::SUCCESS),
    }
}

//! `windward schema`: the JSON schema of the configuration.

use std::io::Write as _;
use std::process::ExitCode;

use clap::Args;

/// Prints the JSON schema of the configuration, for editors.
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  windward schema > windward.schema.json\n  \
    # then, as the first line of windward.yaml:\n  # yaml-language-server: $schema=windward.schema.json")]
pub struct SchemaArgs {}

/// Prints it to standard output.
pub fn run(_args: &SchemaArgs) -> anyhow::Result<ExitCode> {
    std::io::stdout().write_all(crate::config::schema().as_bytes())?;
    Ok(ExitCode::SUCCESS)
}

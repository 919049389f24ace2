//! `windward check`: every problem of a configuration at once.

use std::io::Write as _;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Context as _;
use clap::Args;

use super::surroundings::{Disk, environment};
use crate::config::{self, Loaded};
use crate::control::reload::read_configuration;

/// Checks a configuration and shows everything that is wrong with it.
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  windward check windward.yaml && windward serve -c windward.yaml")]
pub struct CheckArgs {
    /// The configuration.
    pub file: PathBuf,
}

/// Problems and warnings go to standard error, a summary to standard output. Exit code 1 when the file cannot be used, and an
/// error (which the caller makes code 1 too) when it cannot be read.
pub fn run(args: &CheckArgs) -> anyhow::Result<ExitCode> {
    let name = args.file.display().to_string();
    let text = read_configuration(&args.file).with_context(|| format!("cannot read {name}"))?;
    match config::load(&name, &text, &environment(), &Disk) {
        Ok(loaded) => {
            for warning in &loaded.warnings {
                writeln!(std::io::stderr(), "{warning}")?;
            }
            writeln!(std::io::stdout(), "{name}: {}", summary(&loaded))?;
            Ok(ExitCode::SUCCESS)
        }
        Err(errors) => {
            let count = errors.problems.len();
            writeln!(std::io::stderr(), "{errors}\n{name}: {count} {}", if count == 1 { "problem" } else { "problems" })?;
            Ok(ExitCode::FAILURE)
        }
    }
}

fn summary(loaded: &Loaded) -> String {
    let counted = |count: usize, one: &str, many: &str| format!("{count} {}", if count == 1 { one } else { many });
    let plan = &loaded.plan;
    let mut text = format!(
        "ok: {}, {} in {}",
        counted(plan.routes.len(), "route", "routes"),
        counted(plan.backends.len(), "backend", "backends"),
        counted(plan.zones.len(), "grid zone", "grid zones"),
    );
    if !loaded.warnings.is_empty() {
        text.push_str(", ");
        text.push_str(&counted(loaded.warnings.len(), "warning", "warnings"));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tells_good_from_bad_by_its_exit_code() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("windward.yaml");
        let args = CheckArgs { file: file.clone() };
        assert!(run(&args).unwrap_err().to_string().starts_with("cannot read "));
        std::fs::write(&file, "backends: [{ name: a, url: 'http://127.0.0.1:8000', grid_zone: DE }]").unwrap();
        assert_eq!(run(&args).unwrap(), ExitCode::SUCCESS);
        std::fs::write(&file, "backends: [{ name: a, url: nowhere }]").unwrap();
        assert_eq!(run(&args).unwrap(), ExitCode::FAILURE);
    }

    #[test]
    fn a_summary_counts() {
        let text = "backends: [{ name: a, url: 'http://127.0.0.1:8000' }]";
        let loaded = config::load("x", text, &config::Env::default(), &Disk).unwrap();
        assert_eq!(summary(&loaded), "ok: 1 route, 1 backend in 0 grid zones, 1 warning");
    }
}

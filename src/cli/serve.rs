//! `windward serve`: the proxy.

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;

use anyhow::Context as _;
use clap::Args;

use super::surroundings::{Disk, environment};
use crate::clock::SystemClock;
use crate::config;
use crate::control::ConfigFile;
use crate::control::reload::read_configuration;
use crate::server::{Serve, host_name, start_proxy, wait};
use crate::telemetry::log::Identity;
use crate::telemetry::trace;

/// Arguments of `windward serve`.
#[derive(Debug, Args)]
pub struct ServeArgs {
    /// The configuration
    #[arg(short, long, value_name = "FILE")]
    config: PathBuf,
    /// What goes to standard error: error, warn, info, debug, or a filter such as info,windward::control=debug
    #[arg(long, value_name = "FILTER", default_value = "info")]
    verbosity: String,
    /// Diagnostics as JSON lines
    #[arg(long)]
    json: bool,
}

/// Serves until told to stop.
pub fn run(args: &ServeArgs) -> anyhow::Result<ExitCode> {
    trace::install(Some(&args.verbosity), args.json).context("--verbosity")?;
    let name = args.config.display().to_string();
    let text = read_configuration(&args.config).with_context(|| format!("cannot read {name}"))?;
    let plan = match load(&args.config, &text) {
        Ok(plan) => plan,
        Err(problems) => anyhow::bail!("{name} is not usable\n{problems}"),
    };
    let path = args.config.clone();
    let loader = Box::new(move |text: &str| load(&path, text));
    let handle = start_proxy(Serve {
        plan,
        config: Some(ConfigFile { path: args.config.clone(), text, loader }),
        clock: Arc::new(SystemClock),
        identity: Identity::new(&host_name(), fastrand::u64(..)),
        signals: true,
        background: None,
    })?;
    Ok(wait(handle))
}

/// The plan of a configuration's text; its warnings are said, and its problems given back as a person reads them.
pub fn load(path: &Path, text: &str) -> Result<config::Plan, String> {
    let loaded = config::load(&path.display().to_string(), text, &environment(), &Disk).map_err(|errors| errors.to_string())?;
    for warning in &loaded.warnings {
        tracing::warn!("{warning}");
    }
    Ok(loaded.plan)
}

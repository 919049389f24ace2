//! `windward serve`: the proxy.

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;

use anyhow::Context as _;
use clap::Args;
use jiff::Timestamp;

use super::surroundings::{Disk, environment};
use crate::clock::{Clock, FastClock, SystemClock};
use crate::config;
use crate::control::ConfigFile;
use crate::control::reload::read_configuration;
use crate::server::{Serve, host_name, start_proxy, wait};
use crate::telemetry::log::Identity;
use crate::telemetry::trace;

/// Arguments of `windward serve`.
#[derive(Clone, Debug, Args)]
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
    /// Let time pass so many times faster, in front of a simulated fleet that is as much faster than life: 1 to 1000
    #[arg(long, value_name = "TIMES", hide_short_help = true, value_parser = times)]
    faster: Option<f64>,
    /// And the time of day so many times, by which readings grow old and lines are dated [default: as --faster]
    #[arg(long, value_name = "TIMES", hide_short_help = true, requires = "faster", value_parser = times)]
    day_faster: Option<f64>,
    /// From this time of day on [default: now]
    #[arg(long, value_name = "TIME", hide_short_help = true, requires = "faster")]
    day_from: Option<Timestamp>,
}

/// How many times faster.
fn times(text: &str) -> Result<f64, String> {
    let is_fine = |times: &f64| (1.0..=FastClock::<SystemClock>::MOST_TIMES).contains(times);
    text.parse().ok().filter(is_fine).ok_or_else(|| "expected a number from 1 to 1000".to_owned())
}

impl ServeArgs {
    fn clock(&self) -> Arc<dyn Clock> {
        let Some(times) = self.faster else { return Arc::new(SystemClock) };
        let from = self.day_from.unwrap_or_else(|| SystemClock.wall());
        Arc::new(FastClock::new(SystemClock, times, from, self.day_faster.unwrap_or(times)))
    }

    /// The plan of a configuration's text. In fast motion there are only simulated backends: nobody else keeps up, and no claim may be
    /// made of what is measured there.
    fn plan(&self, text: &str) -> Result<config::Plan, String> {
        let plan = load(&self.config, text)?;
        match plan.backends.iter().find(|backend| self.faster.is_some() && !backend.simulated) {
            Some(real) => Err(format!("--faster is for backends that are `simulated`, and {} is not", real.name)),
            None => Ok(plan),
        }
    }
}

/// Serves until told to stop.
pub fn run(args: &ServeArgs) -> anyhow::Result<ExitCode> {
    trace::install(Some(&args.verbosity), args.json).context("--verbosity")?;
    let name = args.config.display().to_string();
    let text = read_configuration(&args.config).with_context(|| format!("cannot read {name}"))?;
    let plan = match args.plan(&text) {
        Ok(plan) => plan,
        Err(problems) => anyhow::bail!("{name} is not usable\n{problems}"),
    };
    let again = args.clone();
    let loader = Box::new(move |text: &str| again.plan(text));
    let handle = start_proxy(Serve {
        plan,
        config: Some(ConfigFile { path: args.config.clone(), text, loader }),
        clock: args.clock(),
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

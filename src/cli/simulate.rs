//! `windward simulate`: policies in virtual time, against modelled regions.

use std::io::Write as _;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Context as _;
use clap::Args;

use super::surroundings::{Disk, environment, read_configuration};
use crate::config::scenario;
use crate::simulate::world::World;
use crate::simulate::{Run, compare, plans};

/// Arguments of `windward simulate`.
#[derive(Debug, Args)]
pub struct SimulateArgs {
    /// The scenario
    scenario: PathBuf,
    /// Only this seed
    #[arg(long, conflicts_with = "seeds")]
    seed: Option<u64>,
    /// So many seeds, from the scenario's first one on
    #[arg(long, value_name = "N")]
    seeds: Option<u16>,
    /// Only this policy of the scenario's; may be given several times
    #[arg(long, value_name = "NAME")]
    policy: Vec<String>,
    /// So many hours of the grids instead of the scenario's
    #[arg(long)]
    hours: Option<f64>,
}

/// Runs the command. Exit code 1 when the scenario is wrong.
pub fn run(args: &SimulateArgs) -> anyhow::Result<ExitCode> {
    let name = args.scenario.display().to_string();
    let text = read_configuration(&args.scenario).with_context(|| format!("cannot read {name}"))?;
    let mut scenario = match scenario::load(&name, &text, &environment(), &Disk) {
        Ok(scenario) => scenario,
        Err(errors) => {
            writeln!(std::io::stderr(), "{errors}")?;
            return Ok(ExitCode::FAILURE);
        }
    };
    if let Some(hours) = args.hours.filter(|hours| *hours > 0.0) {
        scenario.hours = hours.min(scenario.hours.max(hours));
    }
    if let Some(seed) = args.seed {
        scenario.seeds = vec![seed];
    }
    if let (Some(count), Some(first)) = (args.seeds, scenario.seeds.first().copied()) {
        scenario.seeds = (first..first.saturating_add(u64::from(count.max(1)))).collect();
    }
    if !args.policy.is_empty() {
        scenario.policies.retain(|policy| args.policy.iter().any(|wanted| **wanted == *policy.name));
        anyhow::ensure!(!scenario.policies.is_empty(), "the scenario has no policy of that name");
    }
    let world = World::read(&scenario, &Disk)?;
    let plans = match plans(&scenario, &world) {
        Ok(plans) => plans,
        Err(errors) => {
            writeln!(std::io::stderr(), "{errors}")?;
            return Ok(ExitCode::FAILURE);
        }
    };
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let mut errors = std::io::stderr();
    let policies = scenario.policies.clone();
    let runs = compare(&scenario, &world, &plans, threads, |run: &Run| {
        let _ = writeln!(
            errors,
            "{} seed {} in {:.1} s",
            policies.get(run.policy).map_or("", |policy| &policy.name),
            run.seed,
            run.took.as_secs_f64()
        );
    });
    let mut out = std::io::stdout();
    for run in &runs {
        writeln!(out, "{} {} {:?}", scenario.policies.get(run.policy).map_or("", |policy| &policy.name), run.seed, run.finished)?;
    }
    Ok(ExitCode::SUCCESS)
}

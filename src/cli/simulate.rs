//! `windward simulate`: policies in virtual time, against modelled regions.

use std::fs::File;
use std::io::{BufWriter, Write as _};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::Context as _;
use clap::Args;

use super::surroundings::{Disk, Recordings, environment};
use crate::config::scenario::{self, Scenario};
use crate::control::reload::read_configuration;
use crate::simulate::log::LogWriter;
use crate::simulate::traffic::Course;
use crate::simulate::world::World;
use crate::simulate::{Done, Player, compare, play, players, render};

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
    /// Only this policy, beside the one that savings are counted from; may be given several times
    #[arg(long, value_name = "NAME")]
    policy: Vec<String>,
    /// No more hours of the grids than this
    #[arg(long)]
    hours: Option<f64>,
    /// Write every run with all its figures to this file
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Write the first seed's requests as an access log to this file; with one --policy
    #[arg(long, value_name = "FILE", requires = "policy")]
    log: Option<PathBuf>,
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
    if let Some(hours) = args.hours {
        anyhow::ensure!(hours.is_finite() && hours > 0.0, "--hours is a number above 0");
        scenario.hours = hours.min(scenario.hours);
    }
    if let Some(seed) = args.seed {
        scenario.seeds = vec![seed];
    }
    if let (Some(count), Some(first)) = (args.seeds, scenario.seeds.first().copied()) {
        scenario.seeds = (first..first.saturating_add(u64::from(count.max(1)))).collect();
    }
    choose(&mut scenario, &args.policy)?;
    anyhow::ensure!(
        args.log.is_none() || args.policy.len() == 1,
        "--log is about one policy: name it with --policy, and no other"
    );
    let read = World::read(&scenario, &Recordings);
    let (world, players) = match read.and_then(|world| Ok((players(&scenario, &world)?, world))) {
        Ok((players, world)) => (world, players),
        Err(errors) => {
            writeln!(std::io::stderr(), "{errors}")?;
            return Ok(ExitCode::FAILURE);
        }
    };
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let mut progress = Progress { jobs: scenario.seeds.len() * (players.len() + 1), over: 0 };
    let comparison = compare(&scenario, &world, &players, threads, |done| progress.say(&scenario, done));
    if let Some(path) = &args.json {
        let text = format!("{:#}\n", render::json(&scenario, &world, &comparison));
        std::fs::write(path, text).with_context(|| format!("cannot write {}", path.display()))?;
    }
    if let (Some(path), [wanted]) = (&args.log, &args.policy[..]) {
        let nth = scenario.policies.iter().position(|policy| *policy.name == **wanted);
        if let Some((player, seed)) = nth.and_then(|nth| players.get(nth)).zip(scenario.seeds.first()) {
            write_log(path, &scenario, &world, player, *seed)?;
        }
    }
    std::io::stdout().write_all(render::text(&scenario, &world, &comparison).as_bytes())?;
    Ok(ExitCode::SUCCESS)
}

/// Plays a policy once more and writes down what its proxies would have logged.
fn write_log(path: &Path, scenario: &Scenario, world: &World, player: &Player, seed: u64) -> anyhow::Result<()> {
    let cannot = || format!("cannot write {}", path.display());
    let file = File::create(path).with_context(cannot)?;
    let course = Course::draw(scenario, world, seed);
    let mut log = LogWriter::new(BufWriter::new(file), seed);
    play(scenario, world, &course, player, Some(&mut log));
    log.finish().map(drop).with_context(cannot)
}

/// Leaves the policies that are wanted, and the one that savings are counted from.
fn choose(scenario: &mut Scenario, wanted: &[String]) -> anyhow::Result<()> {
    let names: Vec<String> = scenario.policies.iter().map(|policy| policy.name.to_string()).collect();
    if let Some(unknown) = wanted.iter().find(|wanted| !names.contains(wanted)) {
        anyhow::bail!("the scenario has no policy `{unknown}`; it has {}", names.join(", "));
    }
    if !wanted.is_empty() {
        let reference = render::reference(scenario).and_then(|nth| names.get(nth));
        scenario.policies.retain(|policy| wanted.iter().chain(reference).any(|name| **name == *policy.name));
    }
    Ok(())
}

/// Says on standard error what is over.
struct Progress {
    jobs: usize,
    over: usize,
}

impl Progress {
    fn say(&mut self, scenario: &Scenario, done: &Done) {
        self.over += 1;
        let (name, seed, took) = match done {
            Done::Run(run) => (scenario.policies.get(run.policy).map_or("", |policy| &*policy.name), run.seed, run.took),
            Done::Best(seed, _, took) => ("(oracle)", *seed, *took),
        };
        // Whoever does not listen misses nothing that counts.
        let _ =
            writeln!(std::io::stderr(), "{} of {}: {name}, seed {seed}, in {:.1} s", self.over, self.jobs, took.as_secs_f64());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config;

    #[derive(clap::Parser)]
    struct Line {
        #[command(flatten)]
        args: SimulateArgs,
    }

    fn args(line: &[&str]) -> Result<SimulateArgs, clap::Error> {
        clap::Parser::try_parse_from([&["simulate"], line].concat()).map(|line: Line| line.args)
    }

    fn normal() -> String {
        format!("{}/examples/scenarios/eu/normal.yaml", env!("CARGO_MANIFEST_DIR"))
    }

    #[test]
    fn a_policy_that_is_chosen_keeps_what_it_is_measured_by() {
        let path = normal();
        let text = std::fs::read_to_string(&path).unwrap();
        let load = || scenario::load(&path, &text, &config::Env::default(), &Disk).unwrap_or_else(|errors| panic!("{errors}"));
        let chosen = |wanted: &[&str]| {
            let mut scenario = load();
            choose(&mut scenario, &wanted.iter().map(ToString::to_string).collect::<Vec<_>>())?;
            anyhow::Ok(scenario.policies.iter().map(|policy| policy.name.to_string()).collect::<Vec<_>>())
        };
        assert_eq!(chosen(&["windward"]).unwrap(), ["least_latency", "windward"]);
        assert_eq!(chosen(&["least_latency"]).unwrap(), ["least_latency"]);
        assert_eq!(chosen(&[]).unwrap().len(), 3);
        let error = chosen(&["windwrad"]).unwrap_err().to_string();
        assert_eq!(error, "the scenario has no policy `windwrad`; it has least_latency, windward, round_robin");
    }

    #[test]
    fn a_log_is_about_one_policy() {
        assert!(args(&["x.yaml", "--log", "l"]).is_err());
        let both = args(&[&normal(), "--log", "l", "--policy", "windward", "--policy", "round_robin"]).unwrap();
        assert!(run(&both).unwrap_err().to_string().contains("one policy"));
        assert!(args(&["x.yaml", "--seed", "1", "--seeds", "2"]).is_err());
    }

    #[test]
    fn a_wrong_scenario_is_exit_code_1_and_a_missing_one_is_named() {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), "hours: many").unwrap();
        let code = run(&args(&[file.path().to_str().unwrap()]).unwrap()).unwrap();
        assert_eq!(format!("{code:?}"), format!("{:?}", ExitCode::FAILURE));
        assert_eq!(run(&args(&["not-there.yaml"]).unwrap()).unwrap_err().to_string(), "cannot read not-there.yaml");
    }
}

//! `windward explain`: who would serve a request and why not the others, or the same of a request that is over.

use std::io::{self, IsTerminal as _, Write as _};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;

use anyhow::Context as _;
use clap::Args;
use jiff::Timestamp;

use super::report::{open, print};
use super::surroundings::{Disk, environment};
use crate::clock::{Clock, SystemClock};
use crate::config;
use crate::control::carbon::readings_of_files;
use crate::control::reload::read_configuration;
use crate::explain::{Explanation, MOST_FOUND, Question, Search, Target, answer, render, search};
use crate::grid::Grid;
use crate::record::AccessRecord;
use crate::state::Snapshot;

/// The path that is asked about when none is named.
const CHAT: &str = "/v1/chat/completions";

/// Arguments of `windward explain`: a configuration and a model, or a log and an id.
#[derive(Clone, Debug, Args)]
pub struct ExplainArgs {
    /// The configuration that is asked
    #[arg(short, long, value_name = "FILE", requires = "model", required_unless_present = "log", conflicts_with = "log")]
    config: Option<PathBuf>,
    /// The model, by the client's name for it
    #[arg(long, value_name = "NAME", requires = "config")]
    model: Option<String>,
    /// The route, by its name
    #[arg(long, value_name = "NAME", requires = "config", conflicts_with = "path")]
    route: Option<String>,
    /// The route, by the path that is asked for [default: /v1/chat/completions]
    #[arg(long, requires = "config")]
    path: Option<String>,
    /// Tokens of the prompt [default: 1000]
    #[arg(long, value_name = "N", requires = "config")]
    prompt_tokens: Option<u32>,
    /// The most output tokens that the client wants; without it, as many as usual
    #[arg(long, value_name = "N", requires = "config")]
    max_output_tokens: Option<u32>,
    /// The answer is wanted in one piece
    #[arg(long, requires = "config")]
    no_stream: bool,
    /// The client's key, by its name in the file
    #[arg(long, value_name = "NAME", requires = "config")]
    key: Option<String>,
    /// The time for which it is asked, with the readings that the configuration's files have of it [default: now]
    #[arg(long, value_name = "TIME", requires = "config")]
    at: Option<Timestamp>,
    /// The access log that is searched; - is standard input
    // All of them by name: `requires` does not hold for what is ruled out anyway.
    #[arg(
        long,
        value_name = "LOG",
        requires = "id",
        conflicts_with_all = ["model", "route", "path", "prompt_tokens", "max_output_tokens", "no_stream", "key", "at"]
    )]
    log: Option<PathBuf>,
    /// The id of a request there: the proxy's own, the client's or the backend's
    #[arg(long, requires = "log")]
    id: Option<String>,
    /// For programs: a line of JSON for each request
    #[arg(long)]
    json: bool,
}

/// Prints the explanation on standard output. The exit code is 1 when the configuration is wrong, and an error (which the caller
/// makes code 1 too) says what was not found.
pub fn run(args: &ExplainArgs) -> anyhow::Result<ExitCode> {
    match args {
        ExplainArgs { log: Some(log), id: Some(id), .. } => from_log(args, log, id),
        ExplainArgs { config: Some(file), model: Some(model), .. } => from_configuration(args, file, model),
        _ => anyhow::bail!("it takes --config with --model, or --log with --id"),
    }
}

fn from_configuration(args: &ExplainArgs, file: &Path, model: &str) -> anyhow::Result<ExitCode> {
    let name = file.display().to_string();
    let text = read_configuration(file).with_context(|| format!("cannot read {name}"))?;
    let loaded = match config::load(&name, &text, &environment(), &Disk) {
        Ok(loaded) => loaded,
        Err(errors) => {
            writeln!(io::stderr(), "{errors}")?;
            return Ok(ExitCode::FAILURE);
        }
    };
    let now = SystemClock.monotonic();
    let wall = args.at.unwrap_or_else(|| SystemClock.wall());
    let (readings, unread) = readings_of_files(&loaded.plan, wall);
    for error in unread {
        writeln!(io::stderr(), "windward: {error}")?;
    }
    // Nobody is asked for any, and a backend is not to be seen as broken for that.
    let first = Snapshot::first(Arc::new(loaded.plan), now).with_all_credentials();
    let grid = readings.into_iter().fold(Grid::clone(&first.grid), |grid, (zone, reading)| grid.with(zone, reading));
    let snapshot = first.with_grid(Arc::new(grid));
    let target = args.route.as_deref().map_or_else(|| Target::Path(args.path.as_deref().unwrap_or(CHAT)), Target::Route);
    let question = Question {
        model,
        target,
        prompt_tokens: args.prompt_tokens.unwrap_or(1000),
        max_output_tokens: args.max_output_tokens,
        streamed: !args.no_stream,
        key: args.key.as_deref(),
        at: args.at,
    };
    let explanation = answer(&snapshot, &question, now, wall)?;
    show(&rendered(args, &explanation))
}

fn from_log(args: &ExplainArgs, log: &Path, id: &str) -> anyhow::Result<ExitCode> {
    let name = log.display().to_string();
    let reader = open(log).with_context(|| format!("cannot open {name}"))?;
    let Search { found, more, unreadable } = search(reader, id).with_context(|| format!("cannot read {name}"))?;
    if unreadable > 0 {
        writeln!(io::stderr(), "windward: {unreadable} lines of {name} that may be of this request cannot be read")?;
    }
    anyhow::ensure!(!found.is_empty(), "no line of {name} has the id {id:?}");
    if more > 0 {
        writeln!(io::stderr(), "windward: {more} more lines have this id; these are the first {MOST_FOUND}")?;
    }
    let mut texts = Vec::new();
    for line in &found {
        let record: AccessRecord<'_> = serde_json::from_slice(&line.text).with_context(|| format!("{name}:{}", line.line))?;
        texts.push(rendered(args, &Explanation::from(record)));
    }
    show(&texts.join(if args.json { "" } else { "\n" }))
}

fn rendered(args: &ExplainArgs, explanation: &Explanation<'_>) -> String {
    if args.json { render::json(explanation) } else { render::text(explanation, io::stdout().is_terminal()) }
}

fn show(text: &str) -> anyhow::Result<ExitCode> {
    print(&mut io::stdout().lock(), text).context("cannot write the explanation")?;
    Ok(ExitCode::SUCCESS)
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Command {
        #[command(flatten)]
        explain: ExplainArgs,
    }

    fn parse(words: &str) -> Result<ExplainArgs, clap::Error> {
        Command::try_parse_from(std::iter::once("explain").chain(words.split(' '))).map(|command| command.explain)
    }

    #[test]
    fn it_is_asked_of_a_configuration_or_of_a_log() {
        for good in [
            "-c a.yaml --model m",
            "-c a.yaml --model m --route r --prompt-tokens 9 --max-output-tokens 8 --no-stream --key k --at 2026-03-02T10:00:00Z --json",
            "--config a.yaml --model m --path /v1/embeddings",
            "--log a.jsonl --id x --json",
        ] {
            assert!(parse(good).is_ok(), "{good}");
        }
        for bad in [
            "--json",
            "-c a.yaml",
            "--model m",
            "--log a.jsonl",
            "--id x",
            "-c a.yaml --model m --log a.jsonl --id x",
            "--log a.jsonl --id x --model m",
            "--log a.jsonl --id x --prompt-tokens 7",
            "--log a.jsonl --id x --no-stream",
            "--log a.jsonl --id x --key k",
            "--log a.jsonl --id x --at 2026-03-02T10:00:00Z",
            "-c a.yaml --model m --at yesterday",
            "-c a.yaml --model m --route r --path /v1",
        ] {
            assert!(parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn what_is_not_there_is_an_error() {
        let sample = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/cases/log/sample.jsonl");
        let error = run(&parse(&format!("--log {sample} --id nobody")).unwrap()).unwrap_err().to_string();
        assert!(error.ends_with("has the id \"nobody\""), "{error}");
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("windward.yaml");
        let asked = |text: &str| {
            std::fs::write(&file, text).unwrap();
            run(&parse(&format!("-c {} --model x --json", file.display())).unwrap())
        };
        let backend = "backends: [{ name: a, url: 'http://127.0.0.1:8000', grid_zone: DE, models: [m] }]";
        let error = asked(backend).unwrap_err().to_string();
        assert!(error.contains("serves \"x\"") && error.contains("only m"), "{error}");
        assert_eq!(asked("backends: [{ name: a, url: nowhere }]").unwrap(), ExitCode::FAILURE);
    }
}

//! `windward report`: what the access logs say was emitted and saved.

use std::fs::File;
use std::io::{self, BufReader, IsTerminal, Read, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::Context;

use crate::report::{Dimension, Report, Summary, render, summarise};

/// Bytes between two words about the progress: about a second's work.
const PROGRESS_EVERY: u64 = 256 << 20;

/// Add up access logs: emitted, baseline, saved and wasted grams.
#[derive(Clone, Debug, clap::Args)]
#[command(after_help = "Example:\n  windward report access.jsonl access.jsonl.1 --by day --by model")]
pub struct ReportArgs {
    /// Access logs (JSON lines), in any order; - is standard input.
    #[arg(required = true, value_name = "LOG")]
    pub logs: Vec<PathBuf>,
    /// How to write the report.
    #[arg(long, value_enum, default_value_t = Format::Text)]
    pub format: Format,
    /// What to break it down by; may be given again. Without it: by all.
    #[arg(long, value_enum)]
    pub by: Vec<Dimension>,
    /// Colour the text.
    #[arg(long)]
    pub color: bool,
}

/// How to write the report.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Format {
    /// Aligned, for eyes.
    Text,
    /// Everything, for programs.
    Json,
    /// A row for each group, for spreadsheets.
    Csv,
}

/// Reads the logs and prints the report on standard output. Succeeds unless a log cannot be read; the exit code is 1 when there were
/// lines and none of them was a record. Lines that are missing are no failure of the report, which says so first: a program finds
/// their number in `completeness`, and decides itself how many it forgives.
pub fn run(args: &ReportArgs) -> anyhow::Result<ExitCode> {
    let report = read(args)?;
    print(&mut io::stdout().lock(), &rendered(args, &report)).context("cannot write the report")?;
    let useless = report.lines.records == 0 && report.lines.bad > 0;
    Ok(if useless { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

fn read(args: &ReportArgs) -> anyhow::Result<Report> {
    let mut summary = Summary::new();
    for log in &args.logs {
        let name = log.display().to_string();
        let reader = open(log).with_context(|| format!("cannot open {name}"))?;
        summarise(&name, reader, &mut summary).with_context(|| format!("cannot read {name}"))?;
    }
    Ok(summary.report(if args.by.is_empty() { &Dimension::ALL } else { &args.by }))
}

fn rendered(args: &ReportArgs, report: &Report) -> String {
    match args.format {
        Format::Text => render::text(report, args.color),
        Format::Json => render::json(report),
        Format::Csv => render::csv(report),
    }
}

pub(super) fn open(log: &Path) -> io::Result<BufReader<Progress<Box<dyn Read>>>> {
    let reader: Box<dyn Read> = if log.as_os_str() == "-" { Box::new(io::stdin().lock()) } else { Box::new(File::open(log)?) };
    let progress = Progress { reader, read: 0, said: 0, speaks: io::stderr().is_terminal() };
    Ok(BufReader::with_capacity(1 << 18, progress))
}

pub(super) fn print(out: &mut impl Write, text: &str) -> io::Result<()> {
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        // Whoever read the report has seen enough of it.
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        other => other,
    }
}

/// Says on standard error how far a long log has been read, if anybody is there to see it.
pub(super) struct Progress<R> {
    reader: R,
    read: u64,
    said: u64,
    speaks: bool,
}

impl<R: Read> Read for Progress<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.reader.read(buffer)?;
        self.read += count as u64;
        if self.speaks && self.read - self.said >= PROGRESS_EVERY {
            self.said = self.read;
            // A terminal that is gone must not end the report.
            let _ = write!(io::stderr(), "\rread {} MiB ", self.read >> 20);
        } else if self.speaks && count == 0 && self.said > 0 {
            self.said = 0;
            let _ = writeln!(io::stderr());
        }
        Ok(count)
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Command {
        #[command(flatten)]
        report: ReportArgs,
    }

    fn parse(words: &[&str]) -> Result<ReportArgs, clap::Error> {
        Command::try_parse_from(std::iter::once(&"report").chain(words)).map(|command| command.report)
    }

    const SAMPLE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/cases/log/sample.jsonl");

    #[test]
    fn the_arguments_are_the_documented_ones() {
        let args = parse(&["a.jsonl", "-", "--format", "csv", "--by", "day", "--by", "model"]).unwrap();
        assert_eq!(args.logs, [PathBuf::from("a.jsonl"), PathBuf::from("-")]);
        assert_eq!((args.format, args.by), (Format::Csv, vec![Dimension::Day, Dimension::Model]));
        assert!(parse(&[]).is_err() && parse(&["a", "--by", "colour"]).is_err());
    }

    #[test]
    fn several_logs_are_one_report() {
        let dir = tempfile::tempdir().unwrap();
        let text = std::fs::read_to_string(SAMPLE).unwrap();
        let (first, second) = text.split_at(text.find('\n').unwrap() + 1);
        let paths = [("first", first), ("second", second)].map(|(name, part)| {
            let path = dir.path().join(name);
            std::fs::write(&path, part).unwrap();
            path.display().to_string()
        });
        let whole = read(&parse(&[SAMPLE]).unwrap()).unwrap();
        // The newer log first, as a shell's wildcard may give them.
        let parts = read(&parse(&[&paths[1], &paths[0]]).unwrap()).unwrap();
        assert_eq!(parts.lines.logs, 2);
        assert_eq!((parts.completeness, parts.traffic.len()), (whole.completeness, whole.traffic.len()));
        assert_eq!(parts.traffic[0].requests, whole.traffic[0].requests);
    }

    #[test]
    fn each_format_is_what_it_says() {
        let args = |format| parse(&[SAMPLE, "--format", format]).unwrap();
        let show = |format| rendered(&args(format), &read(&args(format)).unwrap());
        assert!(show("text").contains("estimated, location-based"));
        assert!(serde_json::from_str::<serde_json::Value>(&show("json")).is_ok());
        assert!(show("csv").starts_with("data,signal,"));
    }

    #[test]
    fn a_log_that_is_not_there_is_named() {
        let error = read(&parse(&["not-there.jsonl"]).unwrap()).unwrap_err();
        assert_eq!(error.to_string(), "cannot open not-there.jsonl");
    }

    #[test]
    fn a_reader_who_leaves_is_no_error() {
        struct Gone(io::ErrorKind);
        impl Write for Gone {
            fn write(&mut self, _: &[u8]) -> io::Result<usize> {
                Err(self.0.into())
            }
            fn flush(&mut self) -> io::Result<()> {
                Ok(())
            }
        }
        assert!(print(&mut Gone(io::ErrorKind::BrokenPipe), "x").is_ok());
        assert!(print(&mut Gone(io::ErrorKind::StorageFull), "x").is_err());
    }
}

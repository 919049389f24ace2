//! `windward reconcile`: the access logs held against CloudTrail.

use std::fs::File;
use std::io::{self, BufReader, Read};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::Context;
use flate2::read::MultiGzDecoder;

use super::report::{open, print};
use crate::report::reconcile::{Reconciled, Trail};

/// Restate emissions by where CloudTrail says that requests to Bedrock ran.
#[derive(Clone, Debug, clap::Args)]
pub struct ReconcileArgs {
    /// Access logs (JSON lines); - is standard input.
    #[arg(required = true, value_name = "LOG")]
    pub logs: Vec<PathBuf>,
    /// Files of CloudTrail, as they are or packed (.gz).
    #[arg(long, required = true, num_args = 1.., value_name = "FILES")]
    pub cloudtrail: Vec<PathBuf>,
    /// Everything as JSON, for programs.
    #[arg(long)]
    pub json: bool,
}

/// Prints what the trail makes of the logs. The exit code is 1 when no record was found in it.
pub fn run(args: &ReconcileArgs) -> anyhow::Result<ExitCode> {
    let (mut trail, mut reconciled) = (Trail::default(), Reconciled::default());
    for file in &args.cloudtrail {
        let name = file.display();
        let reader = unpacked(file).with_context(|| format!("cannot open {name}"))?;
        trail.read(reader).with_context(|| format!("{name} is no file of CloudTrail"))?;
    }
    anyhow::ensure!(trail.left_out == 0, "{} calls are more than can be kept: give fewer files at once", trail.left_out);
    for log in &args.logs {
        let name = log.display().to_string();
        let reader = open(log).with_context(|| format!("cannot open {name}"))?;
        reconciled.add_log(&name, &trail, reader).with_context(|| format!("cannot read {name}"))?;
    }
    let text = if args.json { serde_json::to_string_pretty(&reconciled)? + "\n" } else { reconciled.text() };
    print(&mut io::stdout().lock(), &text).context("cannot write the result")?;
    Ok(if reconciled.joined == 0 { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

/// By its first bytes, whatever its name is.
fn unpacked(file: &Path) -> io::Result<Box<dyn Read>> {
    let mut head = [0; 2];
    let packed = File::open(file)?.read(&mut head)? == 2 && head == [0x1f, 0x8b];
    let reader = BufReader::new(File::open(file)?);
    Ok(if packed { Box::new(BufReader::new(MultiGzDecoder::new(reader))) } else { Box::new(reader) })
}

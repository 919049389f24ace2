//! The command line: one file a command. Machine-readable output goes to standard output, everything else to standard error; exit
//! codes are 0 for ok, 1 when the thing checked is wrong or the work failed, 2 for wrong usage.

pub mod check;
pub mod demo;
pub mod explain;
pub mod mock;
pub mod reconcile;
pub mod report;
pub mod schema;
pub mod serve;
pub mod simulate;
pub mod surroundings;
pub mod zones;

use std::io::Write;
use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// A carbon-aware reverse proxy in front of AI model endpoints.
#[derive(Debug, Parser)]
#[command(
    name = "windward",
    version,
    about,
    after_help = "Examples:\n  windward demo                          everything at once, nothing to configure\n  windward serve -c config/windward.yaml\n  windward report access.jsonl\n\nhttps and keys are configured in the file; see config/windward.yaml."
)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Show the whole thing at work, with nothing prepared: a simulated fleet, a grid in fast motion, traffic, and the report
    #[command(
        after_help = "Examples:\n  windward demo --duration 20s\n  windward demo --no-traffic     then: curl http://127.0.0.1:8080/v1/chat/completions ..."
    )]
    Demo(demo::DemoArgs),
    /// Run the proxy
    #[command(
        after_help = "Example:\n  windward serve -c config/windward.yaml\n\nSIGHUP or a change of the file reloads it; SIGUSR1 reopens the access log; SIGTERM drains."
    )]
    Serve(serve::ServeArgs),
    /// Serve the simulated fleet alone, with faults that can be switched while it runs
    #[command(
        after_help = "Example:\n  windward mock -c config/fleet.yaml\n  curl -d '{\"slow\": 3}' 127.0.0.1:9101/_ctl\n  curl -d '{\"up\": false}' '127.0.0.1:9100/_ctl?region=aws/us-east-1'     and true again\n\nFaults: \"slow\": times, \"up\": false, \"replicas\": left, \"rtt_ms\": ms, \"error_rate\": 0 to 1 answered with 500,\n\"refuse\": true for 429, \"cut_after_tokens\": tokens, \"stall\": true. null takes back replicas, rtt_ms, cut_after_tokens;\nDELETE /_ctl takes all of them back."
    )]
    Mock(mock::MockArgs),
    /// Print every problem of a configuration, with line and column
    #[command(after_help = "Example:\n  windward check config/windward.yaml && echo fine")]
    Check(check::CheckArgs),
    /// Say who would serve a request and why not the others, or the same of a request in the access log
    #[command(
        override_usage = "windward explain --config FILE --model NAME [OPTIONS]\n       windward explain --log LOG --id ID [--json]",
        after_help = "Examples:\n  windward explain -c windward.yaml --model gpt-oss-120b --prompt-tokens 4000\n  windward explain --log access.jsonl --id 77df26e60000005d\n  windward explain --log access.jsonl --id 77df26e60000005d --json | jq .choice"
    )]
    Explain(explain::ExplainArgs),
    /// Restate emissions by where CloudTrail says that requests to Bedrock ran
    #[command(after_help = "Example:\n  windward reconcile access.jsonl --cloudtrail trail/*.json.gz")]
    Reconcile(reconcile::ReconcileArgs),
    /// Sum up access logs: emitted, baseline, saved, waste
    #[command(
        after_help = "Examples:\n  windward report access.jsonl\n  windward report --format csv --by day access.jsonl > saved.csv"
    )]
    Report(report::ReportArgs),
    /// Print the JSON schema of the configuration, for editors
    #[command(after_help = "Example:\n  windward schema > windward.schema.json")]
    Schema(schema::SchemaArgs),
    /// Play policies in virtual time against modelled regions: grams, misses, and the share of the best possible
    #[command(
        after_help = "Examples:\n  windward simulate examples/scenarios/eu/normal.yaml\n  windward simulate --hours 2 --seed 7 --policy windward examples/scenarios/us/outage.yaml"
    )]
    Simulate(simulate::SimulateArgs),
    /// Look up the shipped table: cloud region, grid zone, yearly intensity, PUE, source
    #[command(after_help = "Example:\n  windward zones stockholm")]
    Zones(zones::ZonesArgs),
}

/// Parses the arguments and runs the command.
pub fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let result = match arguments.command {
        Command::Demo(args) => demo::run(&args),
        Command::Serve(args) => serve::run(&args),
        Command::Mock(args) => mock::run(&args),
        Command::Check(args) => check::run(&args),
        Command::Explain(args) => explain::run(&args),
        Command::Reconcile(args) => reconcile::run(&args),
        Command::Report(args) => report::run(&args),
        Command::Schema(args) => schema::run(&args),
        Command::Simulate(args) => simulate::run(&args),
        Command::Zones(args) => zones::run(&args),
    };
    result.unwrap_or_else(|error| {
        let _ = writeln!(std::io::stderr(), "windward: {error:#}");
        ExitCode::FAILURE
    })
}

//! `windward mock`: the simulated fleet alone, until it is interrupted.

use std::fmt::Write as _;
use std::io::{self, Write as _};
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;

use anyhow::Context as _;

use crate::clock::RuntimeClock;
use crate::config::fleet::{FleetPlan, RegionPlan};
use crate::mock;

/// Serve a simulated fleet of regional model endpoints.
///
/// Every region is an OpenAI-shaped endpoint that becomes slow when crowded and refuses when full. `POST /_ctl` makes things go
/// wrong while it runs, `GET /_ctl` shows what is wrong, `DELETE /_ctl` mends it, `GET /_ledger` tells what was served: at the region
/// itself or, with ?region=NAME, at the control address, which is there also while the region is not.
#[derive(Debug, clap::Args)]
pub struct MockArgs {
    /// The file that describes the fleet.
    #[arg(short, long, value_name = "FILE")]
    config: PathBuf,
    /// The same seed gives the same draws.
    #[arg(long, default_value_t = 1)]
    seed: u64,
}

/// Runs the command. Exit code 1 when the file is wrong, with its place.
pub fn run(args: &MockArgs) -> anyhow::Result<ExitCode> {
    let path = args.config.display();
    let text = std::fs::read_to_string(&args.config).with_context(|| format!("cannot read {path}"))?;
    let plan = match FleetPlan::parse(&text) {
        Ok(plan) => plan,
        Err(error) => {
            writeln!(io::stderr(), "{path}:{error}")?;
            return Ok(ExitCode::from(1));
        }
    };
    // One thread holds thousands of streams at the pace of a model; more would only blur the figures of what is measured beside it.
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(serve(&plan, args.seed))?;
    Ok(ExitCode::SUCCESS)
}

async fn serve(plan: &FleetPlan, seed: u64) -> anyhow::Result<()> {
    let fleet = mock::start(plan, Arc::new(RuntimeClock), seed).await?;
    let urls: Vec<String> = fleet.addresses().map(|(_, address)| format!("http://{address}")).collect();
    write!(io::stdout(), "{}", table(&plan.regions, &urls))?;
    writeln!(io::stdout(), "\ncontrol: http://{}/_ctl?region=NAME", fleet.control_address())?;
    io::stdout().flush()?;
    tokio::signal::ctrl_c().await.context("cannot wait for an interrupt")?;
    fleet.shutdown().await;
    Ok(())
}

/// The regions with their URLs, one line each.
fn table(regions: &[RegionPlan], urls: &[String]) -> String {
    let width = |longest: Option<usize>, least: usize| longest.unwrap_or(0).max(least);
    let name_width = width(regions.iter().map(|region| region.spec.name.len()).max(), "REGION".len());
    let url_width = width(urls.iter().map(String::len).max(), "URL".len());
    let mut text = format!("{:name_width$}  {:url_width$}  {:>7}  {:>5}  GRID\n", "REGION", "URL", "RTT", "SLOTS");
    for (region, url) in regions.iter().zip(urls) {
        let spec = &region.spec;
        let slots = u32::from(spec.replicas.get()) * u32::from(spec.slots_per_replica.get());
        let grid = region
            .day
            .map_or_else(|| "-".to_owned(), |day| format!("{}, {:.0} g/kWh, simulated", day.shape.as_str(), day.mean.get()));
        let (name, rtt) = (&spec.name, spec.rtt.get());
        // Writing to a string cannot fail.
        let _ = writeln!(text, "{name:name_width$}  {url:url_width$}  {rtt:>4.0} ms  {slots:>5}  {grid}");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_shows_every_region_of_the_shipped_fleet() {
        let plan = FleetPlan::parse(include_str!("../../config/fleet.yaml")).unwrap();
        let urls: Vec<String> = plan.regions.iter().map(|region| format!("http://{}", region.listen)).collect();
        insta::assert_snapshot!(table(&plan.regions, &urls), @r"
        REGION          URL                        RTT  SLOTS  GRID
        aws/us-east-1   http://127.0.0.1:9101     4 ms    256  coal, 418 g/kWh, simulated
        aws/us-west-1   http://127.0.0.1:9102    62 ms    192  solar, 208 g/kWh, simulated
        aws/us-west-2   http://127.0.0.1:9103    64 ms    128  wind, 204 g/kWh, simulated
        aws/eu-west-3   http://127.0.0.1:9104    82 ms     64  nuclear, 31 g/kWh, simulated
        aws/eu-north-1  http://127.0.0.1:9105   111 ms     64  hydro, 20 g/kWh, simulated
        ");
    }

    #[test]
    fn a_wrong_file_is_exit_code_1() {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        file.write_all(b"models: []\nregions: []\n").unwrap();
        let code = run(&MockArgs { config: file.path().to_owned(), seed: 1 }).unwrap();
        assert_eq!(format!("{code:?}"), format!("{:?}", ExitCode::from(1)));
    }
}

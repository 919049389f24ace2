//! `windward demo`: everything at once, with nothing to configure.
//!
//! A simulated fleet, a day of grids in a minute, the proxy exactly as `windward serve` starts it, and traffic; a live view while it
//! runs and the report at the end. Only the endpoints and the grids are made up, and everything that is printed says so.

mod ending;
mod screen;
pub mod setting;
pub mod tally;
pub mod traffic;
pub mod view;

use std::fmt::Write as _;
use std::fs::File;
use std::io::{self, IsTerminal};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use clap::Args;
use tokio::sync::mpsc;
use tokio::task::spawn_blocking;
use tokio_util::sync::CancellationToken;

use self::ending::Signals;
use self::screen::{Screen, say};
use self::tally::Tally;
use self::traffic::Traffic;
use self::view::{RegionView, View};
use super::serve::load;
use crate::clock::{Clock, RuntimeClock, SystemClock};
use crate::config::fleet::FleetPlan;
use crate::fleet::{Positive, Share, Size, Spread, TrafficShape};
use crate::mock;
use crate::report::{self, Dimension, Summary};
use crate::server::{BindError, Handle, Serve, StartError, host_name, start_proxy};
use crate::tables::Regions;
use crate::telemetry::log::Identity;
use crate::units::Millis;

/// A day of the simulated grids, which is how long the demonstration takes unless told otherwise.
const DAY: Duration = Duration::from_mins(1);
/// The day begins before dawn, so that the sun comes up while one watches.
const FIRST_HOUR: f64 = 5.0;
/// How often the grid's file is written: half an hour of the simulated day.
const GRID_EVERY: Duration = Duration::from_millis(1250);
/// How often the view is drawn on a terminal.
const FRAME_EVERY: Duration = Duration::from_millis(250);
/// Requests under way at most, so that a slow machine is not buried.
const AT_MOST: usize = 512;
/// No answer of the simulated regions takes longer once the last request was sent.
const LINGER: Duration = Duration::from_secs(8);

/// Arguments of `windward demo`.
#[derive(Debug, Args)]
pub struct DemoArgs {
    /// How long: 20s, 2m; a simulated day takes one minute [default: 1m]
    #[arg(long, value_parser = duration)]
    duration: Option<Duration>,
    /// The same seed gives the same traffic and the same fleet
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Keep the access log in this file
    #[arg(long, value_name = "FILE", value_parser = log_file)]
    log: Option<PathBuf>,
    /// Send no traffic, and run until Ctrl-C unless --duration is given, for requests of one's own
    #[arg(long)]
    no_traffic: bool,
}

impl DemoArgs {
    /// When it ends by itself.
    fn ends(&self) -> Option<Duration> {
        self.duration.or((!self.no_traffic).then_some(DAY))
    }
}

/// Runs the demonstration.
pub fn run(args: &DemoArgs) -> anyhow::Result<ExitCode> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let ended = runtime.block_on(whole(args));
    // Whoever asked for the end twice does not wait for a thread that still reads.
    runtime.shutdown_background();
    match ended {
        Err(error) if !ending::nobody_reads(&error) => Err(error),
        _ => Ok(ExitCode::SUCCESS),
    }
}

/// From the first file to the report.
async fn whole(args: &DemoArgs) -> anyhow::Result<()> {
    let mut signals = Signals::install()?;
    let directory = Scratch::new()?;
    // The proxy reads a relative path from where its configuration is, which here is a place of the demonstration's own.
    let log = std::path::absolute(args.log.clone().unwrap_or_else(|| directory.0.join("access.jsonl")))?;
    if args.log.is_some() && log.metadata().is_ok_and(|meta| meta.len() > 0) {
        anyhow::bail!("{} has lines already; name another file for --log", log.display());
    }
    demonstrate(args, &directory.0, &log, &mut signals).await?;
    let read = log.clone();
    let text = tokio::select! {
        text = spawn_blocking(move || report_of(&read)) => text??,
        () = signals.told() => anyhow::bail!("told to end before the report was made"),
    };
    say(&format!("\n{text}"))?;
    if args.log.is_some() {
        say(&format!("The log is in {}; try: windward report {0}\n", log.display()))?;
    }
    Ok(())
}

fn report_of(log: &Path) -> io::Result<String> {
    let mut summary = Summary::new();
    report::summarise(&log.display().to_string(), io::BufReader::new(File::open(log)?), &mut summary)?;
    Ok(report::render::text(&summary.report(&[Dimension::Backend]), io::stdout().is_terminal()))
}

async fn demonstrate(args: &DemoArgs, directory: &Path, log: &Path, signals: &mut Signals) -> anyhow::Result<()> {
    let fleet = FleetPlan::shipped().map_err(|error| anyhow::anyhow!("config/fleet.yaml:{error}"))?;
    let mock = mock::start(&fleet, Arc::new(RuntimeClock), args.seed).await?;
    let grid = Grid::new(&fleet, directory.join("grid.csv"));
    grid.write(FIRST_HOUR)?;
    let usual = [8080, 9090].map(usual_or_any);
    let proxy = match proxy(&fleet, &mock, usual, directory, log, &grid.file) {
        // Somebody was faster.
        Err(error) if matches!(error.downcast_ref(), Some(StartError::Bind(BindError::InUse { .. }))) => {
            proxy(&fleet, &mock, [ANY, ANY], directory, log, &grid.file)?
        }
        other => other?,
    };
    let address = *proxy.addresses.first().context("the proxy listens nowhere")?;

    let stop = CancellationToken::new();
    let (samples, _unread) = mpsc::channel(1);
    let traffic = (!args.no_traffic).then(|| {
        let traffic = Traffic { address, ..traffic(&fleet) };
        tokio::spawn(traffic.run(args.seed, Arc::new(RuntimeClock), stop.clone(), samples))
    });
    let screen = Screen::new(File::open(log)?);
    let watched = match say(&welcome(&proxy, &fleet, args.no_traffic)) {
        Ok(()) => watch(args.ends(), &stop, &fleet, &grid, &mock, screen, signals).await,
        Err(error) => Err(error),
    };
    stop.cancel();
    let said = say("\nno more traffic; waiting a moment for the last answers\n");
    if let Some(traffic) = traffic {
        ending::last_answers(traffic, signals.told()).await;
    }
    proxy.shutdown();
    proxy.shutdown();
    tokio::select! {
        ended = spawn_blocking(move || proxy.join()) => drop(ended?),
        () = signals.told() => {}
    }
    mock.shutdown().await;
    Ok(watched.and(said)?)
}

/// Starts the proxy as `windward serve` does, on those two ports.
fn proxy(
    fleet: &FleetPlan,
    mock: &mock::Handle,
    [listen, admin]: [SocketAddr; 2],
    directory: &Path,
    log: &Path,
    grid: &Path,
) -> anyhow::Result<Handle> {
    let addresses: Vec<SocketAddr> = mock.addresses().map(|(_, address)| address).collect();
    let text = setting::configuration(fleet, &addresses, listen, admin, log, grid);
    let file = directory.join("windward.yaml");
    std::fs::write(&file, &text)?;
    let plan = load(&file, &text).map_err(|problems| anyhow::anyhow!("{problems}"))?;
    let identity = Identity::new(&host_name(), fastrand::u64(..));
    Ok(start_proxy(Serve { plan, config: None, clock: Arc::new(SystemClock), identity, signals: false, background: None })?)
}

/// Draws until the time is over or a signal asks for the end. Shortly before its time is over it stops the traffic.
async fn watch(
    ends: Option<Duration>,
    stop: &CancellationToken,
    fleet: &FleetPlan,
    grid: &Grid<'_>,
    mock: &mock::Handle,
    mut screen: Screen,
    signals: &mut Signals,
) -> io::Result<()> {
    let begun = RuntimeClock.monotonic();
    let mut grid_written = begun;
    loop {
        let now = RuntimeClock.monotonic();
        let elapsed = now - begun;
        let hour = (FIRST_HOUR + 24.0 * elapsed.as_secs_f64() / DAY.as_secs_f64()) % 24.0;
        if now - grid_written >= GRID_EVERY {
            grid_written = now;
            grid.write(hour)?;
        }
        screen.draw(now, |tally| view(fleet, grid, mock, tally, elapsed, hour))?;
        if ends.is_some_and(|ends| elapsed >= ending::last_request(ends)) {
            stop.cancel();
        }
        if ends.is_some_and(|ends| elapsed >= ends) {
            return Ok(());
        }
        tokio::select! {
            () = tokio::time::sleep(FRAME_EVERY) => {}
            () = signals.told() => return Ok(()),
        }
    }
}

fn view(fleet: &FleetPlan, grid: &Grid<'_>, mock: &mock::Handle, tally: &Tally<File>, elapsed: Duration, hour: f64) -> View {
    let region = |(region, zone): (&crate::config::fleet::RegionPlan, &String)| {
        let name = setting::short(&region.spec.name);
        RegionView {
            name: format!("{name} {zone}"),
            share: tally.share(name),
            intensity: region.day.map(|day| day.intensity(hour)),
            in_flight: mock.in_flight(&region.spec.name).unwrap_or(0) as u64,
            p50: tally.first_token(name, 0.5),
            p95: tally.first_token(name, 0.95),
        }
    };
    View {
        regions: fleet.regions.iter().zip(&grid.zones).map(region).collect(),
        budget: Millis::saturating(f64::from(setting::BUDGET_MS)),
        grams: tally.grams,
        baseline: tally.baseline,
        saved: tally.saved,
        elapsed,
        simulated_hour: hour,
    }
}

/// The file of the simulated grids.
struct Grid<'f> {
    fleet: &'f FleetPlan,
    zones: Vec<String>,
    file: PathBuf,
}

impl<'f> Grid<'f> {
    fn new(fleet: &'f FleetPlan, file: PathBuf) -> Self {
        let zone =
            |name: &str| Regions::shipped().lookup(name).map_or_else(String::new, |region| region.grid_zone.as_str().to_owned());
        Self { fleet, zones: fleet.regions.iter().map(|region| zone(&region.spec.name)).collect(), file }
    }

    /// Replaced by renaming, so that nobody reads half of it.
    fn write(&self, hour: f64) -> io::Result<()> {
        let next = self.file.with_extension("next");
        std::fs::write(&next, setting::grid(self.fleet, &self.zones, hour, SystemClock.wall()))?;
        std::fs::rename(next, &self.file)
    }
}

fn welcome(proxy: &Handle, fleet: &FleetPlan, alone: bool) -> String {
    let base = proxy.addresses.first().map_or_else(String::new, |address| format!("http://{address}/v1"));
    let admin = proxy.admin.map_or_else(String::new, |address| format!("http://{address}"));
    let model = fleet.models.first().map_or("", |model| &**model);
    let mut text = format!(
        "Windward in front of {} simulated regions; a day of their simulated grids takes {} s.\n  proxy  {base}\n  admin  {admin}/status\n",
        fleet.regions.len(),
        DAY.as_secs(),
    );
    if alone {
        // Writing to a string cannot fail.
        let _ = writeln!(
            text,
            "  try    curl -i {base}/chat/completions -d '{{\"model\":\"{model}\",\"messages\":[{{\"role\":\"user\",\"content\":\"hello\"}}]}}'"
        );
    }
    text.push('\n');
    text
}

/// Conversations of the size of a public trace's median, as many as make the clean regions run full at the height of the day.
fn traffic(fleet: &FleetPlan) -> Traffic {
    let positive = |value| Positive::new(value).unwrap_or(Positive::ONE);
    let size = |median, most| Size { median: positive(median), spread: Spread::new(0.8).unwrap_or_default(), most };
    Traffic {
        address: ANY,
        model: fleet.models.first().map(ToString::to_string).unwrap_or_default(),
        key: None,
        shape: TrafficShape {
            per_second: positive(40.0),
            wave: Share::new(0.5).unwrap_or(Share::ZERO),
            day_length: DAY,
            first_hour: FIRST_HOUR,
            prompt: size(700.0, 8000),
            output: size(110.0, 600),
            streamed: Share::new(0.85).unwrap_or(Share::ZERO),
        },
        at_most: AT_MOST,
        linger: LINGER,
    }
}

/// A port that the system chooses.
const ANY: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 0);

/// The usual port where it is free, else any.
fn usual_or_any(usual: u16) -> SocketAddr {
    let usual = SocketAddr::new(ANY.ip(), usual);
    TcpListener::bind(usual).map_or(ANY, |_| usual)
}

fn duration(text: &str) -> Result<Duration, String> {
    let span: jiff::SignedDuration = text.parse().map_err(|_| "say it as 20s or 2m".to_owned())?;
    let span = Duration::try_from(span).map_err(|_| "it must not be negative".to_owned())?;
    // In less than that nothing happens that could be shown.
    if span < Duration::from_secs(1) { Err("it must be at least 1s".to_owned()) } else { Ok(span) }
}

fn log_file(text: &str) -> Result<PathBuf, String> {
    // Elsewhere that is standard output; here that shows the view.
    if text == "-" { Err("the log goes to a file, since standard output has the view".to_owned()) } else { Ok(text.into()) }
}

/// A directory for the files of one run, gone at its end.
struct Scratch(PathBuf);

impl Scratch {
    fn new() -> anyhow::Result<Self> {
        let path = std::env::temp_dir().join(format!("windward-demo-{:016x}", fastrand::u64(..)));
        std::fs::create_dir(&path).with_context(|| format!("cannot create {}", path.display()))?;
        Ok(Self(path))
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        // What cannot be removed is a few kilobytes in the place for such things.
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Command {
        #[command(flatten)]
        demo: DemoArgs,
    }

    fn parse(words: &[&str]) -> Result<DemoArgs, String> {
        let words = std::iter::once(&"demo").chain(words);
        Command::try_parse_from(words).map(|command| command.demo).map_err(|error| error.to_string())
    }

    #[test]
    fn it_ends_when_it_is_said_to() {
        let ends = |words: &[&str]| parse(words).unwrap().ends();
        assert_eq!(ends(&[]), Some(DAY));
        assert_eq!(ends(&["--duration", "20s"]), Some(Duration::from_secs(20)));
        assert_eq!(ends(&["--no-traffic"]), None);
        assert_eq!(ends(&["--no-traffic", "--duration", "2m"]), Some(Duration::from_mins(2)));
    }

    #[test]
    fn what_could_show_nothing_is_refused() {
        for (words, why) in [
            (["--duration", "0s"], "at least 1s"),
            (["--duration", "-5s"], "negative"),
            (["--duration", "soon"], "say it as 20s"),
            (["--log", "-"], "standard output has the view"),
        ] {
            let said = parse(&[&words.join("=")]).unwrap_err();
            assert!(said.contains(why), "{said}");
        }
    }

    #[test]
    fn a_port_that_is_taken_is_left_to_whoever_has_it() {
        let held = TcpListener::bind(ANY).unwrap();
        let usual = held.local_addr().unwrap();
        assert_eq!(usual_or_any(usual.port()), ANY);
        drop(held);
        assert_eq!(usual_or_any(usual.port()), usual);
    }
}

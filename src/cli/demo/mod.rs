//! `windward demo`: everything at once, with nothing to configure.
//!
//! A simulated fleet, a day of grids in a minute, the proxy exactly as `windward serve` starts it, and traffic; a live view while it
//! runs and the report at the end. Only the endpoints and the grids are made up, and everything that is printed says so.

pub mod setting;
pub mod tally;
pub mod traffic;
pub mod view;

use std::fmt::Write as _;
use std::fs::File;
use std::io::{self, IsTerminal, Write};
use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use clap::Args;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use self::tally::Tally;
use self::traffic::Traffic;
use self::view::{Colour, RegionView, View};
use super::serve::load;
use crate::clock::{Clock, RuntimeClock, SystemClock};
use crate::config::fleet::FleetPlan;
use crate::fleet::{Positive, Share, Size, Spread, TrafficShape};
use crate::mock;
use crate::report::{self, Dimension, Summary};
use crate::server::{Handle, Serve, host_name, start_proxy};
use crate::tables::Regions;
use crate::telemetry::log::Identity;
use crate::units::Millis;

/// A day of the simulated grids.
const DAY: Duration = Duration::from_mins(1);
/// The day begins before dawn, so that the sun comes up while one watches.
const FIRST_HOUR: f64 = 5.0;
/// How often the grid's file is written: half an hour of the simulated day.
const GRID_EVERY: Duration = Duration::from_millis(1250);
/// How often the view is drawn on a terminal, and how often a line is written elsewhere.
const FRAME_EVERY: Duration = Duration::from_millis(250);
const LINE_EVERY: Duration = Duration::from_secs(1);
/// Requests under way at most, so that a slow machine is not buried.
const AT_MOST: usize = 512;

/// How long the last answers are waited for, so that breaking them off does not look like waste.
const LINGER: Duration = Duration::from_secs(8);

/// Arguments of `windward demo`.
#[derive(Debug, Args)]
pub struct DemoArgs {
    /// How long: 20s, 2m; a simulated day takes one minute
    #[arg(long, default_value = "1m", value_parser = duration)]
    duration: Duration,
    /// The same seed gives the same traffic and the same fleet
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Keep the access log in this file
    #[arg(long, value_name = "FILE")]
    log: Option<PathBuf>,
    /// Send no traffic, and run until Ctrl-C unless --duration is given, for requests of one's own
    #[arg(long)]
    no_traffic: bool,
}

/// Runs the demonstration.
pub fn run(args: &DemoArgs) -> anyhow::Result<ExitCode> {
    let directory = Scratch::new()?;
    // The proxy reads a relative path from where its configuration is, which here is a place of the demonstration's own.
    let log = std::path::absolute(args.log.clone().unwrap_or_else(|| directory.0.join("access.jsonl")))?;
    if args.log.is_some() && log.metadata().is_ok_and(|meta| meta.len() > 0) {
        anyhow::bail!("{} has lines already; name another file for --log", log.display());
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(demonstrate(args, &directory.0, &log))?;
    let mut summary = Summary::new();
    let reader = io::BufReader::new(File::open(&log)?);
    report::summarise(&log.display().to_string(), reader, &mut summary)?;
    let colour = io::stdout().is_terminal();
    let text = report::render::text(&summary.report(&[Dimension::Backend]), colour);
    say(&format!("\n{text}"))?;
    if args.log.is_some() {
        say(&format!("The log is in {}; try: windward report {0}\n", log.display()))?;
    }
    Ok(ExitCode::SUCCESS)
}

async fn demonstrate(args: &DemoArgs, directory: &Path, log: &Path) -> anyhow::Result<()> {
    let fleet = FleetPlan::shipped().map_err(|error| anyhow::anyhow!("config/fleet.yaml:{error}"))?;
    let mock = mock::start(&fleet, Arc::new(RuntimeClock), args.seed).await?;
    let addresses: Vec<SocketAddr> = mock.addresses().map(|(_, address)| address).collect();
    let grid = Grid::new(&fleet, directory.join("grid.csv"));
    grid.write(FIRST_HOUR)?;
    let (listen, admin) = (free_port(8080)?, free_port(9090)?);
    let text = setting::configuration(&fleet, &addresses, listen, admin, log, &grid.file);
    let file = directory.join("windward.yaml");
    std::fs::write(&file, &text)?;
    let plan = load(&file, &text).map_err(|problems| anyhow::anyhow!("{problems}"))?;
    let identity = Identity::new(&host_name(), fastrand::u64(..));
    let clock = Arc::new(SystemClock);
    let proxy = start_proxy(Serve { plan, config: None, clock, identity, signals: false, background: None })?;
    say(&welcome(&proxy, &fleet, args.no_traffic))?;

    let stop = CancellationToken::new();
    let (samples, _unread) = mpsc::channel(1);
    let traffic = (!args.no_traffic).then(|| {
        let traffic = Traffic { address: proxy.addresses.first().copied().unwrap_or(listen), ..traffic(&fleet) };
        tokio::spawn(traffic.run(args.seed, Arc::new(RuntimeClock), stop.clone(), samples))
    });
    let screen = Screen::new(File::open(log)?);
    let watched = watch(args, &fleet, &grid, &mock, screen).await;
    stop.cancel();
    say("\nno more traffic; waiting for the last answers\n")?;
    if let Some(traffic) = traffic {
        let _ = traffic.await;
    }
    proxy.shutdown();
    proxy.shutdown();
    tokio::task::spawn_blocking(move || proxy.join()).await?;
    mock.shutdown().await;
    watched
}

/// Draws until the time is over or somebody presses Ctrl-C.
async fn watch(
    args: &DemoArgs,
    fleet: &FleetPlan,
    grid: &Grid<'_>,
    mock: &mock::Handle,
    mut screen: Screen,
) -> anyhow::Result<()> {
    let begun = RuntimeClock.monotonic();
    let mut interrupt = std::pin::pin!(tokio::signal::ctrl_c());
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
        if elapsed >= args.duration {
            return Ok(());
        }
        tokio::select! {
            () = tokio::time::sleep(FRAME_EVERY) => {}
            pressed = &mut interrupt => return pressed.context("cannot wait for an interrupt"),
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

/// Where the view goes: a terminal, drawn over, or plain lines.
struct Screen {
    tally: Tally<File>,
    terminal: bool,
    drawn: Option<(Instant, usize)>,
}

impl Screen {
    fn new(log: File) -> Self {
        Self { tally: Tally::new(log), terminal: io::stdout().is_terminal(), drawn: None }
    }

    fn draw(&mut self, now: Instant, view: impl FnOnce(&Tally<File>) -> View) -> io::Result<()> {
        self.tally.catch_up()?;
        if self.terminal {
            let frame = view(&self.tally).frame(terminal_width(), Colour::Ansi);
            let up = self.drawn.map_or_else(String::new, |(_, lines)| format!("\x1b[{lines}A\x1b[0J"));
            self.drawn = Some((now, frame.lines().count()));
            say(&format!("{up}{frame}"))
        } else if self.drawn.is_none_or(|(at, _)| now - at >= LINE_EVERY) {
            self.drawn = Some((now, 0));
            say(&format!("{}\n", view(&self.tally).plain_line()))
        } else {
            Ok(())
        }
    }
}

/// Columns of the terminal, by what shells export; 100 are safe on any screen of today.
fn terminal_width() -> usize {
    std::env::var_os("COLUMNS").and_then(|columns| columns.to_str()?.parse().ok()).unwrap_or(100)
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
        address: SocketAddr::from(([127, 0, 0, 1], 8080)),
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

/// The usual port where it is free, else any.
fn free_port(usual: u16) -> io::Result<SocketAddr> {
    let any = SocketAddr::from(([127, 0, 0, 1], 0));
    let usual = SocketAddr::from(([127, 0, 0, 1], usual));
    TcpListener::bind(usual).or_else(|_| TcpListener::bind(any))?.local_addr()
}

fn duration(text: &str) -> Result<Duration, String> {
    let span: jiff::SignedDuration = text.parse().map_err(|_| "say it as 20s or 2m".to_owned())?;
    Duration::try_from(span).map_err(|_| "it must not be negative".to_owned())
}

/// Writes to standard output; a reader that has gone away ends the demonstration quietly.
fn say(text: &str) -> io::Result<()> {
    let mut out = io::stdout().lock();
    out.write_all(text.as_bytes())?;
    out.flush()
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

//! The world that a scenario is played in: each region's carbon intensity hour by hour, and the lengths that requests have.
//!
//! Both are read from recordings where the scenario has a directory of them, and made up where it has none; which it was is said in
//! the output, because a saving on a made-up day is an example and not a result.

use std::io::Read;
use std::path::{Path, PathBuf};
use std::time::Duration;

use flate2::read::GzDecoder;
use jiff::Timestamp;

use crate::config::scenario::{RegionPlan, Said, Scenario};
use crate::config::{ConfigErrors, Files, Problem};
use crate::grid::usual::DAYS;
use crate::units::GramsPerKwh;

/// The largest file after it was unpacked, in bytes: a year of hours takes a third of a megabyte.
const MAX_UNPACKED: u64 = 64 << 20;
/// What a gzip file begins with.
const GZIP: [u8; 2] = [0x1f, 0x8b];
/// What is shown of a cell that cannot be read.
const MOST_SHOWN: usize = 40;
/// The least hours of a recording that are of use: a day.
const MIN_HOURS: usize = 24;

/// What a proxy remembers of a grid's hours (`grid::usual`), and no more.
const BEFORE: Duration = Duration::from_hours(24 * DAYS as u64);

/// What is the same in all runs.
#[derive(Clone, Debug)]
pub struct World {
    /// By region.
    pub grids: Vec<GridTrace>,
    /// Prompt and output tokens of recorded requests; empty where lengths are drawn.
    pub lengths: Vec<(u32, u32)>,
    /// Requests by time, where they are not drawn.
    pub arrivals: Vec<Arrival>,
}

/// A request that came when it did.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Arrival {
    /// After the start.
    pub at: Duration,
    /// Prompt tokens and those of the answer.
    pub lengths: (u32, u32),
    /// Its class, as an index; drawn where the table does not say.
    pub class: Option<u8>,
    /// Whether it has a rule of residency; drawn where the table does not say.
    pub resident: Option<bool>,
}

/// A region's carbon intensity.
#[derive(Clone, Debug)]
pub struct GridTrace {
    /// Hour by hour from the scenario's first one.
    pub hourly: Vec<GramsPerKwh>,
    /// The weeks before it, where they were recorded: what a proxy has seen that was not started this hour.
    pub before: Vec<(Timestamp, GramsPerKwh)>,
    /// The mean of all that is known of the zone: what an operator would have as its yearly figure.
    pub mean: GramsPerKwh,
    /// Whether it was recorded.
    pub recorded: bool,
}

impl GridTrace {
    /// The intensity of an hour, counted from the scenario's first; the last one known goes on.
    pub fn at(&self, hour: usize) -> GramsPerKwh {
        self.hourly.get(hour).or(self.hourly.last()).copied().unwrap_or(GramsPerKwh::ZERO)
    }
}

impl World {
    /// The world of a scenario. A recording that is named and cannot be used is an error; one that is not there is not, where there
    /// is something made up to stand for it. What is wrong is said of the place where the scenario names the recording.
    pub fn read(scenario: &Scenario, files: &dyn Files) -> Result<Self, ConfigErrors> {
        let mut problems = Problems(Vec::new());
        let grids = scenario.regions.iter().filter_map(|region| problems.unless(grid(scenario, region, files))).collect();
        let lengths = scenario.data.as_ref().zip(scenario.traffic.trace.as_ref()).and_then(|(data, trace)| {
            let read = lengths(&data.value.join(&trace.value), files);
            problems
                .unless(read.map_err(|what| trace.problem(what, "name a table of requests below `data`, or leave `trace` out")))
        });
        let arrivals = scenario.traffic.arrivals.as_ref().and_then(|said| {
            let read = arrivals(&said.value, scenario, files);
            problems.unless(read.map_err(|what| said.problem(what, "name a table of requests, or leave `arrivals` out")))
        });
        if !problems.0.is_empty() {
            return Err(ConfigErrors { problems: problems.0, more: 0 });
        }
        Ok(Self { grids, lengths: lengths.unwrap_or_default(), arrivals: arrivals.unwrap_or_default() })
    }
}

/// One of each place: a directory of recordings that is not there is one mistake and not one for each region.
struct Problems(Vec<Problem>);

impl Problems {
    fn unless<T>(&mut self, read: Result<T, Box<Problem>>) -> Option<T> {
        let place = |problem: &Problem| (problem.file.clone(), problem.line, problem.column);
        match read {
            Ok(read) => return Some(read),
            Err(problem) if self.0.iter().all(|known| place(known) != place(&problem)) => self.0.push(*problem),
            Err(_) => {}
        }
        None
    }
}

fn grid(scenario: &Scenario, region: &RegionPlan, files: &dyn Files) -> Result<GridTrace, Box<Problem>> {
    let zone = region.zone.as_str();
    let in_data = |data: &Said<PathBuf>| data.value.join("carbon").join(format!("{zone}.csv.gz"));
    if let Some(said) = &region.intensity {
        let mend = format!("name a table of the hours of region `{}`, or leave `intensity` out", region.spec.name);
        return recorded(scenario, &said.value, files).map_err(|what| said.problem(what, &mend));
    }
    if let Some(said) = &scenario.data {
        let mend = "name a directory with `carbon/ZONE.csv.gz` for each zone, or leave `data` out for made-up days";
        return recorded(scenario, &in_data(said), files).map_err(|what| said.problem(what, mend));
    }
    let first = f64::from(hour_of_day(scenario.from));
    let hourly = (0..hours(scenario)).map(|hour| region.day.intensity(first + hour as f64)).collect();
    Ok(GridTrace { hourly, before: Vec::new(), mean: region.day.mean, recorded: false })
}

/// As many as are played, and the one that goes on after them.
fn hours(scenario: &Scenario) -> usize {
    scenario.hours.ceil() as usize + 1
}

/// The hours of a table; or what is wrong with it, with its path.
fn recorded(scenario: &Scenario, path: &Path, files: &dyn Files) -> Result<GridTrace, String> {
    let hours = hours(scenario);
    let rows: Vec<(Timestamp, f64)> = rows(path, files, &["datetime_utc", "carbon_intensity_g_per_kwh"], |row| {
        let at = row.read("datetime_utc", "a moment, as in `2022-05-03T00:00:00Z`")?;
        Ok((at, row.read("carbon_intensity_g_per_kwh", "a number")?))
    })?;
    let mean = rows.iter().map(|(_, value)| value).sum::<f64>() / rows.len().max(1) as f64;
    let hourly: Vec<GramsPerKwh> = rows
        .iter()
        .skip_while(|(at, _)| *at < scenario.from)
        .take(hours)
        .map(|(_, value)| GramsPerKwh::saturating(*value))
        .collect();
    if hourly.len() < hours.min(MIN_HOURS) {
        return Err(format!("{}: it has no {hours} hours from {} on", path.display(), scenario.from));
    }
    let since = scenario.from.checked_sub(BEFORE).unwrap_or(Timestamp::MIN);
    let before = rows.iter().filter(|(at, _)| (since..scenario.from).contains(at));
    let before = before.map(|(at, value)| (*at, GramsPerKwh::saturating(*value))).collect();
    Ok(GridTrace { hourly, before, mean: GramsPerKwh::saturating(mean), recorded: true })
}

/// What a table of requests has at least.
const REQUESTS: [&str; 3] = ["timestamp_s", "input_tokens", "output_tokens"];

fn lengths(path: &Path, files: &dyn Files) -> Result<Vec<(u32, u32)>, String> {
    rows(path, files, &REQUESTS, |row| both(&row))
}

/// Prompt tokens and those of the answer; none is empty.
fn both(row: &Row<'_>) -> Result<(u32, u32), String> {
    let tokens = |column| row.read::<u32>(column, "a whole number").map(|tokens| tokens.max(1));
    Ok((tokens("input_tokens")?, tokens("output_tokens")?))
}

fn arrivals(path: &Path, scenario: &Scenario, files: &dyn Files) -> Result<Vec<Arrival>, String> {
    let known: Vec<&str> = scenario.classes.iter().map(|class| &*class.name).collect();
    let expected = format!("one of the scenario's classes, {}", known.join(", "));
    let read = |row: Row<'_>| {
        let place = |name| scenario.classes.iter().position(|class| &*class.name == name).map(|place| place as u8);
        let class = row.get("class").map(|name| place(name).ok_or_else(|| row.wrong("class", &expected)));
        let resident = row.get("resident").map(|_| row.read("resident", "true or false")).transpose()?;
        let seconds = row.read("timestamp_s", "seconds after the start")?;
        let at = Duration::try_from_secs_f64(seconds).map_err(|_| row.wrong("timestamp_s", "seconds after the start"))?;
        Ok(Arrival { at, lengths: both(&row)?, class: class.transpose()?, resident })
    };
    let mut arrivals = rows(path, files, &REQUESTS, read)?;
    arrivals.sort_by_key(|arrival| arrival.at);
    Ok(arrivals)
}

/// One row of a table, under its head.
struct Row<'a> {
    head: &'a csv::StringRecord,
    row: &'a csv::StringRecord,
}

impl Row<'_> {
    /// What stands in a column; `None` where the table has no such column.
    fn get(&self, column: &str) -> Option<&str> {
        self.row.get(self.head.iter().position(|name| name.trim() == column)?)
    }

    /// The same, read.
    fn read<T: std::str::FromStr>(&self, column: &str, expected: &str) -> Result<T, String> {
        let value = self.get(column).and_then(|text| text.trim().parse().ok());
        value.ok_or_else(|| self.wrong(column, expected))
    }

    fn wrong(&self, column: &str, expected: &str) -> String {
        let line = self.row.position().map_or(0, csv::Position::line);
        let found: String = self.get(column).unwrap_or_default().chars().take(MOST_SHOWN).collect();
        format!("line {line}, `{column}`: {found:?} is not {expected}")
    }
}

/// The rows of a table that has these columns and perhaps others, in any order; or what is wrong, with the table's path.
fn rows<T>(
    path: &Path,
    files: &dyn Files,
    columns: &[&str],
    read: impl Fn(Row<'_>) -> Result<T, String>,
) -> Result<Vec<T>, String> {
    let error = |what: String| format!("{}: {what}", path.display());
    let bytes = files.read(path).map_err(|problem| error(problem.to_string()))?;
    let mut text = Vec::new();
    let unpacked = if bytes.starts_with(&GZIP) {
        GzDecoder::new(&*bytes).take(MAX_UNPACKED).read_to_end(&mut text)
    } else {
        bytes.as_slice().read_to_end(&mut text)
    };
    unpacked.map_err(|problem| error(problem.to_string()))?;
    let mut found = Vec::new();
    let mut table = csv::Reader::from_reader(&*text);
    let head = table.headers().map_err(|problem| error(problem.to_string()))?.clone();
    if let Some(missing) = columns.iter().find(|column| !head.iter().any(|name| name.trim() == **column)) {
        return Err(error(format!("line 1: there is no column `{missing}`; expected are {}", columns.join(","))));
    }
    for row in table.records() {
        let row = row.map_err(|problem| error(problem.to_string()))?;
        found.push(read(Row { head: &head, row: &row }).map_err(error)?);
    }
    Ok(found)
}

/// The hour of the day in UTC.
pub fn hour_of_day(at: Timestamp) -> u8 {
    (at.as_second().rem_euclid(86_400) / 3600) as u8
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;
    use std::io::Write as _;

    use super::*;
    use crate::config::{Env, scenario};

    struct Shelf(HashMap<PathBuf, Vec<u8>>);

    impl Files for Shelf {
        fn read(&self, path: &Path) -> std::io::Result<Vec<u8>> {
            self.0.get(path).cloned().ok_or_else(|| std::io::ErrorKind::NotFound.into())
        }
    }

    fn packed(text: &str) -> Vec<u8> {
        let mut packer = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        packer.write_all(text.as_bytes()).unwrap();
        packer.finish().unwrap()
    }

    fn scenario(more: &str) -> Scenario {
        scenario_with("", more)
    }

    /// With more of its region as well.
    fn scenario_with(of_region: &str, more: &str) -> Scenario {
        let text = format!(
            "hours: 2\nfrom: 2022-05-03T01:00:00Z\nregions:\n  - {{ name: here, grid_zone: DE, rtt: 5ms, replicas: 1, \
             grid: {{ shape: coal, mean_g_per_kwh: 400 }}{of_region} }}\nclasses:\n  - {{ name: c, share: 1, first_token: 1s, per_output_token: \
             35ms }}\npolicies: [{{ name: p }}]\n{more}\n"
        );
        scenario::load("s.yaml", &text, &Env::default(), &Shelf(HashMap::new())).unwrap_or_else(|errors| panic!("{errors}"))
    }

    const HOURS: &str = "datetime_utc,carbon_intensity_g_per_kwh\n2022-05-03T00:00:00Z,100\n2022-05-03T01:00:00Z,200\n\
        2022-05-03T02:00:00Z,300\n2022-05-03T03:00:00Z,400\n2022-05-03T04:00:00Z,500\n";

    #[test]
    fn recorded_hours_are_read_from_the_scenarios_first_one() {
        let files = |bytes| Shelf(HashMap::from([(PathBuf::from("data/carbon/DE.csv.gz"), bytes)]));
        let scenario = scenario("data: data");
        let world = World::read(&scenario, &files(packed(HOURS))).unwrap();
        let grid = &world.grids[0];
        assert_eq!([0, 1, 9].map(|hour| grid.at(hour)), [200.0, 300.0, 400.0].map(GramsPerKwh::saturating));
        assert!(grid.recorded && (grid.mean.get() - 300.0).abs() < 1e-9);
        assert_eq!(grid.before, [("2022-05-03T00:00:00Z".parse().unwrap(), GramsPerKwh::saturating(100.0))]);
        for (bytes, said) in [
            (packed("a,b\n1,2\n"), "line 1: there is no column `datetime_utc`"),
            (packed(&HOURS.replace("Z,300", "Z,much")), "line 4, `carbon_intensity_g_per_kwh`: \"much\" is not a number"),
            (packed(&HOURS.replace("05-03", "05-02")), "it has no 3 hours from"),
            (packed(HOURS)[..20].to_vec(), "data/carbon/DE.csv.gz"),
        ] {
            let error = World::read(&scenario, &files(bytes)).unwrap_err().to_string();
            assert!(error.contains(said), "{error}");
        }
        assert!(World::read(&scenario, &Shelf(HashMap::new())).is_err(), "data that is named has to be there");
    }

    #[test]
    fn a_table_of_ones_own_comes_first_and_a_made_up_day_last() {
        let own = scenario("").regions.remove(0);
        let with_table = scenario_with(", intensity: mine.csv", "data: data");
        let world = World::read(&with_table, &Shelf(HashMap::from([(PathBuf::from("mine.csv"), HOURS.into())]))).unwrap();
        assert!(world.grids[0].recorded);
        let world = World::read(&scenario(""), &Shelf(HashMap::new())).unwrap();
        let grid = &world.grids[0];
        assert!(!grid.recorded && world.lengths.is_empty());
        assert_eq!(grid.at(1), own.day.intensity(2.0), "the second hour from one o'clock on");
    }

    #[test]
    fn what_is_wrong_with_a_recording_is_said_of_where_it_is_named() {
        let named = scenario_with(", intensity: nope.csv", "traffic:\n  arrivals: bad.csv");
        let bad = (PathBuf::from("bad.csv"), b"timestamp_s,input_tokens,output_tokens\n1,2,many\n".to_vec());
        let errors = World::read(&named, &Shelf(HashMap::from([bad]))).unwrap_err();
        let places: Vec<_> = errors.problems.iter().map(|problem| (&*problem.file, problem.line, &*problem.field)).collect();
        assert_eq!(places, [("s.yaml", 4, "regions[0].intensity"), ("s.yaml", 9, "traffic.arrivals")]);
        let text = errors.to_string();
        for part in
            ["error: nope.csv: ", "hours of region `here`", "error: bad.csv: line 2, `output_tokens`", "9 |   arrivals: bad.csv"]
        {
            assert!(text.contains(part), "{part}: {text}");
        }
        let nowhere = scenario("data: nowhere\ntraffic: { trace: t.csv }");
        let errors = World::read(&nowhere, &Shelf(HashMap::new())).unwrap_err();
        let fields: Vec<_> = errors.problems.iter().map(|problem| &*problem.field).collect();
        assert_eq!(fields, ["data", "traffic.trace"]);
    }

    #[test]
    fn lengths_are_those_of_the_trace() {
        let text = "timestamp_s,input_tokens,output_tokens,model\n0.0,374,44,m\n4.3,396,0,m\n";
        let carbon = (PathBuf::from("data/carbon/DE.csv.gz"), packed(HOURS));
        let files = Shelf(HashMap::from([carbon, (PathBuf::from("data/t.csv.gz"), packed(text))]));
        let world = World::read(&scenario("data: data\ntraffic: { trace: t.csv.gz }"), &files).unwrap();
        assert_eq!(world.lengths, [(374, 44), (396, 1)]);
    }

    #[test]
    fn requests_come_as_the_table_says() {
        let text = "timestamp_s,input_tokens,output_tokens,resident,class\n7.5,396,1,true,c\n2,374,44,false,c\n";
        let with = |text: &str| {
            let scenario = scenario("traffic: { arrivals: a.csv }");
            World::read(&scenario, &Shelf(HashMap::from([(PathBuf::from("a.csv"), text.into())])))
        };
        let first = Arrival { at: Duration::from_secs(2), lengths: (374, 44), class: Some(0), resident: Some(false) };
        let world = with(text).unwrap();
        assert_eq!((world.arrivals[0], world.arrivals[1].resident, world.arrivals.len()), (first, Some(true), 2));
        let plain = with("timestamp_s,input_tokens,output_tokens,model\n2,374,44,m\n").unwrap();
        assert_eq!(plain.arrivals, [Arrival { class: None, resident: None, ..first }]);
        let turned = with("class,output_tokens,input_tokens,timestamp_s\nc,44,374,2\n").unwrap();
        assert_eq!(turned.arrivals, [Arrival { resident: None, ..first }], "columns go by their names");
        for (wrong, said) in [
            (text.replace("true,c", "true,b"), "a.csv: line 2, `class`: \"b\" is not one of the scenario's classes, c"),
            (text.replace("7.5", "-7.5"), "line 2, `timestamp_s`: \"-7.5\" is not seconds after the start"),
            (text.replace("true", "perhaps"), "line 2, `resident`: \"perhaps\" is not true or false"),
            (text.replace("44", "4.4"), "line 3, `output_tokens`: \"4.4\" is not a whole number"),
            (text.replace("input_tokens", "input"), "line 1: there is no column `input_tokens`"),
        ] {
            let error = with(&wrong).unwrap_err().to_string();
            assert!(error.contains(said), "{error}");
        }
    }
}

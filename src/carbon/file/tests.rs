use proptest::prelude::*;

use super::*;
use crate::carbon::MAX_PLAUSIBLE_G_PER_KWH;
use crate::units::GramsPerKwh;

fn now() -> Timestamp {
    at("2026-03-02T10:40:00Z")
}

fn at(text: &str) -> Timestamp {
    text.parse().unwrap()
}

fn options() -> FileOptions {
    FileOptions {
        source: Arc::from("file"),
        signal: Signal::Average,
        basis: Basis::Lifecycle,
        zone: None,
        written_at: at("2026-03-02T10:20:00Z"),
        valid_for: FileOptions::DEFAULT_VALID_FOR,
    }
}

fn read(bytes: impl AsRef<[u8]>) -> FileReadings {
    parse(bytes.as_ref(), now(), &options()).unwrap()
}

fn refused(readings: &FileReadings) -> Vec<(u64, Why)> {
    assert_eq!(readings.refused().count, readings.refused().first.len());
    readings.refused().first.iter().map(|refused| (refused.line, refused.why)).collect()
}

/// Zone, value and quality of what is in force.
fn in_force(readings: &FileReadings, now: Timestamp) -> Vec<(&str, f64, Quality)> {
    readings.at(now).map(|(zone, reading)| (zone.as_str(), reading.intensity.get(), reading.quality)).collect()
}

#[test]
fn a_bad_row_costs_only_itself() {
    let readings = read(include_bytes!("../../../tests/cases/carbon/day.csv"));
    assert_eq!(
        refused(&readings),
        [
            (8, Why::NotANumber),
            (9, Why::Implausible),
            (10, Why::Implausible),
            (11, Why::Implausible),
            (12, Why::NoOffset),
            (13, Why::TooFarAhead),
            (14, Why::OtherSignal),
            (15, Why::BadQuality),
            (16, Why::NoZone),
            (17, Why::NotARow),
        ]
    );
    assert_eq!(in_force(&readings, now()), [("DE", 398.0, Quality::Estimated), ("FR", 38.0, Quality::Estimated)]);
    assert_eq!(readings.refused().first[0].to_string(), "line 8: the carbon intensity is not a number");
}

#[test]
fn a_day_is_a_schedule() {
    let readings = read(include_bytes!("../../../tests/cases/carbon/day.csv"));
    let of_germany = |time: &str| in_force(&readings, at(time)).into_iter().find(|(zone, ..)| *zone == "DE");
    assert_eq!(of_germany("2026-03-02T08:59:59Z"), None);
    assert_eq!(of_germany("2026-03-02T09:00:00Z"), Some(("DE", 412.5, Quality::Measured)));
    assert_eq!(of_germany("2026-03-02T11:00:00Z"), Some(("DE", 377.0, Quality::Forecast)));
    assert_eq!(
        of_germany("2026-03-09T11:00:00Z"),
        Some(("DE", 377.0, Quality::Forecast)),
        "and its validity tells that it is old"
    );
    let (_, last) = readings.at(at("2026-03-09T11:00:00Z")).next().unwrap();
    assert_eq!(last.valid_until, at("2026-03-02T12:15:00Z"));
}

#[test]
fn what_is_still_to_come_is_a_forecast() {
    let quality = |stated: &str, time: &str| {
        let readings = read(format!("zone,datetime,carbon_intensity,quality\nDE,{time},5,{stated}\n"));
        readings.readings()[0].1.quality
    };
    assert_eq!(quality("measured", "2026-03-02T10:40:00Z"), Quality::Measured);
    assert_eq!(quality("measured", "2026-03-02T10:40:01Z"), Quality::Forecast);
    assert_eq!(quality("Simulated", "2026-03-02T10:40:01Z"), Quality::Simulated);
    assert_eq!(quality("", "2026-03-02T10:00:00Z"), Quality::Estimated);
}

#[test]
fn takes_other_names_orders_and_marks() {
    let readings =
        read("\u{feff}quality,carbonIntensity,mood,datetime_utc,zone\r\nmeasured, 12.5 ,fine,2026-03-02 10:00:00,\"FR\"\r\n");
    assert_eq!(in_force(&readings, now()), [("FR", 12.5, Quality::Measured)]);
    assert_eq!(readings.readings()[0].1.measured_at, at("2026-03-02T10:00:00Z"));
    let undated = read("zone,carbon_intensity\nFR,12.5\n");
    assert_eq!(undated.readings()[0].1.measured_at, at("2026-03-02T10:20:00Z"));
    let one_zone = FileOptions { zone: Some(GridZone::new("DE")), ..options() };
    let readings = parse(b"datetime_utc,carbon_intensity_g_per_kwh\n2026-03-02T10:00:00Z,216.56\n", now(), &one_zone).unwrap();
    assert_eq!(in_force(&readings, now()), [("DE", 216.56, Quality::Estimated)]);
}

#[test]
fn lines_are_counted_through_comments_blanks_and_quotes() {
    let head = "\n# made by hand\nzone,datetime,carbon_intensity\n";
    let text = format!("{head}\n\n# a,\"quoted\nDE,x,1\n\"D\nE\",2026-03-02T10:00:00Z,1\n\nDE,y,1");
    let expected = [(7, Why::BadTime), (8, Why::BadZone), (11, Why::BadTime)];
    assert_eq!(refused(&read(&text)), expected);
    assert_eq!(refused(&read(text.replace('\n', "\r\n"))), expected);
}

#[test]
fn of_two_rows_for_one_hour_the_later_counts() {
    let readings = read("zone,datetime,carbon_intensity\nDE,2026-03-02T10:00:00Z,1\nDE,2026-03-02T11:00:00+01:00,2\n");
    assert_eq!(in_force(&readings, now()), [("DE", 2.0, Quality::Estimated)]);
    assert_eq!(readings.readings().len(), 1);
}

#[test]
fn reads_a_list_of_json_rows() {
    let readings = read(include_bytes!("../../../tests/cases/carbon/rows.json"));
    assert_eq!(in_force(&readings, now()), [("DE", 398.0, Quality::Measured), ("FR", 38.5, Quality::Simulated)]);
    assert_eq!(
        refused(&readings),
        [(4, Why::NotANumber), (5, Why::NoValue), (6, Why::NotANumber), (8, Why::NotARow), (9, Why::NoZone)]
    );
}

#[test]
fn reads_json_by_zone() {
    let readings = read(include_bytes!("../../../tests/cases/carbon/zones.json"));
    let expected = [("DE", 398.0, Quality::Estimated), ("FR", 38.0, Quality::Estimated), ("IE", 301.0, Quality::Estimated)];
    // A number alone in the list of a zone is a value as old as the file, like a number alone under it.
    let with_belgium = [("BE", 5.0, Quality::Estimated)].into_iter().chain(expected).collect::<Vec<_>>();
    assert_eq!(in_force(&readings, now()), with_belgium);
    assert_eq!(refused(&readings), [(8, Why::NotANumber), (9, Why::TwoZones)]);
    let (_, germany) = readings.readings().iter().find(|(zone, _)| zone.as_str() == "DE").unwrap();
    assert_eq!(germany.measured_at, options().written_at);
}

#[test]
fn a_word_for_a_number_costs_its_row_and_no_other() {
    let text = "[\n{\"zone\": \"DE\", \"carbonIntensity\": NaN},\n{\"zone\": \"FR\", \"carbonIntensity\": -Infinity},\n\
                {\"zone\": \"BE\", \"carbonIntensity\":Infinity}, {\"zone\": \"NaN\", \"a\\\"NaN\": \"Infinity\", \"carbonIntensity\": 7},\n\
                {\"zone\": \"IE\", \"spare\": NaN, \"carbonIntensity\": 9}]";
    let readings = read(text);
    assert_eq!(refused(&readings), [(2, Why::NotANumber), (3, Why::NotANumber), (4, Why::NotANumber)]);
    assert_eq!(in_force(&readings, now()), [("IE", 9.0, Quality::Estimated), ("NaN", 7.0, Quality::Estimated)]);
    let by_zone = read("{\"DE\": NaN,\n\"FR\": [{\"carbonIntensity\": Infinity}, {\"carbonIntensity\": 3}]}");
    assert_eq!(refused(&by_zone), [(1, Why::NotANumber), (2, Why::NotANumber)]);
    assert_eq!(in_force(&by_zone, now()), [("FR", 3.0, Quality::Estimated)]);
}

#[test]
fn each_refused_row_is_said_up_to_a_bound() {
    let many = read(String::from("zone,carbon_intensity\n") + &"DE,x\n".repeat(MAX_REFUSED_SHOWN + 3));
    let said = many.refused().to_string();
    assert!(said.starts_with("line 2: the carbon intensity is not a number; line 3: "), "{said}");
    assert!(said.contains("line 21: ") && !said.contains("line 22: ") && said.ends_with("; and 3 more"), "{said}");
    let few = read("zone,carbon_intensity\nDE,x\nDE,1\nDE,-1\n").refused().to_string();
    assert_eq!(few, "line 2: the carbon intensity is not a number; line 4: a carbon intensity lies between 0 and 2500 gCO2e/kWh");
}

#[test]
fn refuses_a_file_that_is_none() {
    let fault = |text: &str| parse(text.as_bytes(), now(), &options()).unwrap_err();
    assert_eq!(fault(" \n\t"), FileError::Empty);
    assert_eq!(fault("# nothing\n"), FileError::Empty);
    assert_eq!(fault("{\"DE\": Nan}"), FileError::NotJson { line: 1, column: 8 });
    assert!(matches!(fault("[1, 2"), FileError::NotJson { .. }));
    assert!(matches!(fault("zone,datetime\nDE,1\n"), FileError::NoColumn { line: 1, what } if what.contains("value")));
    assert!(matches!(fault("#\ncarbon_intensity\n5\n"), FileError::NoColumn { line: 2, what } if what.contains("zone")));
    assert_eq!(fault(&format!("[{}]", " ".repeat(MAX_FILE_BYTES))), FileError::TooLarge);
}

#[test]
fn what_lies_beyond_the_bounds_is_refused_and_the_rest_used() {
    let csv = String::from("zone,carbon_intensity\n") + &"DE,5\n".repeat(MAX_ROWS + 7);
    let readings = read(csv);
    assert_eq!(refused(&readings), [(MAX_ROWS as u64 + 2, Why::TooManyRows)]);
    assert_eq!(in_force(&readings, now()).len(), 1);

    let json = format!("[{}{{}}]", "{\"zone\":\"DE\",\"carbonIntensity\":5},\n".repeat(MAX_ROWS + 7));
    assert_eq!(refused(&read(json)), [(MAX_ROWS as u64 + 1, Why::TooManyRows)]);

    let nested = format!("{{\"FR\": 5,\n\"DE\":[{}5]}}", "5,\n".repeat(MAX_ROWS + 7));
    assert_eq!(refused(&read(nested)), [(MAX_ROWS as u64 + 1, Why::TooManyRows)]);

    let long = String::from("zone,carbon_intensity,note\nDE,5,\nFR,5,") + &"x".repeat(MAX_FILE_BYTES);
    let readings = read(long);
    assert_eq!(refused(&readings), [(3, Why::TooManyBytes)]);
    assert_eq!(in_force(&readings, now()), [("DE", 5.0, Quality::Estimated)]);
}

#[test]
fn many_refusals_are_counted_and_few_are_kept() {
    let readings = read(String::from("zone,carbon_intensity\n") + &"DE,x\n".repeat(1000));
    assert_eq!((readings.refused().count, readings.refused().first.len()), (1000, MAX_REFUSED_SHOWN));
    assert_eq!(readings.refused().first[19].line, 21);
}

fn check(bytes: &[u8]) -> Result<(), TestCaseError> {
    let one_zone = FileOptions { zone: Some(GridZone::new("DE")), ..options() };
    let Ok(found) = parse(bytes, now(), &one_zone) else { return Ok(()) };
    prop_assert!(found.refused().first.len() <= MAX_REFUSED_SHOWN && found.refused().first.len() <= found.refused().count);
    let lines = bytes.iter().filter(|byte| **byte == b'\n' || **byte == b'\r').count() as u64 + 1;
    for refused in &found.refused().first {
        prop_assert!((1..=lines).contains(&refused.line), "{refused} of {lines}");
    }
    let places: Vec<_> = found.readings().iter().map(|(zone, reading)| (zone.clone(), reading.measured_at)).collect();
    prop_assert!(places.is_sorted() && places.windows(2).all(|pair| pair[0] != pair[1]));
    for (zone, reading) in found.readings() {
        prop_assert!(!zone.as_str().is_empty() && zone.as_str().len() <= MAX_ZONE_LEN);
        prop_assert!(reading.intensity.get() <= MAX_PLAUSIBLE_G_PER_KWH && GramsPerKwh::new(reading.intensity.get()).is_some());
        prop_assert!(reading.measured_at.duration_since(now()) <= MAX_AHEAD);
        prop_assert!(reading.valid_until >= reading.measured_at);
    }
    for (_, reading) in found.at(now()) {
        prop_assert!(reading.measured_at <= now());
    }
    Ok(())
}

/// Times of this decade and of the end of the century, some without offset, and some that are no times.
const TIMES: &str = "[-0-9:TZ]{0,4}|20(2[0-9]|99)-0[0-9]-[0-3][0-9]T1[0-9]:00:00(Z|)";

proptest! {
    #[test]
    fn any_bytes_are_read_without_panic(bytes in prop::collection::vec(any::<u8>(), 0..400)) {
        check(&bytes)?;
    }

    #[test]
    fn any_table_gives_only_plausible_readings(
        rows in prop::collection::vec(("[A-Z]{0,2}", TIMES, "-?[0-9]{1,5}|nan|inf|1e999|x|"), 0..20),
        end in "\n|\r\n",
    ) {
        let rows = rows.into_iter().map(|(zone, time, value)| format!("{zone},{time},{value}"));
        let text = std::iter::once("zone,datetime,carbon_intensity".to_owned()).chain(rows).collect::<Vec<_>>().join(&end);
        check(text.as_bytes())?;
    }

    #[test]
    fn any_document_gives_only_plausible_readings(
        rows in prop::collection::vec(("[A-Zé\"\\\\]{0,2}", TIMES, "-?[1-9][0-9]{0,5}|1e999|null|\"5\"|\\[1\\]|\\{\\}"), 0..20),
    ) {
        let row = |(zone, time, value): &(String, String, String)| {
            format!("{{\"zone\":{zone:?},\"datetime\":\"{time}\",\"carbonIntensity\":{value}}}")
        };
        let list: Vec<String> = rows.iter().map(row).collect();
        check(format!("[{}]", list.join(",\n")).as_bytes())?;
        check(format!("{{\"DE\":[{}],\"FR\":{}}}", list.join(",\n"), rows.first().map_or("1", |(_, _, value)| value)).as_bytes())?;
    }
}

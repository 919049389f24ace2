//! The access log held against AWS's own books: where a request through a profile of many regions ran stands in CloudTrail alone
//! (`additionalEventData.inferenceRegion`), hours later, under the request id that the log has as `provider_request_id`.
//!
//! The trail is read first and kept as two numbers for each call, then the logs go by, so that memory is bounded by the trail's calls
//! alone. Every attempt that has an id is restated by where it ran; what has none (nobody answered it) keeps its live figure. A
//! baseline that is the backend which answered would have run where this one did.

mod trail;

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io::{self, BufRead};

use serde::Serialize;

use super::completeness::Runs;
use super::lines::{self, BadLine, Line, TOO_LONG, why};
use super::render::shown;
use super::summary::MAX_NAMED;
use crate::config::builtin_reading;
use crate::grid::{Basis, Signal};
use crate::record::{AccessRecord, AttemptUsed, Emissions, Ended};
use crate::tables::{Region, Regions};
use crate::units::{Grams, GramsPerKwh, Joules};
pub use trail::Trail;
use trail::uuid;

/// Joules of a kilowatt-hour.
const JOULES_PER_KWH: f64 = 3.6e6;

/// What the logs said live, and what the trail makes of it.
#[derive(Debug, Default, Serialize)]
pub struct Reconciled {
    /// Records of exchanges with an id of AWS's kind.
    pub records: u64,
    /// Those of them that a trail knows.
    pub joined: u64,
    /// Attempts of these that were restated: the answer's own, and those before it.
    pub attempts: u64,
    /// Attempts that a trail knows and that ran in a region which the shipped table lacks, or whose energy or grid is unknown.
    pub not_restated: u64,
    /// Attempts restated with a yearly figure, since the line has no reading of that grid.
    pub by_yearly_figure: u64,
    /// Lines that are no records.
    pub bad_lines: u64,
    /// The first of them.
    pub first_bad: Vec<BadLine>,
    /// Records that had been read before, in another of the logs.
    pub duplicates: u64,
    #[serde(skip)]
    runs: Runs,
    /// Of records with grams of their own, of which something was restated: every attempt.
    pub emitted: Figures,
    /// The part of it that gave nobody anything.
    pub waste: Figures,
    /// What the same answers would have emitted at the baseline.
    pub baseline: Figures,
    /// The difference.
    pub saved: Figures,
    /// Sum of how far each record was off, in whichever direction.
    pub off_grams: f64,
    /// Restated records that had no grams, because nobody knew where they would run.
    pub unknown_live: u64,
    /// What these emitted by the trail.
    pub unknown_live_grams: f64,
    /// Restated records that are in no sum above, because what another of their attempts emitted is unknown.
    pub unknown_in_part: u64,
    /// By the region where it ran.
    pub regions: BTreeMap<String, Ran>,
}

/// Grams as the log had them, and by the trail, with the ends of the energy's band.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct Figures {
    /// What the log says.
    pub live_grams: f64,
    /// What it is by the trail.
    pub restated_grams: f64,
    /// The same at the lower end of the band.
    pub restated_grams_low: f64,
    /// The same at its upper end.
    pub restated_grams_high: f64,
}

/// What ran in one region.
#[derive(Debug, Default, PartialEq, Serialize)]
pub struct Ran {
    /// Restated attempts.
    pub attempts: u64,
    /// Of those, what the log thought to be in another grid.
    pub elsewhere: u64,
    /// Grams by the trail, of every attempt.
    pub grams: f64,
    /// Grams of those attempts that had a live figure.
    pub known: Figures,
    /// Sum of how far each of these was off, in whichever direction.
    pub off_grams: f64,
    /// The least that one of them was off, as a part of what it is by the trail; below zero where the log had too little.
    pub least_off: Option<f64>,
    /// The most.
    pub most_off: Option<f64>,
}

/// An attempt as the trail has it.
struct Restated {
    region: &'static Region,
    grams: f64,
    yearly: bool,
}

/// How far the ends of a band are from its middle, as factors.
#[derive(Clone, Copy)]
struct Band {
    low: f64,
    high: f64,
}

impl Band {
    /// Of the whole exchange, else of its answer: one model has one band.
    fn of(record: &AccessRecord<'_>) -> Self {
        let of = |[low, mid, high]: [f64; 3]| (mid > 0.0).then(|| Self { low: low / mid, high: high / mid });
        let whole = record.emissions.as_ref().and_then(|e| of(e.emitted().map(Grams::get)));
        let answer = || record.energy.as_ref().and_then(|e| of(e.ends().map(Joules::get)));
        whole.or_else(answer).unwrap_or(Self { low: 1.0, high: 1.0 })
    }
}

impl Figures {
    fn add(&mut self, live: f64, restated: f64, band: Band) {
        self.live_grams += live;
        self.restated_grams += restated;
        self.restated_grams_low += restated * band.low;
        self.restated_grams_high += restated * band.high;
    }

    /// How much more the live figure is, in percent.
    fn off_percent(&self) -> f64 {
        percent(self.live_grams - self.restated_grams, self.restated_grams)
    }
}

fn percent(part: f64, whole: f64) -> f64 {
    if whole == 0.0 { 0.0 } else { 100.0 * part / whole }
}

impl Reconciled {
    /// Adds every line of a log, which is called that where a line of it is named.
    pub fn add_log(&mut self, name: &str, trail: &Trail, mut reader: impl BufRead) -> io::Result<()> {
        let mut buffer = Vec::new();
        for number in 1.. {
            match lines::next(&mut reader, &mut buffer)? {
                Line::End => break,
                Line::Blank => {}
                Line::TooLong => self.bad(name, number, TOO_LONG),
                Line::Text => match AccessRecord::of_line(&buffer) {
                    Ok(record) if record.is_simulated() => {}
                    Ok(record) if self.runs.note(&record.instance, &record.run, record.seq) => self.add(trail, &record),
                    Ok(_) => self.duplicates += 1,
                    Err(error) => self.bad(name, number, why(&error)),
                },
            }
        }
        Ok(())
    }

    fn bad(&mut self, log: &str, line: u64, why: &'static str) {
        self.bad_lines += 1;
        if self.first_bad.len() < MAX_NAMED {
            self.first_bad.push(BadLine { log: log.to_owned(), line, why });
        }
    }

    fn add(&mut self, trail: &Trail, record: &AccessRecord<'_>) {
        let Some((last, others)) = record.attempts.split_last() else { return };
        let ids = || {
            let before = others.iter().map(|attempt| (attempt, attempt.provider_request_id.as_deref()));
            let all = before.chain([(last, record.provider_request_id.as_deref())]);
            all.map(|(attempt, id)| (attempt, id.filter(|id| uuid(id).is_some())))
        };
        if ids().all(|(_, id)| id.is_none()) {
            return;
        }
        self.records += 1;
        let known = |id: Option<&str>| id.and_then(|id| trail.region(id));
        // Its events are calls that were turned away.
        let ran = |attempt: &AttemptUsed<'_>| !matches!(&*attempt.outcome, "refused" | "unreachable");
        if ids().all(|(_, id)| known(id).is_none()) {
            return;
        }
        self.joined += 1;
        let band = Band::of(record);
        let mut grams = Vec::with_capacity(record.attempts.len());
        let mut restated_any = false;
        for (attempt, id) in ids() {
            let restated = known(id.filter(|_| ran(attempt))).map(|region| restate(record, attempt, region));
            self.not_restated += u64::from(matches!(restated, Some(None)));
            let restated = restated.flatten();
            restated_any |= restated.is_some();
            grams.push(restated.as_ref().map(|it| it.grams).or(attempt.grams.map(Grams::get)));
            if let Some(restated) = restated {
                let thought = if std::ptr::eq(attempt, last) { record.grid_zone.as_deref() } else { zone_of(record, attempt) };
                self.ran(&restated, attempt, thought, band);
            }
        }
        if restated_any {
            // A sum with an unknown part is unknown.
            match grams.iter().copied().sum() {
                Some(total) => self.sum_up(record, total, grams.last().copied().flatten(), band),
                None => self.unknown_in_part += 1,
            }
        }
    }

    fn ran(&mut self, restated: &Restated, attempt: &AttemptUsed<'_>, thought: Option<&str>, band: Band) {
        let Restated { region, grams, yearly } = *restated;
        self.attempts += 1;
        self.by_yearly_figure += u64::from(yearly);
        let ran = self.regions.entry(region.name.to_string()).or_default();
        ran.attempts += 1;
        ran.grams += grams;
        ran.elsewhere += u64::from(thought != Some(region.grid_zone.as_str()));
        let Some(live) = attempt.grams.map(Grams::get) else { return };
        ran.known.add(live, grams, band);
        ran.off_grams += (live - grams).abs();
        if grams > 0.0 {
            let off = (live - grams) / grams;
            ran.least_off = Some(ran.least_off.map_or(off, |least| least.min(off)));
            ran.most_off = Some(ran.most_off.map_or(off, |most| most.max(off)));
        }
    }

    /// Adds an exchange whose attempts emitted so much by the trail, and the last of them so much.
    fn sum_up(&mut self, record: &AccessRecord<'_>, total: f64, last: Option<f64>, band: Band) {
        let Some(live) = record.emissions.as_ref() else {
            self.unknown_live += 1;
            self.unknown_live_grams += total;
            return;
        };
        let Emissions { grams: live_grams, baseline_grams, saved_grams, waste_grams, .. } = live;
        let answered = record.ended == Ended::Complete && record.status.is_some_and(|status| (200..300).contains(&status));
        let answer = last.filter(|_| answered).unwrap_or_default();
        let live_answer = record.attempts.last().and_then(|last| last.grams).map_or(0.0, Grams::get);
        // The same machine: it would have run where this one did.
        let same =
            record.decision.as_ref().is_some_and(|decision| decision.baseline.is_some() && decision.baseline == record.backend);
        let as_the_answer = if live_answer > 0.0 && same { answer / live_answer } else { 1.0 };
        let baseline = baseline_grams.get() * as_the_answer;
        self.emitted.add(live_grams.get(), total, band);
        self.waste.add(waste_grams.get(), total - answer, band);
        self.baseline.add(baseline_grams.get(), baseline, band);
        self.saved.add(saved_grams.get(), baseline - total, band);
        self.off_grams += (live_grams.get() - total).abs();
    }

    /// For eyes.
    pub fn text(&self) -> String {
        let mut text = String::new();
        let Self { records, joined, attempts, .. } = self;
        let _ =
            writeln!(text, "{records} records with an AWS request id, {joined} of them in the trail, with {attempts} attempts");
        let _ = writeln!(text, "\n{:<16} {:>12} {:>14}   low to high", "grams", "live", "by the trail");
        let rows =
            [("emitted", &self.emitted), ("of it waste", &self.waste), ("baseline", &self.baseline), ("saved", &self.saved)];
        for (what, Figures { live_grams, restated_grams, restated_grams_low, restated_grams_high }) in rows {
            let _ = writeln!(
                text,
                "{what:<16} {live_grams:>12.3} {restated_grams:>14.3}   {restated_grams_low:.3} to {restated_grams_high:.3}"
            );
        }
        let _ = writeln!(
            text,
            "\nthe live figure was off by {:+.1} % in all, and by {:.1} % request by request",
            self.emitted.off_percent(),
            percent(self.off_grams, self.emitted.restated_grams)
        );
        for (count, what) in [
            (self.unknown_live, format!("records had no live figure and emitted {:.3} g", self.unknown_live_grams)),
            (self.unknown_in_part, "records are in no sum: what another of their attempts emitted is unknown".to_owned()),
            (
                self.by_yearly_figure,
                "attempts are restated with a yearly figure, as their line has no reading of that grid".to_owned(),
            ),
            (self.not_restated, "attempts are not restated: their region, grid or energy is unknown".to_owned()),
            (self.duplicates, "records had been read before".to_owned()),
            (self.bad_lines, "lines are no records".to_owned()),
        ] {
            if count > 0 {
                let _ = writeln!(text, "{count} {what}");
            }
        }
        for BadLine { log, line, why } in &self.first_bad {
            let _ = writeln!(text, "  {}:{line}: {why}", shown(log));
        }
        self.regions_text(&mut text);
        text
    }

    fn regions_text(&self, text: &mut String) {
        let _ = writeln!(
            text,
            "\n{:<24} {:>8} {:>17} {:>10} {:>12} {:>8}   one by one, and low to high",
            "ran in", "attempts", "thought elsewhere", "live", "by the trail", "off"
        );
        for (region, Ran { attempts, elsewhere, known, grams, least_off, most_off, .. }) in &self.regions {
            let range =
                least_off.zip(*most_off).map(|(least, most)| format!("{:+.1} to {:+.1} %, ", 100.0 * least, 100.0 * most));
            let _ = writeln!(
                text,
                "{region:<24} {attempts:>8} {elsewhere:>17} {:>10.3} {grams:>12.3} {:>+6.1} %   {}{:.3} to {:.3} g",
                known.live_grams,
                known.off_percent(),
                range.unwrap_or_default(),
                known.restated_grams_low,
                known.restated_grams_high,
            );
        }
    }
}

/// An attempt by where it ran; `None` where that cannot be said.
fn restate(record: &AccessRecord<'_>, attempt: &AttemptUsed<'_>, region: &str) -> Option<Restated> {
    let region = Regions::shipped().lookup(&format!("aws/{region}"))?;
    let (intensity, yearly) = intensity(record, region)?;
    let grams = attempt.joules?.get() / JOULES_PER_KWH * region.pue.get() * intensity.get();
    Some(Restated { region, grams, yearly })
}

/// The grid that an attempt was thought to be in: that of the decision's candidate of its name.
fn zone_of<'r>(record: &'r AccessRecord<'_>, attempt: &AttemptUsed<'_>) -> Option<&'r str> {
    let candidates = record.decision.iter().flat_map(|decision| &decision.candidates);
    candidates.into_iter().find(|candidate| candidate.backend == attempt.backend)?.grid_zone.as_deref()
}

/// The intensity of a region's grid at the decision, and whether that is a yearly figure: by the line itself where it has that grid.
fn intensity(record: &AccessRecord<'_>, region: &'static Region) -> Option<(GramsPerKwh, bool)> {
    let zone = region.grid_zone.as_str();
    let carbon = record.carbon.as_ref()?;
    let used = [&carbon.chosen, carbon.at_baseline()].into_iter().find(|used| used.grid_zone.as_deref() == Some(zone));
    let candidates = record.decision.iter().flat_map(|decision| &decision.candidates);
    let of_candidate = || candidates.clone().find(|it| it.grid_zone.as_deref() == Some(zone))?.intensity_g_per_kwh;
    if let Some(known) = used.and_then(|used| used.intensity_g_per_kwh).or_else(of_candidate) {
        return Some((known, false));
    }
    // One signal is never mixed with another.
    let fits = carbon.chosen.signal.is_none_or(|signal| signal == Signal::Average)
        && carbon.chosen.basis.is_none_or(|basis| basis == Basis::Lifecycle);
    builtin_reading(&region.grid_zone).filter(|_| fits).map(|reading| (reading.intensity, true))
}

#[cfg(test)]
mod tests {
    use super::*;

    const ID: [&str; 3] =
        ["00000000-0000-0000-0000-000000000001", "00000000-0000-0000-0000-000000000002", "00000000-0000-0000-0000-000000000003"];

    fn trail(regions: &[&str]) -> Trail {
        let event = |(id, region): (&&str, &&str)| {
            format!(
                r#"{{"eventSource":"bedrock.amazonaws.com","requestID":"{id}","awsRegion":"x","additionalEventData":{{"inferenceRegion":"{region}"}}}}"#
            )
        };
        let events: Vec<String> = ID.iter().zip(regions).map(event).collect();
        let mut trail = Trail::default();
        trail.read(format!(r#"{{"Records":[{}]}}"#, events.join(",")).as_bytes()).unwrap();
        trail
    }

    /// A failed attempt at one backend and the answer of another, both through profiles, and a baseline of that name. The joules are
    /// those of a gram at 360 g/kWh and a PUE of one.
    fn line(baseline: &str, emissions: bool) -> String {
        let attempt = |backend: &str, outcome: &str, id: &str| {
            format!(
                r#"{{"backend":"{backend}","outcome":"{outcome}","ms":1,"joules":10000.0,"pue":1.0,"intensity_g_per_kwh":720.0,{id}"grams":2.0}}"#
            )
        };
        let candidate = |backend: &str, zone: &str, intensity: f64| {
            format!(
                r#"{{"backend":"{backend}","grid_zone":"{zone}","verdict":"dirtier","intensity_g_per_kwh":{intensity},"in_flight":0}}"#
            )
        };
        let emissions = if emissions {
            r#""emissions":{"grams":4.0,"grams_low":2.0,"grams_high":12.0,"baseline_grams":3.0,"baseline_grams_low":1.5,
                "baseline_grams_high":9.0,"saved_grams":-1.0,"waste_grams":2.0},"#
        } else {
            ""
        };
        let text = format!(
            r#"{{"time":"2026-11-20T10:00:00Z","instance":"i","run":"r","seq":0,"generation":1,"id":"x","provider_request_id":"{}",
            "http.request.method":"POST","url.path":"/model/m/converse","http.response.status_code":200,"backend":"states","grid_zone":"US-MIDW-MISO",
            "decision":{{"reason":"least_carbon","baseline":"{baseline}","candidates":[{},{},{}]}},
            "carbon":{{"chosen":{{"grid_zone":"US-MIDW-MISO"}},"baseline":{{}}}},{emissions}
            "attempts":[{},{}],"ended":"complete"}}"#,
            ID[1],
            candidate("union", "PL", 720.0),
            candidate("oregon", "US-NW-PACW", 180.0),
            candidate("stockholm", "SE-SE3", 18.0),
            attempt("union", "broken", &format!(r#""provider_request_id":"{}","#, ID[0])),
            attempt("states", "answered", ""),
        );
        text.replace('\n', "")
    }

    fn reconciled(trail: &Trail, line: &str) -> Reconciled {
        let mut reconciled = Reconciled::default();
        reconciled.add_log("log", trail, line.as_bytes()).unwrap();
        reconciled
    }

    fn near(number: f64, expected: f64) -> bool {
        (number - expected).abs() < 1e-9
    }

    #[test]
    fn every_attempt_is_restated_by_where_it_ran() {
        let found = reconciled(&trail(&["eu-north-1", "us-west-2"]), &line("other", true));
        let counts = [found.records, found.joined, found.attempts, found.not_restated, found.by_yearly_figure];
        assert_eq!(counts, [1, 1, 2, 0, 0]);
        let pue = |name| Regions::shipped().lookup(name).unwrap().pue.get();
        // 10 kJ at 18 and at 180 g/kWh.
        let (waste, answer) = (0.05 * pue("aws/eu-north-1"), 0.5 * pue("aws/us-west-2"));
        let Figures { live_grams, restated_grams, restated_grams_low, restated_grams_high } = found.emitted;
        assert!(near(live_grams, 4.0) && near(restated_grams, waste + answer), "{found:?}");
        assert!(near(restated_grams_low, 0.5 * (waste + answer)) && near(restated_grams_high, 3.0 * (waste + answer)));
        assert!(near(found.waste.live_grams, 2.0) && near(found.waste.restated_grams, waste));
        assert!(
            near(found.baseline.live_grams, 3.0) && near(found.baseline.restated_grams, 3.0),
            "another backend stays as it was"
        );
        assert!(near(found.saved.live_grams, -1.0) && near(found.saved.restated_grams, 3.0 - waste - answer));
        assert!(near(found.off_grams, 4.0 - waste - answer));
        let oregon = &found.regions["aws/us-west-2"];
        assert_eq!((oregon.attempts, oregon.elsewhere), (1, 1));
        assert!(near(oregon.known.live_grams, 2.0) && near(oregon.grams, answer) && near(oregon.off_grams, 2.0 - answer));
        assert!(near(oregon.least_off.unwrap(), (2.0 - answer) / answer) && oregon.least_off == oregon.most_off);
        let text = found.text();
        assert!(text.contains("aws/us-west-2") && text.contains("aws/eu-north-1") && text.contains("of it waste"), "{text}");
    }

    #[test]
    fn what_was_turned_away_ran_nowhere() {
        let refused = line("other", true).replace("broken", "refused").replacen("10000.0", "0.0", 1).replacen(
            r#""grams":2.0"#,
            r#""grams":0.0"#,
            1,
        );
        let found = reconciled(&trail(&["eu-north-1", "us-west-2"]), &refused);
        assert_eq!((found.attempts, found.regions.keys().map(String::as_str).collect::<Vec<_>>()), (1, vec!["aws/us-west-2"]));
    }

    #[test]
    fn what_the_trail_does_not_know_keeps_its_figure_and_a_baseline_runs_where_the_same_backend_did() {
        // Of the first attempt there is no event.
        let mut only_the_answer = Trail::default();
        let event = format!(
            r#"{{"Records":[{{"eventSource":"bedrock.amazonaws.com","requestID":"{}","awsRegion":"us-west-2"}}]}}"#,
            ID[1]
        );
        only_the_answer.read(event.as_bytes()).unwrap();
        let found = reconciled(&only_the_answer, &line("states", true));
        let answer = 0.5 * Regions::shipped().lookup("aws/us-west-2").unwrap().pue.get();
        assert_eq!((found.joined, found.attempts), (1, 1));
        assert!(near(found.emitted.restated_grams, 2.0 + answer) && near(found.waste.restated_grams, 2.0), "{found:?}");
        assert!(near(found.baseline.restated_grams, 3.0 * answer / 2.0), "as much less as its answer");
        let unknown = reconciled(&only_the_answer, &line("states", false));
        assert_eq!((unknown.unknown_live, unknown.emitted), (1, Figures::default()));
        assert!(near(unknown.unknown_live_grams, 2.0 + answer));
        // Nor is a part of a sum shown as the sum.
        let lost = line("states", false).replacen(r#""grams":2.0"#, r#""grams":null"#, 1);
        let partly = reconciled(&only_the_answer, &lost);
        assert_eq!((partly.unknown_in_part, partly.unknown_live, partly.unknown_live_grams), (1, 0, 0.0), "{lost}");
        assert_eq!(reconciled(&Trail::default(), &line("states", true)).joined, 0);
        let nowhere = reconciled(&trail(&["atlantis-1", "atlantis-2"]), &line("states", true));
        assert_eq!((nowhere.joined, nowhere.not_restated, nowhere.emitted), (1, 2, Figures::default()));
    }
}

//! The report as text, JSON and CSV. Pure: it returns text and leaves the printing to the command line.
//!
//! Names of models come from clients. They are shown without control characters, and a spreadsheet is not handed one that it would
//! take for a formula.

mod table;

use std::fmt::Write;

use super::figures::{Completeness, Figures, Lines, Report, Section, Shadow, Traffic, Unserved};
use table::Table;

/// Rows of a table in the text; JSON and CSV have all of them.
const MAX_ROWS: usize = 24;
/// Cells of a bar.
const BAR: usize = 16;

/// For eyes: the relative saving first. `colour` adds terminal colours.
pub fn text(report: &Report, colour: bool) -> String {
    let mut out = String::new();
    for notice in &report.notices {
        line(&mut out, &paint(colour, Paint::Loss, notice));
    }
    if !report.notices.is_empty() {
        out.push('\n');
    }
    for traffic in &report.traffic {
        traffic_text(&mut out, traffic, report.statement, colour);
    }
    lines_text(&mut out, &report.lines, &report.completeness);
    out
}

/// For programs: the report as it is, indented.
pub fn json(report: &Report) -> String {
    let mut text = serde_json::to_string_pretty(report).unwrap_or_default();
    text.push('\n');
    text
}

/// For spreadsheets: one row for each section's total and each group. Numbers are in grams and tokens; unknown is empty.
pub fn csv(report: &Report) -> String {
    let mut out = String::from(
        "data,signal,basis,dimension,value,requests,complete,saved_relative,saved_grams,saved_grams_low,saved_grams_high,\
         grams,grams_low,grams_high,baseline_grams,baseline_grams_low,baseline_grams_high,waste_grams,input_tokens,output_tokens\n",
    );
    for traffic in &report.traffic {
        let data = if traffic.simulated { "simulated" } else { "real" };
        for section in &traffic.sections {
            let words = |dimension| [data, section.signal, section.basis, dimension];
            csv_row(&mut out, words("total"), "", &section.total);
            for (dimension, groups) in &section.by {
                for group in groups {
                    csv_row(&mut out, words(dimension.as_str()), &group.value, &group.figures);
                }
            }
        }
        for (value, requests) in [
            ("no model ran", traffic.without_work),
            ("grams unknown", traffic.without_grams),
            ("signal or basis unknown", traffic.without_kind),
        ] {
            if requests > 0 {
                line(&mut out, &format!("{data},,,excluded,{value},{requests}{}", ",".repeat(14)));
            }
        }
    }
    out
}

fn csv_row(out: &mut String, words: [&str; 4], value: &str, figures: &Figures) {
    let relative = figures.saved_relative.map_or_else(String::new, |relative| relative.to_string());
    let _ = write!(out, "{},{},{},{},{relative}", words.join(","), quoted(value), figures.requests, figures.complete);
    for interval in [figures.saved_grams, figures.grams, figures.baseline_grams] {
        let _ = write!(out, ",{},{},{}", interval.mid, interval.low, interval.high);
    }
    let _ = writeln!(out, ",{},{},{}", figures.waste_grams, figures.input_tokens, figures.output_tokens);
}

/// A field as RFC 4180 wants it, with an apostrophe before what a spreadsheet would compute.
fn quoted(field: &str) -> String {
    let guard = if field.starts_with(['=', '+', '-', '@', '\t', '\r']) { "'" } else { "" };
    if field.contains([',', '"', '\n', '\r']) {
        format!("\"{guard}{}\"", field.replace('"', "\"\""))
    } else {
        format!("{guard}{field}")
    }
}

fn traffic_text(out: &mut String, traffic: &Traffic, statement: &str, colour: bool) {
    let title = if traffic.simulated { "Simulated traffic" } else { "Traffic" };
    let period = match (traffic.first, traffic.last) {
        (Some(first), Some(last)) => format!(", {} to {}", minute(first), minute(last)),
        _ => String::new(),
    };
    line(out, &paint(colour, Paint::Head, &format!("{title}{period}")));
    let ended: Vec<String> = traffic.ended.iter().map(|(word, n)| format!("{} {n}", word.replace('_', " "))).collect();
    fact(out, "requests", &format!("{}: {}", traffic.requests, ended.join(", ")));
    let first = &traffic.first_token;
    if let (Some(p50), Some(p95)) = (first.p50_ms, first.p95_ms) {
        fact(out, "first token", &format!("p50 {p50:.0} ms, p95 {p95:.0} ms"));
    }
    if let Some(within) = first.within_budget {
        fact(out, "in budget", &format!("{} of {} that had one", percent(within), first.judged));
    }
    let tokens: Vec<String> = traffic.tokens.iter().map(|(source, t)| format!("{source} {}", percent(t.share))).collect();
    let (input, output) =
        traffic.tokens.values().fold((0u64, 0u64), |(i, o), t| (i.saturating_add(t.input), o.saturating_add(t.output)));
    fact(out, "tokens", &format!("{input} in, {output} out; of the requests: {}", tokens.join(", ")));
    if let Some(cost) = &traffic.cost {
        let more = cost.usd - cost.baseline_usd;
        let side = if more < 0.0 { "less" } else { "more" };
        let of = format!("{}, {} {side} than at the baseline", dollars(cost.usd), dollars(more.abs()));
        fact(out, "cost", &format!("{of}; of {} requests whose prices are known", cost.requests));
    }
    for (count, what) in [
        (traffic.without_work, "requests are in no sum below, because no model ran for them: they emitted nothing"),
        (traffic.without_grams, "requests are in no sum below, because their grams are unknown"),
        (traffic.without_kind, "requests are in no sum below, because their signal or basis is unknown or mixed"),
        (traffic.contradictory, "requests give a saving that is not the difference of their grams; the grams were used"),
    ] {
        if count > 0 {
            fact(out, "note", &format!("{count} {what}"));
        }
    }
    for unserved in &traffic.unserved {
        let Unserved { policy, requests, sent, held, refused } = unserved;
        let would = format!("{} would have sent {sent}, held back {held} and refused {refused}", shown(policy));
        fact(out, "shadow", &format!("of {requests} requests that were sent nowhere {would}"));
    }
    out.push('\n');
    for section in &traffic.sections {
        section_text(out, traffic, section, statement, colour);
    }
}

fn section_text(out: &mut String, traffic: &Traffic, section: &Section, statement: &str, colour: bool) {
    let total = &section.total;
    let carbon = if traffic.simulated { "Simulated carbon" } else { "Carbon" };
    line(out, &paint(colour, Paint::Head, &format!("{carbon}, {} signal, {} basis", section.signal, section.basis)));
    fact(out, "requests", &format!("{} of {}", total.requests, traffic.requests));
    match total.saved_relative {
        Some(relative) => {
            fact(out, "saved", &format!("{} ({statement})", paint(colour, Paint::of(relative), &saving(relative))));
            let grams = total.saved_grams;
            fact(out, "", &format!("{} ({} to {})", mass(grams.mid), mass(grams.low), mass(grams.high)));
        }
        None => fact(out, "saved", "nothing: failed requests save nothing"),
    }
    for (name, grams) in [("emitted", total.grams), ("baseline", total.baseline_grams)] {
        fact(out, name, &format!("{} ({} to {})", mass(grams.mid), mass(grams.low), mass(grams.high)));
    }
    let wasted = if total.grams.mid > 0.0 { total.waste_grams / total.grams.mid } else { 0.0 };
    fact(out, "waste", &format!("{}, {} of the emitted", mass(total.waste_grams), percent(wasted)));
    fact(out, "band", "of the energy coefficients only; errors of intensity and PUE come on top");
    for (name, shares) in
        [("intensity", &section.freshness), ("", &section.intensity_quality), ("energy", &section.energy_quality)]
    {
        let words: Vec<String> =
            shares.iter().map(|(word, n)| format!("{word} {}", percent(*n as f64 / total.requests.max(1) as f64))).collect();
        fact(out, name, &words.join(", "));
    }
    for shadow in &section.shadows {
        fact(out, "shadow", &shadowed(shadow));
    }
    out.push('\n');
    for (dimension, groups) in &section.by {
        let largest = groups.iter().map(|g| g.figures.grams.mid.max(g.figures.baseline_grams.mid)).fold(0.0, f64::max);
        let mut table = Table::new(dimension.as_str());
        for group in groups.iter().take(MAX_ROWS) {
            table.row(&shown(&group.value), &group.figures, largest, colour);
        }
        table.write(out);
        if groups.len() > MAX_ROWS {
            line(out, &format!("  and {} more: see --format json or csv", groups.len() - MAX_ROWS));
        }
        out.push('\n');
    }
    if !section.by.is_empty() {
        out.push_str("  bars: \u{2588} emitted, \u{2591} saved, \u{2592} emitted beyond the baseline\n\n");
    }
}

fn lines_text(out: &mut String, lines: &Lines, completeness: &Completeness) {
    line(out, &format!("Read {} records from {} {}.", lines.records, lines.logs, if lines.logs == 1 { "log" } else { "logs" }));
    if let Some(share) = completeness.share {
        let Completeness { runs, expected, seen, .. } = completeness;
        let runs = format!("{runs} {}", if *runs == 1 { "run" } else { "runs" });
        line(
            out,
            &format!("Complete to {}: {seen} of {expected} lines between the first and the last of {runs}.", percent(share)),
        );
    }
    for bad in &lines.first_bad {
        line(out, &format!("  {}:{}: {}", shown(&bad.log), bad.line, bad.why));
    }
    if lines.bad > lines.first_bad.len() as u64 {
        line(out, &format!("  and {} more", lines.bad - lines.first_bad.len() as u64));
    }
}

/// A saving in words; the sign is in the last one.
fn saving(relative: f64) -> String {
    match relative {
        // What would be shown as 0.0 % has no direction.
        same if same.abs() < 0.0005 => "no difference".to_owned(),
        less if less > 0.0 => format!("{} less", percent(less)),
        more => format!("{} more", percent(-more)),
    }
}

fn percent(share: f64) -> String {
    // Nearly everything is not everything: what lacks a line must not read as whole.
    let percent = share * 100.0;
    let percent = if percent < 100.0 { percent.min(99.9) } else { percent };
    format!("{percent:.1} %")
}

/// Grams in the unit that leaves one to three digits before the point.
pub(crate) fn mass(grams: f64) -> String {
    let (value, unit) = match grams.abs() {
        0.0 => return "0 g".to_owned(),
        size if size < 1e-3 => (grams * 1e6, "\u{b5}g"),
        size if size < 1.0 => (grams * 1e3, "mg"),
        size if size < 1e3 => (grams, "g"),
        size if size < 1e6 => (grams / 1e3, "kg"),
        _ => (grams / 1e6, "t"),
    };
    let decimals = match value.abs() {
        size if size < 10.0 => 2,
        size if size < 100.0 => 1,
        _ => 0,
    };
    format!("{value:.decimals$} {unit}")
}

fn shadowed(shadow: &Shadow) -> String {
    let Shadow { policy, requests, elsewhere, refused, held, chosen_grams, instead_grams } = shadow;
    let relative = if *chosen_grams > 0.0 { (chosen_grams - instead_grams) / chosen_grams } else { 0.0 };
    let [chosen, other] = [chosen_grams, instead_grams].map(|grams| mass(*grams));
    let others =
        |what: &str, count: u64| if count > 0 { format!(", and would have {what} {count} others") } else { String::new() };
    let (refused, held) = (others("refused", *refused), others("held back", *held));
    format!(
        "{} would have sent {elsewhere} of {requests} elsewhere{refused}{held}; by prediction {other} instead of {chosen}, {}",
        shown(policy),
        saving(relative)
    )
}

/// Dollars, with as many digits as a small amount needs to be one.
pub(crate) fn dollars(usd: f64) -> String {
    let decimals = match usd.abs() {
        0.0 => 0,
        size if size < 0.001 => 7,
        size if size < 1.0 => 4,
        _ => 2,
    };
    format!("{usd:.decimals$} USD")
}

fn minute(time: jiff::Timestamp) -> String {
    time.strftime("%Y-%m-%d %H:%MZ").to_string()
}

/// Text of a client or a path for the terminal: a control character could move the cursor or worse.
pub(crate) fn shown(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { '\u{fffd}' } else { c }).collect()
}

pub(crate) fn line(out: &mut String, text: &str) {
    out.push_str(text.trim_end());
    out.push('\n');
}

pub(crate) fn fact(out: &mut String, name: &str, text: &str) {
    line(out, &format!("  {name:<12} {text}"));
}

#[derive(Clone, Copy)]
pub(crate) enum Paint {
    Head,
    Gain,
    Loss,
}

impl Paint {
    fn of(saved: f64) -> Self {
        if saved < 0.0 { Self::Loss } else { Self::Gain }
    }
}

pub(crate) fn paint(colour: bool, paint: Paint, text: &str) -> String {
    let code = match paint {
        Paint::Head => "1",
        Paint::Gain => "32",
        Paint::Loss => "31",
    };
    if colour { format!("\u{1b}[{code}m{text}\u{1b}[0m") } else { text.to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn grams_are_written_for_people() {
        for (grams, expected) in [
            (0.0, "0 g"),
            (0.000_012_34, "12.3 \u{b5}g"),
            (0.005, "5.00 mg"),
            (-0.25, "-250 mg"),
            (1.0, "1.00 g"),
            (1234.5, "1.23 kg"),
            (-2.5e6, "-2.50 t"),
        ] {
            assert_eq!(mass(grams), expected);
        }
    }

    #[test]
    fn a_loss_is_said_as_one() {
        assert_eq!(saving(0.4321), "43.2 % less");
        assert_eq!(saving(-0.05), "5.0 % more");
        assert_eq!(saving(-0.0004), "no difference");
    }

    #[test]
    fn nearly_all_is_not_all() {
        assert_eq!((percent(1.0), percent(0.999_99)), ("100.0 %".to_owned(), "99.9 %".to_owned()));
    }

    #[test]
    fn a_name_cannot_act_on_whoever_reads_it() {
        assert_eq!(shown("a\u{1b}[2Jb"), "a\u{fffd}[2Jb");
        assert_eq!(quoted("=HYPERLINK(\"x\")"), "\"'=HYPERLINK(\"\"x\"\")\"");
        assert_eq!(quoted("gpt-4o"), "gpt-4o");
    }
}

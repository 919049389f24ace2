//! What the demonstration shows while it runs, as text: a frame for a terminal, or lines for a file.
//!
//! A renderer is pure: it is given the numbers, the width and whether there is colour, so that what people see is held by
//! snapshots. It draws with plain lines rather than a library for whole-screen interfaces, since it has one picture and no keys.

use std::fmt::Write as _;
use std::time::Duration;

use crate::units::{Grams, GramsPerKwh, GramsSaved, Millis};

/// A name longer than this is cut: `ap-southeast-2` with its grid zone is not.
const MAX_NAME: usize = 28;
/// A bar longer than this is no better to read.
const MAX_BAR: usize = 48;
/// Columns that a row takes beside its name and its bar.
const NUMBERS_WIDTH: usize = 48;
/// Below this a zone counts as clean, and above [`DIRTY_G_PER_KWH`] as dirty: thirds of what grids span today.
const CLEAN_G_PER_KWH: f64 = 100.0;
const DIRTY_G_PER_KWH: f64 = 350.0;

/// The state of the demonstration at one moment.
#[derive(Clone, Debug, PartialEq)]
pub struct View {
    /// The regions in the order in which they are shown.
    pub regions: Vec<RegionView>,
    /// The latency budget of the traffic, to the first token.
    pub budget: Millis,
    /// Emitted so far, estimated.
    pub grams: Grams,
    /// What the choice by latency alone would have emitted.
    pub baseline: Grams,
    /// The difference.
    pub saved: GramsSaved,
    /// Since the start.
    pub elapsed: Duration,
    /// The hour of the day on the simulated grids, 0 to 24, UTC.
    pub simulated_hour: f64,
}

/// One region at that moment.
#[derive(Clone, Debug, PartialEq)]
pub struct RegionView {
    /// Its name.
    pub name: String,
    /// Its share of the latest requests, 0 to 1.
    pub share: f64,
    /// Its grid's intensity; `None` while nothing is known.
    pub intensity: Option<GramsPerKwh>,
    /// Requests under way there.
    pub in_flight: u64,
    /// The median time to the first token; `None` before there was any.
    pub p50: Option<Millis>,
    /// The time to the first token that 19 of 20 stay under.
    pub p95: Option<Millis>,
}

/// Whether escape sequences for colour are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Colour {
    /// Plain text.
    Never,
    /// Green, yellow and red, and dim and bold text.
    Ansi,
}

#[derive(Clone, Copy)]
enum Ink {
    Bold,
    Dim,
    Green,
    Yellow,
    Red,
}

impl Colour {
    fn paint(self, ink: Ink, text: &str) -> String {
        let code = match ink {
            Ink::Bold => 1,
            Ink::Dim => 2,
            Ink::Green => 32,
            Ink::Yellow => 33,
            Ink::Red => 31,
        };
        match self {
            Self::Never => text.to_owned(),
            Self::Ansi => format!("\x1b[{code}m{text}\x1b[0m"),
        }
    }
}

impl View {
    /// A frame for a terminal that is `width` columns wide. No line is longer than that: on a narrow one the bars go first, and then
    /// what is at the right. The caller puts the cursor back to the frame's beginning.
    pub fn frame(&self, width: usize, colour: Colour) -> String {
        let name_width = self.regions.iter().map(|region| region.name.chars().count()).max().unwrap_or(0).clamp(6, MAX_NAME);
        let bar_width = width.saturating_sub(name_width + NUMBERS_WIDTH).min(MAX_BAR);
        let mut text = String::new();
        let line = |text: &mut String, content: &str| line(text, &cut(content, width));
        let clock = format!("simulated {} UTC", hour(self.simulated_hour));
        let running = format!("running {}", minutes(self.elapsed));
        let budget = format!("budget {} to the first token", millis(Some(self.budget)));
        line(&mut text, &format!("{}   {running}   {budget}", colour.paint(Ink::Bold, &clock)));
        line(&mut text, "");
        let head = format!(
            "{:name_width$} {:>9} {:bar_width$} {:>5} {:>9} {:>9} {:>9}",
            "region", "gCO2e/kWh", "", "share", "in flight", "p50", "p95"
        );
        line(&mut text, &colour.paint(Ink::Dim, head.trim_end()));
        for region in &self.regions {
            line(&mut text, &self.row(region, name_width, bar_width, colour));
        }
        line(&mut text, "");
        line(&mut text, &self.summary(colour));
        line(&mut text, &colour.paint(Ink::Dim, "estimated against the latency-only choice; grids and endpoints are simulated"));
        text
    }

    /// One line for a log or a pipe.
    pub fn plain_line(&self) -> String {
        let hour = hour(self.simulated_hour);
        let mut text = format!("{} simulated {hour} UTC, budget {}", minutes(self.elapsed), millis(Some(self.budget)));
        for region in &self.regions {
            let intensity = region.intensity.map_or_else(|| "-".to_owned(), |intensity| format!("{:.0}", intensity.get()));
            let _ = write!(
                text,
                " | {} {:.0}%, {intensity} gCO2e/kWh, {} in flight, p50 {}, p95 {}",
                region.name,
                percent(region.share),
                region.in_flight,
                millis(region.p50),
                millis(region.p95),
            );
        }
        let _ = write!(text, " | {}", self.summary(Colour::Never).replace("   ", ", "));
        text
    }

    fn row(&self, region: &RegionView, name_width: usize, bar_width: usize, colour: Colour) -> String {
        let name: String = region.name.chars().take(name_width).collect();
        let (value, ink) = match region.intensity {
            Some(intensity) => (format!("{:.0}", intensity.get()), shade(intensity)),
            None => ("-".to_owned(), Ink::Dim),
        };
        let bar = colour.paint(ink, &bar(region.share, bar_width));
        let p95 = format!("{:>9}", millis(region.p95));
        let late = region.p95.is_some_and(|p95| p95 > self.budget);
        format!(
            "{name:name_width$} {} {bar} {:>4.0}% {:>9} {:>9} {}",
            colour.paint(ink, &format!("{value:>9}")),
            percent(region.share),
            region.in_flight,
            millis(region.p50),
            if late { colour.paint(Ink::Red, &p95) } else { p95 },
        )
    }

    fn summary(&self, colour: Colour) -> String {
        let (emitted, baseline, saved) = (self.grams.get(), self.baseline.get(), self.saved.get());
        let relative = if baseline > 0.0 { format!(" ({:.0}%)", 100.0 * saved / baseline) } else { String::new() };
        let ink = if saved < 0.0 { Ink::Red } else { Ink::Green };
        let saved = colour.paint(ink, &format!("saved {}{relative}", grams(saved)));
        format!("emitted {}   baseline {}   {saved}", grams(emitted), grams(baseline))
    }
}

/// The beginning of a line that is no wider than that; escape sequences take no width, and all of them stay, so that what was
/// switched on is switched off.
fn cut(line: &str, width: usize) -> String {
    let mut left = width;
    let mut escaping = false;
    let fits = |c: &char| {
        let escape = escaping || *c == '\x1b';
        escaping = escape && *c != 'm';
        let fits = escape || left > 0;
        left -= usize::from(!escape && fits);
        fits
    };
    line.chars().filter(fits).collect()
}

fn line(text: &mut String, content: &str) {
    text.push_str(content);
    text.push('\n');
}

/// A bar in eighths of a column, always `width` columns long.
fn bar(share: f64, width: usize) -> String {
    const EIGHTHS: [char; 8] = [' ', '▏', '▎', '▍', '▌', '▋', '▊', '▉'];
    let eighths = (percent(share) / 100.0 * width as f64 * 8.0).round() as usize;
    let mut bar: String = std::iter::repeat_n('█', eighths / 8).collect();
    if eighths / 8 < width {
        bar.push(EIGHTHS[eighths % 8]);
        bar.extend(std::iter::repeat_n(' ', width - eighths / 8 - 1));
    }
    bar
}

fn shade(intensity: GramsPerKwh) -> Ink {
    match intensity.get() {
        grams if grams < CLEAN_G_PER_KWH => Ink::Green,
        grams if grams < DIRTY_G_PER_KWH => Ink::Yellow,
        _ => Ink::Red,
    }
}

/// 0 to 100, whatever was given.
fn percent(share: f64) -> f64 {
    if share.is_finite() { share.clamp(0.0, 1.0) * 100.0 } else { 0.0 }
}

fn millis(span: Option<Millis>) -> String {
    match span.map(Millis::get) {
        None => "-".to_owned(),
        Some(ms) if ms < 10_000.0 => format!("{ms:.0} ms"),
        Some(ms) => format!("{:.1} s", (ms / 1e3).min(9_999.9)),
    }
}

/// Grams in the unit that keeps them short.
fn grams(value: f64) -> String {
    match value.abs() {
        size if size < 1.0 => format!("{:.1} mg", value * 1e3),
        size if size < 1e3 => format!("{value:.2} g"),
        size if size < 1e6 => format!("{:.2} kg", value / 1e3),
        _ => format!("{:.2} t", value / 1e6),
    }
}

fn hour(hour: f64) -> String {
    let minutes = if hour.is_finite() { (hour.rem_euclid(24.0) * 60.0) as u32 } else { 0 };
    format!("{:02}:{:02}", minutes / 60 % 24, minutes % 60)
}

fn minutes(elapsed: Duration) -> String {
    format!("{}:{:02}", elapsed.as_secs() / 60, elapsed.as_secs() % 60)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn view() -> View {
        let region = |name: &str, share, intensity: Option<f64>, in_flight, p50: Option<f64>, p95: Option<f64>| RegionView {
            name: name.to_owned(),
            share,
            intensity: intensity.map(GramsPerKwh::saturating),
            in_flight,
            p50: p50.map(Millis::saturating),
            p95: p95.map(Millis::saturating),
        };
        let (grams, baseline) = (Grams::saturating(12.3456), Grams::saturating(40.0));
        View {
            regions: vec![
                region("aws/us-east-1", 0.125, Some(428.2), 7, Some(31.0), Some(88.0)),
                region("aws/us-west-1", 0.5, Some(211.0), 41, Some(94.4), Some(210.0)),
                region("aws/eu-north-1", 0.375, Some(20.4), 63, Some(180.0), Some(412.0)),
                region("aws/ap-south-1", 0.0, None, 0, None, None),
            ],
            budget: Millis::saturating(300.0),
            grams,
            baseline,
            saved: baseline - grams,
            elapsed: Duration::from_secs(75),
            simulated_hour: 19.5,
        }
    }

    #[test]
    fn a_frame_on_a_usual_terminal() {
        insta::assert_snapshot!(view().frame(100, Colour::Never));
    }

    #[test]
    fn a_frame_on_a_narrow_terminal() {
        insta::assert_snapshot!(view().frame(80, Colour::Never));
    }

    #[test]
    fn a_frame_in_colour() {
        insta::assert_snapshot!(view().frame(100, Colour::Ansi).escape_debug().to_string().replace("\\n", "\n"));
    }

    #[test]
    fn a_plain_line() {
        insta::assert_snapshot!(view().plain_line());
    }

    #[test]
    fn a_loss_is_shown_as_one() {
        let mut view = view();
        view.saved = view.grams - view.baseline;
        assert!(view.frame(80, Colour::Never).contains("saved -27.65 g (-69%)"));
    }

    #[test]
    fn a_zone_is_shown_whole_where_80_columns_are_enough() {
        let mut view = view();
        view.regions[0].name = "ap-southeast-2 US-MIDA-PJM".to_owned();
        assert!(view.frame(80, Colour::Never).contains("\nap-southeast-2 US-MIDA-PJM "));
    }

    #[test]
    fn a_line_is_cut_and_its_colours_end() {
        assert_eq!(cut("\x1b[1mabc\x1b[0m def", 2), "\x1b[1mab\x1b[0m");
        assert_eq!(cut("abc", 3), "abc");
        assert_eq!(cut("abc", 0), "");
    }

    proptest::proptest! {
        #[test]
        fn no_line_is_wider_than_the_terminal(width in 0_usize..300, share in proptest::num::f64::ANY, hour in proptest::num::f64::ANY) {
            let mut view = view();
            view.regions[0].share = share;
            view.simulated_hour = hour;
            let coloured = view.frame(width, Colour::Ansi);
            for line in view.frame(width, Colour::Never).lines() {
                proptest::prop_assert!(line.chars().count() <= width, "{line}");
            }
            // Of the same height, or the next frame would be drawn in the wrong place.
            proptest::prop_assert_eq!(coloured.lines().count(), view.frame(80, Colour::Never).lines().count());
        }
    }
}

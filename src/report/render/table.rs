//! One breakdown as aligned columns with a bar for each row.

use super::super::figures::Figures;
use super::{BAR, Paint, mass, paint, saving};

const COLUMNS: usize = 6;

/// Rows to be aligned once all of them are known.
pub(super) struct Table {
    head: &'static str,
    rows: Vec<([String; COLUMNS], String)>,
    paints: Vec<Option<(bool, Paint)>>,
}

impl Table {
    pub(super) const fn new(head: &'static str) -> Self {
        Self { head, rows: Vec::new(), paints: Vec::new() }
    }

    /// Adds a row; `largest` grams fill the bar.
    pub(super) fn row(&mut self, name: &str, figures: &Figures, largest: f64, colour: bool) {
        let cells = [
            name.to_owned(),
            figures.requests.to_string(),
            figures.saved_relative.map_or_else(|| "nothing".to_owned(), saving),
            mass(figures.saved_grams.mid),
            mass(figures.grams.mid),
            mass(figures.waste_grams),
        ];
        self.rows.push((cells, bar(figures.grams.mid, figures.baseline_grams.mid, largest)));
        self.paints.push(figures.saved_relative.map(|relative| (colour, Paint::of(relative))));
    }

    pub(super) fn write(&self, out: &mut String) {
        let head = [self.head, "requests", "saved", "in grams", "emitted", "waste"].map(str::to_owned);
        let mut widths = [0; COLUMNS];
        for cells in std::iter::once(&head).chain(self.rows.iter().map(|(cells, _)| cells)) {
            for (width, cell) in widths.iter_mut().zip(cells) {
                *width = (*width).max(cell.chars().count());
            }
        }
        write_row(out, &head, "", &widths, None);
        for ((cells, bar), paint) in self.rows.iter().zip(&self.paints) {
            write_row(out, cells, bar, &widths, *paint);
        }
    }
}

/// The first column stands to the left, the numbers to the right; the third one is painted.
fn write_row(out: &mut String, cells: &[String; COLUMNS], bar: &str, widths: &[usize; COLUMNS], painted: Option<(bool, Paint)>) {
    let mut row = String::from("  ");
    for (column, (cell, width)) in cells.iter().zip(widths).enumerate() {
        let padding = " ".repeat(width - cell.chars().count());
        let cell = match painted {
            Some((colour, how)) if column == 2 => paint(colour, how, cell),
            _ => cell.clone(),
        };
        row += &if column == 0 { cell + &padding } else { padding + &cell };
        row += "  ";
    }
    row.push_str(bar);
    out.push_str(row.trim_end());
    out.push('\n');
}

/// Emitted against the baseline, on the scale of the table.
fn bar(grams: f64, baseline: f64, largest: f64) -> String {
    let cells =
        |grams: f64| if largest > 0.0 { (grams / largest * BAR as f64).round().clamp(0.0, BAR as f64) as usize } else { 0 };
    let (emitted, baseline) = (cells(grams), cells(baseline));
    let both = emitted.min(baseline);
    let rest = if emitted < baseline { "\u{2591}" } else { "\u{2592}" };
    "\u{2588}".repeat(both) + &rest.repeat(emitted.max(baseline) - both)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bar_shows_what_was_saved_or_lost() {
        assert_eq!(bar(4.0, 16.0, 16.0), "\u{2588}".repeat(4) + &"\u{2591}".repeat(12));
        assert_eq!(bar(16.0, 8.0, 16.0), "\u{2588}".repeat(8) + &"\u{2592}".repeat(8));
        assert_eq!(bar(0.0, 0.0, 0.0), "");
        assert_eq!(bar(f64::NAN, 1.0, 1.0).chars().count(), BAR);
    }
}

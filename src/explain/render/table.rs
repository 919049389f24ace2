//! Columns of text, aligned once all rows are known. A column in which nobody has anything is left out.

/// Longest text of a cell, in characters: a name in a log may be as long as its line.
const WIDEST: usize = 60;

/// A table in the making.
pub(super) struct Table<const COLUMNS: usize> {
    head: [&'static str; COLUMNS],
    /// Which columns are text, and stand to the left.
    left: [bool; COLUMNS],
    rows: Vec<[String; COLUMNS]>,
}

impl<const COLUMNS: usize> Table<COLUMNS> {
    /// Columns by their heads; one that begins with `<` is text.
    pub(super) fn new(head: [&'static str; COLUMNS]) -> Self {
        Self {
            head: head.map(|name| name.trim_start_matches('<')),
            left: head.map(|name| name.starts_with('<')),
            rows: Vec::new(),
        }
    }

    pub(super) fn row(&mut self, cells: [String; COLUMNS]) {
        self.rows.push(cells.map(|cell| {
            if cell.chars().count() <= WIDEST { cell } else { cell.chars().take(WIDEST - 1).chain(['\u{2026}']).collect() }
        }));
    }

    /// Writes the table, each row as `how` paints it.
    pub(super) fn write(&self, out: &mut String, how: impl Fn(usize, &str) -> String) {
        let mut widths: [Option<usize>; COLUMNS] = [None; COLUMNS];
        for cells in &self.rows {
            for ((width, cell), head) in widths.iter_mut().zip(cells).zip(self.head) {
                if !cell.is_empty() {
                    *width = Some(width.unwrap_or(head.chars().count()).max(cell.chars().count()));
                }
            }
        }
        out.push_str(&self.line(&self.head.map(str::to_owned), &widths));
        out.push('\n');
        for (place, cells) in self.rows.iter().enumerate() {
            out.push_str(&how(place, &self.line(cells, &widths)));
            out.push('\n');
        }
    }

    fn line(&self, cells: &[String; COLUMNS], widths: &[Option<usize>; COLUMNS]) -> String {
        let mut line = String::new();
        for ((cell, width), left) in cells.iter().zip(widths).zip(self.left) {
            let Some(width) = *width else { continue };
            let padding = " ".repeat(width.saturating_sub(cell.chars().count()));
            let (before, after) = if left { ("", padding.as_str()) } else { (padding.as_str(), "") };
            for part in ["  ", before, cell, after] {
                line.push_str(part);
            }
        }
        line.truncate(line.trim_end().len());
        line
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_aligned_and_the_empty_ones_left_out() {
        let mut table = Table::new(["<name", "count", "price", "<note"]);
        table.row(["a".into(), "10".into(), String::new(), "x".into()]);
        table.row(["longer".into(), "7".into(), String::new(), String::new()]);
        let mut out = String::new();
        table.write(&mut out, |place, line| if place == 1 { format!("{line} *") } else { line.to_owned() });
        assert_eq!(out, "  name    count  note\n  a          10  x\n  longer      7 *\n");
    }

    #[test]
    fn a_cell_has_an_end() {
        let mut table = Table::new(["<name"]);
        table.row(["\u{e9}".repeat(500)]);
        let mut out = String::new();
        table.write(&mut out, |_, line| line.to_owned());
        assert!(out.lines().all(|line| line.chars().count() <= WIDEST + 2));
    }
}

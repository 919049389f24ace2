//! The table of regions for `windward zones`: aligned for eyes, or CSV for programs. It returns text and leaves the printing to
//! the command line.

use super::Region;

/// What each column is headed, units included.
const HEADS: [&str; 7] = ["region", "city", "grid zone", "gCO2e/kWh", "year", "PUE", "source"];

/// Columns that hold numbers and stand to the right.
const RIGHT: [bool; 7] = [false, false, false, true, true, true, false];

/// Aligned columns with a head; the PUE is followed by whose figure it is.
pub fn to_text(regions: &[&Region]) -> String {
    let rows: Vec<[String; 7]> =
        std::iter::once(HEADS.map(str::to_owned)).chain(regions.iter().map(|region| cells(region))).collect();
    let mut widths = [0; 7];
    for row in &rows {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = (*width).max(cell.chars().count());
        }
    }
    let mut text = String::new();
    for row in &rows {
        let mut line = String::new();
        for ((cell, width), right) in row.iter().zip(widths).zip(RIGHT) {
            if !line.is_empty() {
                line.push_str("  ");
            }
            let padding = " ".repeat(width - cell.chars().count());
            line.push_str(&if right { padding + cell } else { cell.clone() + &padding });
        }
        text.push_str(line.trim_end());
        text.push('\n');
    }
    text
}

/// The same facts as CSV with a header, one row for each region; what is not known stays empty.
pub fn to_csv(regions: &[&Region]) -> String {
    let mut text = String::from("region,city,grid_zone,yearly_g_per_kwh,year,pue,pue_scope,pue_year,source\n");
    for region in regions {
        let fields = [
            region.name.to_string(),
            region.city.to_string(),
            region.grid_zone.as_str().to_owned(),
            region.yearly.map_or_else(String::new, |grams| grams.get().to_string()),
            region.year.map_or_else(String::new, |year| year.to_string()),
            region.pue.get().to_string(),
            region.pue_scope.as_str().to_owned(),
            region.pue_year.map_or_else(String::new, |year| year.to_string()),
            region.source.to_string(),
        ];
        text.push_str(&fields.map(quoted).join(","));
        text.push('\n');
    }
    text
}

fn cells(region: &Region) -> [String; 7] {
    [
        region.name.to_string(),
        region.city.to_string(),
        region.grid_zone.as_str().to_owned(),
        region.yearly.map_or_else(|| "?".to_owned(), |grams| grams.get().to_string()),
        region.year.map_or_else(|| "?".to_owned(), |year| year.to_string()),
        format!("{:.2} {:<7}", region.pue.get(), region.pue_scope.as_str()),
        region.source.to_string(),
    ]
}

/// A field as RFC 4180 wants it. Written here because a writer over a `Vec` would bring errors that cannot happen.
fn quoted(field: String) -> String {
    if field.contains([',', '"', '\n', '\r']) { format!("\"{}\"", field.replace('"', "\"\"")) } else { field }
}

#[cfg(test)]
mod tests {
    use super::super::Regions;
    use super::*;

    #[test]
    fn text_is_aligned() {
        let found = Regions::shipped().search("stockholm");
        assert_eq!(
            to_text(&found),
            "\
region             city       grid zone  gCO2e/kWh  year           PUE  source
aws/eu-north-1     Stockholm  SE-SE3            20  2025  1.10 region   Electricity Maps 2025 (ODbL); PUE Amazon 2024 via GSF
gcp/europe-north2  Stockholm  SE-SE3            20  2025  1.09 fleet    Electricity Maps 2025 (ODbL); PUE Google fleet
"
        );
    }

    #[test]
    fn nothing_found_is_a_head_alone() {
        assert_eq!(to_text(&[]).lines().count(), 1);
        assert_eq!(to_csv(&[]).lines().count(), 1);
    }

    #[test]
    fn csv_reads_back() {
        let all = Regions::shipped().search("");
        let text = to_csv(&all);
        let rows: Vec<csv::StringRecord> = csv::Reader::from_reader(text.as_bytes()).records().collect::<Result<_, _>>().unwrap();
        assert_eq!(rows.len(), all.len());
        for (row, region) in rows.iter().zip(all) {
            assert_eq!((&row[0], &row[1], &row[2]), (&*region.name, &*region.city, region.grid_zone.as_str()));
            assert_eq!(crate::units::Pue::new(row[5].parse().unwrap()), Some(region.pue));
        }
    }
}

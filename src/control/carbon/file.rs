//! A file of readings, read again when it changes.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use jiff::Timestamp;

use super::super::regular::open_regular;
use super::Line;
use crate::carbon::file::{FileOptions, FileReadings, MAX_FILE_BYTES, Refusals, parse};
use crate::carbon::{SourceError, SourceErrorKind};
use crate::config::CarbonPlan;
use crate::grid::{Basis, GridZone, Quality, Reading, Signal};

/// How often the file is looked at: often enough for a demonstration, and one `stat` costs nothing.
const LOOK_EVERY: Duration = Duration::from_secs(2);

/// The file, and what was last read of it.
#[derive(Debug)]
pub(super) struct FileSource {
    path: PathBuf,
    source: Arc<str>,
    simulated: bool,
    signal: Signal,
    basis: Basis,
    /// Modification time and length: while both stay the file is not read.
    stamp: Option<(SystemTime, u64)>,
    hash: Option<u64>,
    rows: Result<FileReadings, SourceError>,
    sent: Vec<(GridZone, Reading)>,
}

impl FileSource {
    pub(super) fn new(path: &Path, simulated: bool, carbon: &CarbonPlan) -> Self {
        let name = path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
        Self {
            path: path.to_path_buf(),
            source: Arc::from(format!("file:{name}")),
            simulated,
            signal: carbon.signal,
            basis: carbon.basis,
            stamp: None,
            hash: None,
            rows: Ok(FileReadings::default()),
            sent: Vec::new(),
        }
    }

    /// The readings in force at `now` that were not so at the last look.
    pub(super) fn look(&mut self, now: Timestamp) -> Result<Vec<(GridZone, Reading)>, SourceError> {
        self.read_if_changed(now)?;
        let rows = self.rows.as_ref().map_err(Clone::clone)?;
        let quality = |reading: &Reading| if self.simulated { Quality::Simulated } else { reading.quality };
        let in_force: Vec<_> = rows
            .at(now)
            .map(|(zone, reading)| (zone.clone(), Reading { quality: quality(reading), ..reading.clone() }))
            .collect();
        let news = in_force.iter().filter(|row| !self.sent.contains(row)).cloned().collect();
        self.sent = in_force;
        Ok(news)
    }

    /// The rows of the file as it was last read that cannot be used, where there are any.
    pub(super) fn refused(&self) -> Option<&Refusals> {
        self.rows.as_ref().ok().map(FileReadings::refused).filter(|refused| refused.count > 0)
    }

    fn read_if_changed(&mut self, now: Timestamp) -> Result<(), SourceError> {
        let (file, meta) = open_regular(&self.path).map_err(|error| self.unreadable(&error))?;
        let modified = meta.modified().map_err(|error| self.unreadable(&error))?;
        let stamp = Some((modified, meta.len()));
        if stamp == self.stamp {
            return Ok(());
        }
        let mut bytes = Vec::new();
        file.take(MAX_FILE_BYTES as u64 + 1).read_to_end(&mut bytes).map_err(|error| self.unreadable(&error))?;
        self.stamp = stamp;
        let mut hasher = DefaultHasher::new();
        // The time counts too: rows without one are as old as the file.
        (&bytes, modified).hash(&mut hasher);
        let hash = Some(hasher.finish());
        if hash == self.hash {
            return Ok(());
        }
        self.hash = hash;
        let options = FileOptions {
            source: Arc::clone(&self.source),
            signal: self.signal,
            basis: self.basis,
            zone: None,
            written_at: Timestamp::try_from(modified).unwrap_or(now),
            valid_for: FileOptions::DEFAULT_VALID_FOR,
        };
        self.rows = parse(&bytes, now, &options)
            .map_err(|error| SourceError::new(SourceErrorKind::Malformed, format!("{}: {error}", self.path.display())));
        if let Some(rows) = self.refused() {
            tracing::warn!(file = %self.path.display(), refused = rows.count, %rows, "some rows of carbon intensity cannot be used");
        }
        Ok(())
    }

    fn unreadable(&self, error: &std::io::Error) -> SourceError {
        SourceError::new(SourceErrorKind::Unreachable, format!("cannot read {}: {error}", self.path.display()))
    }
}

/// Looks at the file for ever.
pub(super) async fn run(mut source: FileSource, mut line: Line) {
    loop {
        let now = line.now();
        // A large file takes long enough to be felt by whoever asks the admin address.
        let looked = tokio::task::spawn_blocking(move || {
            let result = source.look(now);
            (source, result)
        });
        let Ok((back, result)) = looked.await else { return };
        source = back;
        line.refused(source.refused());
        line.report(result).await;
        line.rest(LOOK_EVERY).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::plan;

    fn at(text: &str) -> Timestamp {
        text.parse().unwrap()
    }

    #[test]
    fn says_only_what_is_new_and_moves_on_with_the_hours() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("grid.csv");
        let rows = "zone,datetime,carbonIntensity\nSE-SE1,2026-03-02T10:00:00Z,20\nSE-SE1,2026-03-02T11:00:00Z,30\n";
        std::fs::write(&path, rows).unwrap();
        let mut source = FileSource::new(&path, true, &plan().carbon);
        let mut look = |now: &str| {
            let news = source.look(at(now)).unwrap();
            news.into_iter().map(|(_, reading)| (reading.intensity.get(), reading.quality)).collect::<Vec<_>>()
        };
        assert_eq!(look("2026-03-02T10:30:00Z"), [(20.0, Quality::Simulated)]);
        assert_eq!(look("2026-03-02T10:40:00Z"), []);
        assert_eq!(look("2026-03-02T11:00:00Z"), [(30.0, Quality::Simulated)]);
        std::fs::write(&path, format!("{rows}SE-SE1,2026-03-02T11:30:00Z,5\n")).unwrap();
        assert_eq!(look("2026-03-02T11:31:00Z"), [(5.0, Quality::Simulated)]);
    }

    #[test]
    fn a_file_that_is_gone_or_broken_says_so_without_forgetting() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("grid.json");
        let mut source = FileSource::new(&path, false, &plan().carbon);
        let now = at("2026-03-02T10:30:00Z");
        assert_eq!(source.look(now).unwrap_err().kind(), SourceErrorKind::Unreachable);
        std::fs::write(&path, "{").unwrap();
        assert_eq!(source.look(now).unwrap_err().kind(), SourceErrorKind::Malformed);
        assert_eq!(source.look(now).unwrap_err().kind(), SourceErrorKind::Malformed, "until it is mended");
        std::fs::write(&path, r#"{"SE-SE1": [{"datetime": "2026-03-02T10:00:00Z", "carbonIntensity": 12}]}"#).unwrap();
        assert_eq!(source.look(now).unwrap().len(), 1);
    }
}

//! Energy per token of the operator's own models.

use std::sync::Arc;

use super::Check;
use crate::config::choices::BandFile;
use crate::config::decode::At;
use crate::config::file::{CoefficientsFile, EnergyFile};
use crate::config::fnv1a;
use crate::tables::{Band, Coefficients, EnergyQuality, EnergyTable, Glob, Override};
use crate::units::{Joules, JoulesPerToken};

/// A token that costs more joules than a kettle is a slip: the largest models take a few dozen.
const MOST_JOULES: f64 = 1e5;

impl Check<'_> {
    /// The shipped table with the file's entries before its own.
    pub(super) fn energy_table(&mut self, written: Vec<EnergyFile>) -> EnergyTable {
        let mut overrides = Vec::with_capacity(written.len());
        for (model, figures) in written.into_iter().map(EnergyFile::split) {
            let coefficients = self.coefficients(&figures);
            match Glob::new(&model.value) {
                Ok(models) => overrides.push(Override { models, coefficients }),
                Err(error) => {
                    self.problems.add(model.mark, format!("{} is no pattern: {error}", model.shown()));
                }
            }
        }
        EnergyTable::shipped().with_overrides(overrides)
    }

    pub(super) fn coefficients(&mut self, written: &CoefficientsFile) -> Coefficients {
        let e_in = self.band(&written.input_joules_per_token);
        let e_cached_in = written.cached_joules_per_token.as_ref().map_or(e_in, |band| self.band(band));
        let e_out = self.band(&written.output_joules_per_token);
        let fixed = written.joules_per_request.as_ref().map_or(0.0, |joules| self.amount(joules, "energy"));
        let id = match &written.id {
            Some(id) => {
                let whole = id.value.rsplit_once('@').is_some_and(|(name, revision)| {
                    !name.is_empty() && name.chars().all(|c| c.is_ascii_graphic()) && revision.parse::<u16>().is_ok()
                });
                if !whole || id.value.len() > 100 {
                    self.problems.add(id.mark, format!("{} is no id", id.shown())).mend =
                        Some("an id is a name, `@` and a revision, as in `my-llama@1`".to_owned());
                } else if EnergyTable::shipped().by_id(&id.value).is_some() {
                    self.problems.add(id.mark, format!("{} is the id of shipped figures", id.shown())).mend =
                        Some("give yours a name of its own, so that a log line says which were used".to_owned());
                }
                Arc::from(id.value.as_str())
            }
            None => derived_id([e_in, e_cached_in, e_out], fixed),
        };
        let coefficients = Coefficients {
            id,
            e_in,
            e_cached_in,
            e_out,
            fixed: Joules::saturating(fixed),
            quality: written.quality.unwrap_or(EnergyQuality::C),
            source: Arc::from(written.source.as_ref().map_or("configuration", |source| &source.value)),
        };
        let first = self.figures.entry(Arc::clone(&coefficients.id)).or_insert_with(|| coefficients.clone());
        if *first != coefficients
            && let Some(id) = &written.id
        {
            self.problems.add(id.mark, format!("{} stands for other figures elsewhere in this file", id.shown())).mend =
                Some("an id never means two things; raise its revision".to_owned());
        }
        coefficients
    }

    fn band(&mut self, written: &BandFile) -> Band<JoulesPerToken> {
        for end in [&written.low, &written.mid, &written.high] {
            if !(0.0..=MOST_JOULES).contains(&end.value) {
                self.problems.add(end.mark, format!("joules per token lie between 0 and {MOST_JOULES}"));
                return Band::exact(JoulesPerToken::ZERO);
            }
        }
        let [low, mid, high] = [&written.low, &written.mid, &written.high].map(|end| JoulesPerToken::saturating(end.value));
        Band::new(low, mid, high).unwrap_or_else(|| {
            self.problems.add(written.mid.mark, "a band goes up: `low` ≤ `mid` ≤ `high`");
            Band::exact(mid)
        })
    }
}

/// An id made of the figures themselves, so that it can never come to mean others.
fn derived_id(bands: [Band<JoulesPerToken>; 3], fixed: f64) -> Arc<str> {
    let figures = bands.iter().flat_map(|band| [band.low(), band.mid(), band.high()]).map(JoulesPerToken::get);
    let bytes: Vec<u8> = figures.chain([fixed]).flat_map(|figure| figure.to_bits().to_le_bytes()).collect();
    Arc::from(format!("own-{:08x}@1", fnv1a(&bytes) as u32))
}

impl EnergyFile {
    /// The pattern and the figures, which also stand at backends and models.
    fn split(self) -> (At<String>, CoefficientsFile) {
        let figures = CoefficientsFile {
            id: self.id,
            input_joules_per_token: self.input_joules_per_token,
            cached_joules_per_token: self.cached_joules_per_token,
            output_joules_per_token: self.output_joules_per_token,
            joules_per_request: self.joules_per_request,
            quality: self.quality,
            source: self.source,
        };
        (self.model, figures)
    }
}

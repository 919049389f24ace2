//! How much choice a request has: a proxy whose candidates all lie on one grid saves nothing, whatever its policy says.

use std::collections::BTreeSet;

use serde::Serialize;

use super::words;
use crate::backend::{Backend, PlacementKind};
use crate::decide::Verdict;
use crate::record::CandidateUsed;
use crate::units::{Grams, GramsPerKwh};

/// Counts of candidates and of the grids they are on. Feasible is who meets every constraint: allowed there, with room, healthy, and
/// within the latency budget.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Choice {
    /// Everybody who serves the model.
    pub candidates: usize,
    /// Distinct grid zones of theirs that are known.
    pub grid_zones: usize,
    /// Those of whom nobody knows the grid zone.
    pub of_unknown_zone: usize,
    /// Those who meet every constraint.
    pub feasible: usize,
    /// Distinct grid zones of theirs that are known.
    pub feasible_grid_zones: usize,
    /// Those who meet every constraint and whose grams nobody knows.
    pub feasible_of_unknown_grams: usize,
    /// Those who would, but were kept free for others; left out for none.
    #[serde(skip_serializing_if = "is_none")]
    pub kept_free: usize,
    /// The feasible one that is expected to emit least.
    pub cleanest: Option<Predicted>,
    /// The feasible one that is expected to emit most.
    pub dirtiest: Option<Predicted>,
}

/// A candidate and its grams, as predicted.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Predicted {
    /// Its name.
    pub backend: String,
    /// What it would emit.
    pub grams: Grams,
}

/// A candidate that may run in more places than one: to choose it is no choice of a grid.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Wide {
    /// Its name.
    pub backend: String,
    /// Within a set of places, or anywhere.
    pub placement: PlacementKind,
    /// In how many grid zones it may be, where that is known.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub grid_zones: Option<usize>,
    /// Intensities of the cleanest and of the dirtiest of them, where both are known.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub intensity_g_per_kwh: Option<[GramsPerKwh; 2]>,
}

impl Wide {
    /// Of a backend, if it is one, with the interval in which its intensity lies.
    pub fn of(backend: &Backend, intensity_g_per_kwh: Option<[GramsPerKwh; 2]>) -> Option<Self> {
        let (placement, zones) = (backend.placement.kind, backend.placement.zones.len());
        let is_wide = placement == PlacementKind::Global || placement == PlacementKind::Geo && zones > 1;
        let grid_zones = Some(zones).filter(|_| placement == PlacementKind::Geo);
        is_wide.then(|| Self { backend: backend.name.to_string(), placement, grid_zones, intensity_g_per_kwh })
    }
}

impl Choice {
    /// Of candidates with their verdicts, and the reason why one of them was chosen.
    pub fn among(reason: &str, candidates: &[CandidateUsed<'_>]) -> Self {
        let is_feasible = |it: &&CandidateUsed<'_>| {
            words::was_weighed(&it.verdict) && !(&*it.verdict == "chosen" && words::breaks_a_constraint(reason))
        };
        let feasible: Vec<&CandidateUsed<'_>> = candidates.iter().filter(is_feasible).collect();
        let known = || feasible.iter().filter_map(|it| Some((it, it.grams?)));
        let named = |(it, grams): (&&CandidateUsed<'_>, Grams)| Predicted { backend: (*it.backend).to_owned(), grams };
        let order = |(_, a): &(_, Grams), (_, b): &(_, Grams)| a.get().total_cmp(&b.get());
        Self {
            candidates: candidates.len(),
            grid_zones: zones(candidates.iter()),
            of_unknown_zone: candidates.iter().filter(|it| it.grid_zone.is_none()).count(),
            feasible: feasible.len(),
            feasible_grid_zones: zones(feasible.iter().copied()),
            feasible_of_unknown_grams: feasible.len() - known().count(),
            kept_free: candidates.iter().filter(|it| &*it.verdict == Verdict::KeptFree.as_str()).count(),
            cleanest: known().min_by(order).map(named),
            dirtiest: known().max_by(order).map(named),
        }
    }

    /// How many times the grams of the cleanest the dirtiest one would emit; `None` without two known ones, or where the cleanest
    /// emits nothing.
    pub fn spread(&self) -> Option<f64> {
        let (cleanest, dirtiest) = (self.cleanest.as_ref()?, self.dirtiest.as_ref()?);
        let several = self.feasible - self.feasible_of_unknown_grams > 1;
        let ratio = dirtiest.grams.get() / cleanest.grams.get();
        (several && ratio.is_finite()).then_some(ratio)
    }
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "so it is called for a field")]
const fn is_none(count: &usize) -> bool {
    *count == 0
}

fn zones<'c>(candidates: impl Iterator<Item = &'c CandidateUsed<'c>>) -> usize {
    candidates.filter_map(|it| it.grid_zone.as_deref()).collect::<BTreeSet<_>>().len()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn candidate(backend: &str, zone: Option<&str>, verdict: &str, grams: Option<f64>) -> CandidateUsed<'static> {
        let text = serde_json::json!({ "backend": backend, "grid_zone": zone, "verdict": verdict, "grams": grams }).to_string();
        serde_json::from_str::<CandidateUsed<'_>>(Box::leak(text.into_boxed_str())).unwrap()
    }

    #[test]
    fn only_who_meets_every_constraint_counts_as_a_choice() {
        let candidates = [
            candidate("a", Some("SE"), "over_budget", Some(0.1)),
            candidate("b", Some("FR"), "chosen", Some(0.5)),
            candidate("c", Some("DE"), "dirtier", Some(2.0)),
            candidate("d", Some("DE"), "dirtier", Some(1.5)),
            candidate("e", None, "unknown_carbon", None),
            candidate("f", Some("PL"), "outside_residency", Some(9.0)),
        ];
        let choice = Choice::among("least_carbon", &candidates);
        assert_eq!((choice.candidates, choice.grid_zones, choice.of_unknown_zone), (6, 4, 1));
        assert_eq!((choice.feasible, choice.feasible_grid_zones, choice.feasible_of_unknown_grams), (4, 2, 1));
        let ends = [&choice.cleanest, &choice.dirtiest].map(|end| end.as_ref().unwrap().backend.as_str());
        assert_eq!((ends, choice.spread()), (["b", "c"], Some(4.0)));
    }

    #[test]
    fn who_is_chosen_against_a_constraint_is_no_choice() {
        let candidates = [candidate("a", Some("SE"), "chosen", Some(0.1)), candidate("b", Some("FR"), "over_budget", Some(0.2))];
        let choice = Choice::among("fastest_over_budget", &candidates);
        assert_eq!((choice.feasible, choice.cleanest.clone(), choice.spread()), (0, None, None));
        let alone = Choice::among("only", &candidates);
        assert_eq!((alone.feasible, alone.spread()), (1, None));
    }
}

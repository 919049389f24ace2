//! What happened, turned into grams: the arithmetic behind every claim, in one pure function.
//!
//! The actual side counts every attempt, because a retry that the client never saw burned as much as one that it did. The baseline
//! side counts the answer once, at the place where the same policy would have sent it with carbon switched off; an exchange without
//! an answer has no baseline, so that a failure cannot save anything. The energy band moves both sides together, for its cause
//! (hardware, batch) is the same on both. What is unknown stays unknown: a sum with an unknown part is `None`, never a part of it.

use crate::record::Emissions;
use crate::tables::{Band, Coefficients, EnergyBand, TokenCounts};
use crate::units::{Grams, GramsPerKwh, GramsSaved, Joules, Pue};

/// One attempt as the ledger sees it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Attempted {
    /// What the building adds, at the backend of this attempt.
    pub pue: Pue,
    /// Intensity of its grid; `None` when unknown.
    pub intensity: Option<GramsPerKwh>,
    /// What it burned at the machine; `None` when the tokens are unknown.
    pub energy: Option<EnergyBand>,
    /// Whether it gave the client its answer. At most one attempt can have; of more than one only the first counts as such.
    pub useful: bool,
}

impl Attempted {
    /// Refused before anything ran: it burned nothing, so nothing has to be known about its grid.
    pub const fn refused(at: Place) -> Self {
        Self { pue: at.pue, intensity: at.intensity, energy: Some(Band::exact(Joules::ZERO)), useful: false }
    }

    /// Failed after the body was sent: the prompt was (perhaps) computed. `prompt_tokens` is `None` when unknown.
    pub fn failed(at: Place, coefficients: &Coefficients, prompt_tokens: Option<u64>) -> Self {
        let tokens = prompt_tokens.map(|input| TokenCounts { input, cached: 0, output: 0 });
        Self::abandoned(at, coefficients, tokens)
    }

    /// Broken off, by whichever side, after some tokens had come.
    pub fn abandoned(at: Place, coefficients: &Coefficients, tokens: Option<TokenCounts>) -> Self {
        let energy = tokens.map(|tokens| coefficients.energy(tokens));
        Self { pue: at.pue, intensity: at.intensity, energy, useful: false }
    }

    /// Answered in full.
    pub fn answered(at: Place, coefficients: &Coefficients, tokens: Option<TokenCounts>) -> Self {
        Self { useful: true, ..Self::abandoned(at, coefficients, tokens) }
    }

    /// What it emitted: low, mid and high. `None` when tokens or intensity are unknown, unless nothing was burned.
    pub fn grams(&self) -> Option<[Grams; 3]> {
        let ends = ends(&self.energy?);
        if ends == [Joules::ZERO; 3] {
            return Some([Grams::ZERO; 3]);
        }
        self.place().grams(ends)
    }

    const fn place(&self) -> Place {
        Place { pue: self.pue, intensity: self.intensity }
    }
}

/// Where joules become grams: a building on a grid.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Place {
    /// What the building adds.
    pub pue: Pue,
    /// Intensity of its grid at the decision; `None` when unknown.
    pub intensity: Option<GramsPerKwh>,
}

impl Place {
    fn grams(&self, joules: [Joules; 3]) -> Option<[Grams; 3]> {
        let (intensity, [low, mid, high]) = (self.intensity?, joules);
        let grams = |joules: Joules| joules * self.pue * intensity;
        // Not by `map`, which is a call for each.
        Some([grams(low), grams(mid), grams(high)])
    }
}

/// Where the same policy would have sent the request with carbon switched off.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Baseline {
    /// Its building and grid.
    pub place: Place,
    /// What the answer would have burned there; `None` for the same as it burned where it was made. It differs where the operator
    /// knows the machines: charging the baseline with the thirst of the machine that was chosen instead would be a saving made of
    /// nothing.
    pub energy: Option<EnergyBand>,
}

/// The tokens of an answer at the baseline, which is believed to have `cached` of its prompt at hand. At least as many are taken for
/// cached as where the answer was made, because the same policy without carbon would have kept the conversation in one place, too: what
/// a cache spares is no saving of ours, and what was lost by moving away from one is our loss.
pub fn at_baseline(tokens: TokenCounts, cached: u64) -> TokenCounts {
    TokenCounts { cached: tokens.cached.max(cached).min(tokens.input), ..tokens }
}

impl From<Place> for Baseline {
    fn from(place: Place) -> Self {
        Self { place, energy: None }
    }
}

/// One exchange at one point of the energy band.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Emission {
    /// Emitted by every attempt together.
    pub grams: Grams,
    /// What the answer would have emitted at the baseline.
    pub baseline_grams: Grams,
    /// `baseline_grams - grams`; negative when more was emitted.
    pub saved: GramsSaved,
    /// The part of `grams` that gave the client nothing.
    pub waste: Grams,
}

/// One exchange over the whole energy band.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Account {
    /// With every coefficient at its lower end.
    pub low: Emission,
    /// With the best guess.
    pub mid: Emission,
    /// With every coefficient at its upper end.
    pub high: Emission,
}

/// The account of one exchange: its attempts in any order, and where the baseline would have sent it. `None` when the energy or the
/// grid of any attempt that burned something is unknown, or when there was an answer and the baseline's grid is unknown.
pub fn account(attempts: &[Attempted], baseline: impl Into<Baseline>) -> Option<Account> {
    let baseline = baseline.into();
    let answer = attempts.iter().position(|attempt| attempt.useful);
    let mut useful = [Grams::ZERO; 3];
    let mut waste = [Grams::ZERO; 3];
    let mut shadow = [Grams::ZERO; 3];
    for (index, attempt) in attempts.iter().enumerate() {
        let grams = attempt.grams()?;
        if Some(index) == answer {
            useful = grams;
            shadow = baseline.place.grams(ends(&baseline.energy.or(attempt.energy)?))?;
        } else {
            for (sum, more) in waste.iter_mut().zip(grams) {
                *sum += more;
            }
        }
    }
    let [low_useful, mid_useful, high_useful] = useful;
    let [low_waste, mid_waste, high_waste] = waste;
    let [low_shadow, mid_shadow, high_shadow] = shadow;
    Some(Account {
        low: Emission::of(low_useful, low_waste, low_shadow),
        mid: Emission::of(mid_useful, mid_waste, mid_shadow),
        high: Emission::of(high_useful, high_waste, high_shadow),
    })
}

impl Emission {
    fn of(useful: Grams, waste: Grams, baseline_grams: Grams) -> Self {
        let grams = useful + waste;
        Self { grams, baseline_grams, saved: baseline_grams - grams, waste }
    }
}

impl From<&Account> for Emissions {
    /// The account as a log line holds it.
    fn from(account: &Account) -> Self {
        let Account { low, mid, high } = account;
        let of = |what: fn(&Emission) -> Grams| [low, mid, high].map(what);
        Self::of([of(|at| at.grams), of(|at| at.baseline_grams)], mid.saved, mid.waste)
    }
}

fn ends(band: &EnergyBand) -> [Joules; 3] {
    [band.low(), band.mid(), band.high()]
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::tables::EnergyTable;

    fn place(pue: f64, grams_per_kwh: f64) -> Place {
        Place { pue: Pue::new(pue).unwrap(), intensity: GramsPerKwh::new(grams_per_kwh) }
    }

    fn burned(at: Place, kwh: f64, useful: bool) -> Attempted {
        let energy = Some(Band::exact(Joules::saturating(kwh * 3.6e6)));
        Attempted { pue: at.pue, intensity: at.intensity, energy, useful }
    }

    #[test]
    fn an_answer_in_a_cleaner_place_saves_the_difference() {
        let account = account(&[burned(place(1.5, 100.0), 2.0, true)], place(1.25, 400.0)).unwrap();
        let Emission { grams, baseline_grams, saved, waste } = account.mid;
        assert_eq!((grams.get(), baseline_grams.get(), saved.get(), waste.get()), (300.0, 1000.0, 700.0, 0.0));
    }

    #[test]
    fn a_thirstier_machine_is_no_saving() {
        let frugal = Band::exact(Joules::saturating(3.6e6));
        let baseline = Baseline { place: place(1.0, 150.0), energy: Some(frugal) };
        let mid = account(&[burned(place(1.0, 100.0), 2.0, true)], baseline).unwrap().mid;
        assert_eq!((mid.baseline_grams.get(), mid.saved.get()), (150.0, -50.0));
    }

    #[test]
    fn a_cache_is_no_saving_and_leaving_one_is_a_loss() {
        let answer = |cached| TokenCounts { input: 1000, cached, output: 50 };
        for (cached, believed, there) in [(800, 0, 800), (0, 700, 700), (800, 900, 900), (0, 0, 0), (100, 5000, 1000)] {
            assert_eq!(at_baseline(answer(cached), believed), answer(there));
        }
    }

    #[test]
    fn a_retry_is_waste_and_is_not_in_the_baseline() {
        let attempts = [burned(place(1.0, 500.0), 1.0, false), burned(place(1.0, 100.0), 1.0, true)];
        let mid = account(&attempts, place(1.0, 400.0)).unwrap().mid;
        assert_eq!((mid.grams.get(), mid.waste.get(), mid.baseline_grams.get(), mid.saved.get()), (600.0, 500.0, 400.0, -200.0));
    }

    #[test]
    fn a_failure_saves_nothing() {
        let mid = account(&[burned(place(1.0, 100.0), 1.0, false)], place(1.0, 900.0)).unwrap().mid;
        assert_eq!((mid.baseline_grams, mid.waste, mid.saved.get()), (Grams::ZERO, mid.grams, -100.0));
        let unknown_baseline = Place { pue: Pue::ONE, intensity: None };
        assert!(account(&[burned(place(1.0, 100.0), 1.0, false)], unknown_baseline).is_some());
        assert_eq!(account(&[], unknown_baseline), Some(Account::default()));
    }

    #[test]
    fn unknown_is_never_zero() {
        let known = burned(place(1.0, 100.0), 1.0, true);
        let here = place(1.0, 400.0);
        assert_eq!(account(&[Attempted { intensity: None, ..known }], here), None);
        assert_eq!(account(&[Attempted { energy: None, ..known }], here), None);
        assert_eq!(account(&[known], Place { intensity: None, ..here }), None);
        let lost = Attempted { useful: false, intensity: None, ..known };
        assert_eq!(account(&[lost, known], here), None);
    }

    #[test]
    fn a_refusal_costs_nothing_even_on_an_unknown_grid() {
        let refused = Attempted::refused(Place { pue: Pue::UNPUBLISHED, intensity: None });
        let answer = burned(place(1.0, 100.0), 1.0, true);
        assert_eq!(account(&[refused, answer], place(1.0, 200.0)), account(&[answer], place(1.0, 200.0)));
    }

    #[test]
    fn each_end_of_an_attempt_burns_what_it_saw() {
        let coefficients = EnergyTable::shipped().find("gpt-4o");
        let at = place(1.1, 100.0);
        let mid = |attempt: Attempted| attempt.energy.unwrap().mid().get();
        assert!((mid(Attempted::failed(at, coefficients, Some(500))) - 500.0 * 0.498).abs() < 1e-9);
        let tokens = TokenCounts { input: 500, cached: 0, output: 40 };
        let gone = Attempted::abandoned(at, coefficients, Some(tokens));
        assert!((mid(gone) - (500.0 * 0.498 + 40.0 * 2.5)).abs() < 1e-9 && !gone.useful);
        assert!(Attempted::answered(at, coefficients, Some(tokens)).useful);
        assert_eq!(Attempted::failed(at, coefficients, None).energy, None);
    }

    #[test]
    fn two_answers_are_one_answer_and_one_waste() {
        let answer = burned(place(1.0, 100.0), 1.0, true);
        let mid = account(&[answer, answer], place(1.0, 100.0)).unwrap().mid;
        assert_eq!((mid.baseline_grams.get(), mid.waste.get(), mid.grams.get()), (100.0, 100.0, 200.0));
    }

    fn any_place() -> impl Strategy<Value = Place> {
        (1.0..3.0f64, 0.0..1500.0f64).prop_map(|(pue, intensity)| place(pue, intensity))
    }

    fn any_attempts() -> impl Strategy<Value = Vec<Attempted>> {
        let attempt = (any_place(), 0.0..1e4f64, 1.0..10.0f64, 1.0..10.0f64).prop_map(|(at, low, mid, high)| {
            let joules = |factor: f64| Joules::saturating(low * factor);
            let energy = Band::new(joules(1.0), joules(mid), joules(mid * high));
            Attempted { pue: at.pue, intensity: at.intensity, energy, useful: false }
        });
        (proptest::collection::vec(attempt, 0..5), any::<Option<prop::sample::Index>>()).prop_map(|(mut attempts, answer)| {
            if let Some(answer) = answer
                && !attempts.is_empty()
            {
                answer.get_mut(&mut attempts).useful = true;
            }
            attempts
        })
    }

    fn near(a: f64, b: f64) -> bool {
        (a - b).abs() <= 1e-9 * a.abs().max(b.abs())
    }

    proptest! {
        #[test]
        fn grams_are_conserved(attempts in any_attempts(), baseline in any_place()) {
            let account = account(&attempts, baseline).unwrap();
            for end in [account.low, account.mid, account.high] {
                prop_assert_eq!(end.baseline_grams - end.grams, end.saved);
                prop_assert!(end.waste <= end.grams);
            }
            let useful: f64 = attempts.iter().filter(|a| a.useful).map(|a| a.grams().unwrap()[1].get()).sum();
            prop_assert!(near(useful + account.mid.waste.get(), account.mid.grams.get()));
            prop_assert!(account.low.grams <= account.mid.grams && account.mid.grams <= account.high.grams);
            if !attempts.iter().any(|a| a.useful) {
                prop_assert_eq!((account.mid.baseline_grams, account.mid.waste), (Grams::ZERO, account.mid.grams));
            }
        }

        #[test]
        fn sums_of_records_are_conserved(exchanges in proptest::collection::vec((any_attempts(), any_place()), 0..20)) {
            let records: Vec<Emissions> =
                exchanges.iter().map(|(attempts, baseline)| Emissions::from(&account(attempts, *baseline).unwrap())).collect();
            let sum = |part: fn(&Emissions) -> f64| records.iter().map(part).sum::<f64>();
            let (grams, baseline) = (sum(|r| r.grams.get()), sum(|r| r.baseline_grams.get()));
            let saved = sum(|r| r.saved_grams.get());
            prop_assert!((baseline - grams - saved).abs() <= 1e-9 * (baseline + grams));
            prop_assert!(sum(|r| r.waste_grams.get()) <= grams * (1.0 + 1e-9));
        }

        #[test]
        fn more_energy_leaves_the_relative_saving(attempts in any_attempts(), baseline in any_place(), factor in 0.01..100.0f64) {
            let scaled: Vec<Attempted> = attempts
                .iter()
                .map(|a| {
                    let [low, mid, high] = ends(&a.energy.unwrap()).map(|joules| joules * factor);
                    Attempted { energy: Band::new(low, mid, high), ..*a }
                })
                .collect();
            let relative = |attempts: &[Attempted]| {
                let mid = account(attempts, baseline).unwrap().mid;
                (mid.baseline_grams.get() > 1e-12).then(|| mid.saved.get() / mid.baseline_grams.get())
            };
            if let (Some(before), Some(after)) = (relative(&attempts), relative(&scaled)) {
                prop_assert!((before - after).abs() <= 1e-9 * (1.0 + before.abs()), "{before} became {after}");
            }
        }
    }
}

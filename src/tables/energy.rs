//! What a model's tokens cost in energy, by the model's id.
//!
//! Nobody meters a hosted model for its clients, so this is an estimate with a band and a quality, and it says both. Every model
//! has an answer: one that no row knows gets the row `unknown@1` with its wide band, because an estimate of zero would make the
//! least known model look the cleanest. The id of the coefficients goes into the log, so that a line can be recomputed after the
//! table has learnt better.

use std::sync::{Arc, LazyLock};

use serde::{Deserialize, Serialize};

use super::{Glob, TableError, reader};
use crate::units::{Joules, JoulesPerToken};

static SHIPPED: LazyLock<EnergyTable> = LazyLock::new(|| {
    #[expect(clippy::expect_used, reason = "the file is part of the program, and the tests parse this very text")]
    EnergyTable::parse(include_str!("energy.csv")).expect("the shipped table of energy coefficients parses")
});

/// How coefficients came to be; a smaller one is better evidence.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, schemars::JsonSchema)]
pub enum EnergyQuality {
    /// Fitted to the meters of the machines that run the model.
    #[serde(rename = "metered")]
    Metered,
    /// An open model measured on the hardware that it commonly runs on.
    A,
    /// An open model measured on other hardware only.
    B,
    /// A guess from what is known of the model's class.
    C,
}

impl EnergyQuality {
    /// The word in the log.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Metered => "metered",
            Self::A => "A",
            Self::B => "B",
            Self::C => "C",
        }
    }
}

/// A best guess between two ends, which hold nine in ten of the truth by judgement: low ≤ mid ≤ high.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Band<T> {
    low: T,
    mid: T,
    high: T,
}

/// Energy of one request at the machine, before the building's share.
pub type EnergyBand = Band<Joules>;

impl<T: Copy + PartialOrd> Band<T> {
    /// A band; `None` unless `low` ≤ `mid` ≤ `high`.
    pub fn new(low: T, mid: T, high: T) -> Option<Self> {
        (low <= mid && mid <= high).then_some(Self { low, mid, high })
    }

    /// A band without width, for what was metered.
    pub const fn exact(value: T) -> Self {
        Self { low: value, mid: value, high: value }
    }

    /// The lower end.
    pub const fn low(&self) -> T {
        self.low
    }

    /// The best guess.
    pub const fn mid(&self) -> T {
        self.mid
    }

    /// The upper end.
    pub const fn high(&self) -> T {
        self.high
    }
}

/// How many tokens a request had, as far as energy asks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TokenCounts {
    /// All tokens of the prompt, the cached ones included.
    pub input: u64,
    /// Those of the prompt that a cache spared. More than `input` counts as all of it.
    pub cached: u64,
    /// Generated tokens, hidden reasoning included.
    pub output: u64,
}

/// What one model's tokens cost.
#[derive(Clone, Debug, PartialEq)]
pub struct Coefficients {
    /// Their name in the log, which never comes to mean other figures: `openai-closed-large@1`.
    pub id: Arc<str>,
    /// A prompt's token that was computed.
    pub e_in: Band<JoulesPerToken>,
    /// A prompt's token that came out of a cache.
    pub e_cached_in: Band<JoulesPerToken>,
    /// A generated token.
    pub e_out: Band<JoulesPerToken>,
    /// What a request costs before its first token.
    pub fixed: Joules,
    /// How they came to be.
    pub quality: EnergyQuality,
    /// Where they come from.
    pub source: Arc<str>,
}

impl Coefficients {
    /// The energy of a request at the machine; times [`Pue`](crate::units::Pue) it is the building's. The ends of the band take
    /// the ends of all rates together, since one cause (batch, hardware) moves them all.
    pub fn energy(&self, tokens: TokenCounts) -> EnergyBand {
        Band { low: self.sum(tokens, Band::low), mid: self.best_guess(tokens), high: self.sum(tokens, Band::high) }
    }

    /// The middle of that band alone, which is all that a choice is made by.
    pub fn best_guess(&self, tokens: TokenCounts) -> Joules {
        self.sum(tokens, Band::mid)
    }

    fn sum(&self, tokens: TokenCounts, end: impl Fn(&Band<JoulesPerToken>) -> JoulesPerToken) -> Joules {
        let cached = tokens.cached.min(tokens.input);
        let computed = tokens.input - cached;
        self.fixed + end(&self.e_in) * computed + end(&self.e_cached_in) * cached + end(&self.e_out) * tokens.output
    }
}

/// Coefficients that the configuration sets for the models of a pattern.
#[derive(Clone, Debug, PartialEq)]
pub struct Override {
    /// Which models.
    pub models: Glob,
    /// What they cost.
    pub coefficients: Coefficients,
}

/// Coefficients for every model there is.
#[derive(Clone, Debug)]
pub struct EnergyTable {
    rows: Vec<Row>,
    unknown: Coefficients,
}

#[derive(Clone, Debug)]
struct Row {
    patterns: Vec<Glob>,
    coefficients: Coefficients,
}

impl EnergyTable {
    /// The shipped table. The first call parses it; call it while a configuration is loaded.
    pub fn shipped() -> &'static Self {
        &SHIPPED
    }

    /// This table with `overrides` before its own rows, in their order.
    #[must_use]
    pub fn with_overrides(&self, overrides: Vec<Override>) -> Self {
        let mut rows: Vec<Row> =
            overrides.into_iter().map(|own| Row { patterns: vec![own.models], coefficients: own.coefficients }).collect();
        rows.extend_from_slice(&self.rows);
        Self { rows, unknown: self.unknown.clone() }
    }

    /// The coefficients of a model: those of the first row that matches, else `unknown@1`. It tries every pattern, so ask it for
    /// a plan's models once and not for each request.
    pub fn find(&self, model_id: &str) -> &Coefficients {
        let row = self.rows.iter().find(|row| row.patterns.iter().any(|pattern| pattern.matches(model_id)));
        row.map_or(&self.unknown, |row| &row.coefficients)
    }

    /// The coefficients that a log line names.
    pub fn by_id(&self, id: &str) -> Option<&Coefficients> {
        self.iter().find(|coefficients| &*coefficients.id == id)
    }

    /// Every row's coefficients in the order of matching, the ones for unknown models last.
    pub fn iter(&self) -> impl Iterator<Item = &Coefficients> {
        self.rows.iter().map(|row| &row.coefficients).chain(std::iter::once(&self.unknown))
    }

    fn parse(text: &str) -> Result<Self, TableError> {
        let mut rows = reader(text).deserialize().map(|row| Written::into_row(row?)).collect::<Result<Vec<_>, _>>()?;
        let last = rows.pop().ok_or(TableError::value("unknown", "the table is empty"))?;
        if !matches!(&*last.patterns, [only] if only.as_str() == "*") {
            return Err(TableError::value(&last.coefficients.id, "the last row has to match every model"));
        }
        let mut ids: Vec<&str> = rows.iter().chain([&last]).map(|row| &*row.coefficients.id).collect();
        ids.sort_unstable();
        if let Some(pair) = ids.windows(2).find(|pair| pair[0] == pair[1]) {
            return Err(TableError::value(pair[0], "it is there twice"));
        }
        Ok(Self { rows, unknown: last.coefficients })
    }
}

/// A line of the file, as written. All `e_` are in J/token.
#[derive(Deserialize)]
struct Written {
    id: String,
    patterns: String,
    e_in_low: JoulesPerToken,
    e_in: JoulesPerToken,
    e_in_high: JoulesPerToken,
    e_cached_low: JoulesPerToken,
    e_cached: JoulesPerToken,
    e_cached_high: JoulesPerToken,
    e_out_low: JoulesPerToken,
    e_out: JoulesPerToken,
    e_out_high: JoulesPerToken,
    fixed_j_per_request: Joules,
    quality: EnergyQuality,
    source: String,
}

impl Written {
    fn into_row(self) -> Result<Row, TableError> {
        let wrong = |what| TableError::value(&self.id, what);
        if !self.id.rsplit_once('@').is_some_and(|(name, revision)| !name.is_empty() && revision.parse::<u16>().is_ok()) {
            return Err(wrong("an id is a name, an @ and the number of its revision"));
        }
        let patterns: Vec<Glob> = self
            .patterns
            .split(' ')
            .map(Glob::new)
            .collect::<Result<_, _>>()
            .map_err(|_| wrong("a pattern is empty or too long"))?;
        let band = |low, mid, high| Band::new(low, mid, high).ok_or_else(|| wrong("a band is not in order"));
        Ok(Row {
            coefficients: Coefficients {
                e_in: band(self.e_in_low, self.e_in, self.e_in_high)?,
                e_cached_in: band(self.e_cached_low, self.e_cached, self.e_cached_high)?,
                e_out: band(self.e_out_low, self.e_out, self.e_out_high)?,
                fixed: self.fixed_j_per_request,
                quality: self.quality,
                id: self.id.as_str().into(),
                source: self.source.into(),
            },
            patterns,
        })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn id(model: &str) -> &'static str {
        &EnergyTable::shipped().find(model).id
    }

    #[test]
    fn the_first_row_that_matches_wins() {
        for (model, expected) in [
            ("text-embedding-3-large", "embedding@1"),
            ("amazon.titan-embed-text-v2:0", "embedding@1"),
            ("qwen3-embedding-8b", "embedding@1"),
            ("gpt-4o-mini-2024-07-18", "openai-closed-small@1"),
            ("gpt-4o", "openai-closed-large@1"),
            ("openai/gpt-4o", "openai-closed-large@1"),
            ("gpt-4", "openai-closed-xlarge@1"),
            ("gpt-4-turbo", "openai-closed-xlarge@1"),
            ("gpt-4.1-nano", "openai-closed-small@1"),
            ("gpt-4.1-mini", "openai-closed-medium@1"),
            ("gpt-4.1", "openai-closed-large@1"),
            ("gpt-5-pro", "openai-closed-xlarge@1"),
            ("o3-mini", "openai-closed-medium@1"),
            ("o3", "openai-closed-large@1"),
            ("gemini-2.5-flash-lite", "google-closed-small@1"),
            ("gemini-2.5-flash", "google-closed-medium@1"),
            ("eu.anthropic.claude-sonnet-4-5-20250929-v1:0", "anthropic-closed-large@1"),
            ("claude-3-haiku-20240307", "anthropic-closed-small@1"),
            ("meta-llama/Llama-3.1-8B-Instruct", "llama-3.1-8b@1"),
            ("meta.llama3-1-70b-instruct-v1:0", "llama-3.1-70b@1"),
            ("deepseek-r1-distill-llama-8b", "distilled@1"),
            ("deepseek-ai/DeepSeek-R1", "deepseek-r1@1"),
            ("gpt-oss:20b", "gpt-oss-20b@1"),
        ] {
            assert_eq!(id(model), expected, "{model}");
        }
    }

    #[test]
    fn a_model_nobody_knows_is_not_free() {
        let unknown = EnergyTable::shipped().find("a-model-from-the-future");
        assert_eq!((&*unknown.id, unknown.quality), ("unknown@1", EnergyQuality::C));
        assert!(unknown.e_out.low().get() > 0.0 && unknown.e_out.high().get() >= 100.0 * unknown.e_out.low().get());
        assert_eq!(id(""), "unknown@1");
    }

    #[test]
    fn every_shipped_row_is_whole() {
        for coefficients in EnergyTable::shipped().iter() {
            assert!(coefficients.e_in.mid().get() > 0.0, "{}", coefficients.id);
            assert!(coefficients.e_cached_in.mid() <= coefficients.e_in.mid(), "{}", coefficients.id);
            assert_eq!(coefficients.e_out.mid().get() == 0.0, &*coefficients.id == "embedding@1", "{}", coefficients.id);
            assert!(!coefficients.source.is_empty(), "{}", coefficients.id);
            assert!(coefficients.quality != EnergyQuality::Metered, "{}: only a user can meter", coefficients.id);
            assert_eq!(EnergyTable::shipped().by_id(&coefficients.id), Some(coefficients));
        }
        assert_eq!(EnergyTable::shipped().by_id("gone@7"), None);
    }

    #[test]
    fn every_row_can_be_reached() {
        let table = EnergyTable::shipped();
        for row in &table.rows {
            let sample = |pattern: &Glob| pattern.as_str().replace('*', "");
            assert!(
                row.patterns.iter().any(|pattern| table.find(&sample(pattern)) == &row.coefficients),
                "{}",
                row.coefficients.id
            );
        }
    }

    #[test]
    fn energy_follows_the_formula() {
        // Closed, large, 500 in and 400 out: 500 * 0.498 + 400 * 2.5 = 1249 J, 0.35 Wh, beside the 0.34 Wh that OpenAI published.
        let coefficients = EnergyTable::shipped().find("gpt-4o");
        let whole = coefficients.energy(TokenCounts { input: 500, cached: 0, output: 400 });
        assert!((whole.mid().get() - 1249.0).abs() < 1e-9, "{whole:?}");
        let cached = coefficients.energy(TokenCounts { input: 500, cached: 400, output: 400 });
        assert!((cached.mid().get() - (100.0 * 0.498 + 400.0 * 0.0498 + 1000.0)).abs() < 1e-9, "{cached:?}");
        assert!(whole.low() < whole.mid() && whole.mid() < whole.high());
    }

    #[test]
    fn a_fixed_share_is_paid_once() {
        let coefficients = Coefficients { fixed: Joules::saturating(7.0), ..EnergyTable::shipped().find("gpt-4o").clone() };
        assert_eq!(coefficients.energy(TokenCounts::default()), Band::exact(Joules::saturating(7.0)));
    }

    #[test]
    fn an_override_comes_first() {
        let metered = Coefficients {
            id: "own-llama@1".into(),
            e_out: Band::exact(JoulesPerToken::saturating(0.11)),
            quality: EnergyQuality::Metered,
            ..EnergyTable::shipped().find("llama-3.1-8b").clone()
        };
        let table = EnergyTable::shipped()
            .with_overrides(vec![Override { models: Glob::new("llama-3.1-8b*").unwrap(), coefficients: metered.clone() }]);
        assert_eq!(table.find("llama-3.1-8b-instruct"), &metered);
        assert_eq!(&*table.find("meta/llama-3.1-8b").id, "llama-3.1-8b@1");
        assert_eq!(table.by_id("own-llama@1"), Some(&metered));
    }

    #[test]
    fn a_bad_table_is_refused() {
        let head = "id,patterns,e_in_low,e_in,e_in_high,e_cached_low,e_cached,e_cached_high,e_out_low,e_out,e_out_high,\
                    fixed_j_per_request,quality,source\n";
        let good = "all@1,*,1,2,3,0,0,0,1,2,3,0,C,s";
        assert!(EnergyTable::parse(&format!("{head}{good}")).is_ok());
        for (rows, what) in [
            (String::new(), "empty"),
            (good.replace(",*,", ",a*,"), "match every model"),
            (good.replace("1,2,3,0,0", "2,1,3,0,0"), "not in order"),
            (good.replace("all@1", "all"), "an id is"),
            (good.replace("1,2,3", "1,NaN,3"), "finite"),
            (good.replace(",*,", ",* ,"), "pattern"),
            (good.replace(",C,", ",D,"), "not readable"),
            (format!("{}\n{good}", good.replace(",*,", ",a,")), "twice"),
        ] {
            let error = EnergyTable::parse(&format!("{head}{rows}")).unwrap_err().to_string();
            assert!(error.contains(what), "{rows}: {error}");
        }
    }

    #[test]
    fn agrees_with_the_data_it_was_derived_from() {
        let Some(dir) = std::env::var_os("WINDWARD_DATA") else {
            // Not `eprintln!`: what a passing test prints is hidden, and a silent skip looks like a pass.
            let _ = std::io::Write::write_all(
                &mut std::io::stderr(),
                b"SKIPPED: WINDWARD_DATA is not set, so the coefficients were not compared with the data they come from\n",
            );
            return;
        };
        let mut reader = csv::Reader::from_path(std::path::Path::new(&dir).join("energy_models.csv")).unwrap();
        for row in reader.deserialize::<std::collections::HashMap<String, String>>() {
            let row = row.unwrap();
            // A model id that the pattern was made for; the shipped table has to give it the same figures.
            let model = row["pattern"].replace('*', "x");
            let found = EnergyTable::shipped().find(&model);
            for (column, value) in [
                ("e_in_low", found.e_in.low()),
                ("e_in_j_per_token", found.e_in.mid()),
                ("e_in_high", found.e_in.high()),
                ("e_cached_in_j_per_token", found.e_cached_in.mid()),
                ("e_out_low", found.e_out.low()),
                ("e_out_j_per_token", found.e_out.mid()),
                ("e_out_high", found.e_out.high()),
            ] {
                assert_eq!(Some(value), JoulesPerToken::new(row[column].parse().unwrap()), "{model} {column}");
            }
        }
    }

    proptest! {
        #[test]
        fn the_band_keeps_its_order(input in any::<u64>(), cached in any::<u64>(), output in any::<u64>(), model in "\\PC{0,30}") {
            let tokens = TokenCounts { input, cached, output };
            let band = EnergyTable::shipped().find(&model).energy(tokens);
            prop_assert_eq!(band.mid(), EnergyTable::shipped().find(&model).best_guess(tokens));
            prop_assert!(band.low() <= band.mid() && band.mid() <= band.high());
            prop_assert!(band.high().get().is_finite());
        }
    }
}

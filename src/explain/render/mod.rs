//! An explanation as text and as JSON. Pure: it returns text and leaves the printing to the command line.
//!
//! Names come from clients and from logs, and are shown without control characters.

mod exchange;
mod table;

use std::collections::BTreeSet;
use std::fmt::Write as _;

use super::{Asked, Choice, Exchange, Explanation, Predicted, Source, Wide, words};
use crate::record::{CandidateUsed, DecisionUsed, NarrowedBy, ShadowUsed, Text};
use crate::report::render::{Paint, dollars, fact, line, mass, paint, shown};
use crate::units::{Grams, GramsPerKwh, Millis, Pue};
use table::Table;

/// For programs: one line of JSON.
pub fn json(explanation: &Explanation<'_>) -> String {
    let mut text = serde_json::to_string(explanation).unwrap_or_default();
    text.push('\n');
    text
}

/// For eyes. `colour` adds terminal colours.
pub fn text(explanation: &Explanation<'_>, colour: bool) -> String {
    let mut out = String::new();
    line(&mut out, &paint(colour, Paint::Head, &title(explanation)));
    for notice in &explanation.notices {
        for part in wrapped(notice) {
            line(&mut out, &paint(colour, Paint::Loss, &part));
        }
    }
    out.push('\n');
    asked(&mut out, explanation);
    match &explanation.decision {
        Some(decision) => {
            out.push('\n');
            candidates(&mut out, decision, colour);
            out.push('\n');
            chosen(&mut out, explanation, decision);
            choice(&mut out, &explanation.choice);
            for (nth, wide) in explanation.wide.iter().enumerate() {
                fact(&mut out, if nth == 0 { "placement" } else { "" }, &place(wide));
            }
        }
        None => fact(&mut out, "decided", "nothing: it was refused before, or it was no call that is decided"),
    }
    if let Some(used) = &explanation.shadow {
        fact(&mut out, "shadow", &shadow(used));
    }
    if let Some(exchange) = &explanation.exchange {
        out.push('\n');
        exchange::write(&mut out, exchange, &explanation.asked);
    }
    out
}

/// What is over of a budget is of no consequence below this: every request takes some microseconds.
const LONG: Millis = Millis::saturating(1.0);
/// Widest line of a notice, in characters.
const WIDTH: usize = 120;

/// Text in lines.
fn wrapped(text: &str) -> Vec<String> {
    let mut lines: Vec<String> = Vec::new();
    for word in text.split_whitespace() {
        match lines.last_mut() {
            Some(last) if last.chars().count() + 1 + word.chars().count() <= WIDTH => {
                last.push(' ');
                last.push_str(word);
            }
            _ => lines.push(word.to_owned()),
        }
    }
    lines
}

/// A name, or a dash where there is none.
fn name(text: Option<&Text<'_>>) -> String {
    text.map_or_else(|| "-".to_owned(), |text| shown(text))
}

fn title(explanation: &Explanation<'_>) -> String {
    let Asked { model, route, .. } = &explanation.asked;
    let decided = explanation.decision.as_ref();
    let winner = decided.and_then(|decision| decision.candidates.iter().find(|it| &*it.verdict == "chosen"));
    let is_held = decided.is_some_and(|decision| &*decision.reason == ShadowUsed::HELD);
    let outcome = match (winner, decided, explanation.source) {
        (Some(winner), _, Source::Configuration) => format!("would go to {}", shown(&winner.backend)),
        (Some(winner), _, Source::Log) => sent(winner, explanation.exchange.as_deref()),
        (None, Some(_), Source::Configuration) if is_held => "would be held back".to_owned(),
        (None, Some(_), Source::Log) if is_held => "was held back".to_owned(),
        (None, Some(_), Source::Configuration) => "would be refused".to_owned(),
        (None, Some(_), Source::Log) => "was refused".to_owned(),
        (None, None, _) => "was not decided".to_owned(),
    };
    match &explanation.exchange {
        Some(exchange) => format!("Request {}, model {}, {outcome}", shown(&exchange.id), name(model.as_ref())),
        None => format!("Model {} on route {} {outcome}", name(model.as_ref()), name(route.as_ref())),
    }
}

/// Where it was sent, and where it ended if that is elsewhere.
fn sent(winner: &CandidateUsed<'_>, exchange: Option<&Exchange<'_>>) -> String {
    let first = format!("was sent to {}", shown(&winner.backend));
    match exchange.and_then(|exchange| exchange.backend.as_ref()).filter(|last| **last != winner.backend) {
        Some(last) => format!("{first} and ended with {}", shown(last)),
        None => first,
    }
}

fn asked(out: &mut String, explanation: &Explanation<'_>) {
    let Asked { model: _, route, policy, objective, key, stream, budget_ms, narrowed, at } = &explanation.asked;
    let mut place = format!("{}, policy {}", name(route.as_ref()), name(policy.as_ref()));
    if let Some(objective) = objective {
        let _ = write!(place, " ({})", objective.as_str());
    }
    if let Some(key) = key {
        let _ = write!(place, ", key {}", shown(key));
    }
    fact(out, "route", &place);
    if let Some(at) = at {
        fact(out, "at", &at.to_string());
    }
    let first = explanation.decision.as_ref().and_then(|decision| decision.candidates.first());
    if let Some((input, output)) = first.and_then(|it| it.input_tokens.zip(it.output_tokens)) {
        let by = first.and_then(|it| it.coefficient.as_ref()).map(|id| format!("; energy by {}", shown(id)));
        fact(out, "size", &format!("{input} prompt tokens, {output} output tokens expected{}", by.unwrap_or_default()));
    }
    if let Some(decision) = &explanation.decision {
        at_hand(out, &decision.candidates);
        costs(out, &decision.candidates);
    }
    let until = if *stream { "until the first token" } else { "until the end (no stream is wanted)" };
    let mut budget = budget_ms.map_or_else(|| format!("none {until}"), |budget| format!("{} {until}", ms(budget)));
    let spent = explanation.decision.as_ref().and_then(|decision| decision.spent_ms);
    if let Some(spent) = spent.filter(|spent| budget_ms.is_some() && *spent >= LONG) {
        let _ = write!(budget, ", of which {} were over when it was decided", ms(spent));
    }
    fact(out, "budget", &budget);
    if let Some(reserve) = explanation.decision.as_ref().and_then(|decision| decision.reserve) {
        let percent = 100.0 * reserve;
        fact(
            out,
            "reserve",
            &format!("{percent:.2} % of the places where it would be in time were kept free of it, for those who cannot wait"),
        );
    }
    if let Some(strain) = explanation.decision.as_ref().and_then(|decision| decision.strain) {
        let percent = 100.0 * strain;
        fact(
            out,
            "strain",
            &format!("limits counted as {percent:.2} % higher than learned, as it cannot wait and had a place nowhere else"),
        );
    }
    if let Some(narrowed) = narrowed {
        fact(out, "narrowed", &by_the_client(narrowed));
    }
}

/// Who has something of the prompt, because it served the conversation before.
fn at_hand(out: &mut String, candidates: &[CandidateUsed<'_>]) {
    let warm = candidates.iter().filter_map(|it| Some((it, it.cached_input_tokens?)));
    for (nth, (it, cached)) in warm.enumerate() {
        let label = if nth == 0 { "cached" } else { "" };
        fact(out, label, &format!("{} is believed to have {cached} of the prompt tokens at hand", shown(&it.backend)));
    }
}

/// What it would cost at each of those whose prices are known.
fn costs(out: &mut String, candidates: &[CandidateUsed<'_>]) {
    let known = candidates.iter().filter_map(|it| Some(format!("{} at {}", dollars(it.cost_usd?.get()), shown(&it.backend))));
    let known: Vec<String> = known.collect();
    if !known.is_empty() {
        fact(out, "cost", &known.join(", "));
    }
}

fn by_the_client(narrowed: &NarrowedBy<'_>) -> String {
    let NarrowedBy { latency_budget_ms, objective, residency } = narrowed;
    let parts = [
        latency_budget_ms.map(|budget| format!("latency budget {}", ms(budget))),
        objective.as_ref().map(|word| format!("objective {}", shown(word))),
        residency.as_ref().map(|places| format!("residency {}", shown(places))),
    ];
    format!("by the client: {}", parts.into_iter().flatten().collect::<Vec<_>>().join(", "))
}

fn candidates(out: &mut String, decision: &DecisionUsed<'_>, colour: bool) {
    let mut table = Table::new([
        "<candidate",
        "<grid zone",
        "g/kWh",
        "age",
        "PUE",
        "emits",
        "money",
        "waiting",
        "price",
        "first token",
        "ahead",
        "end",
        "each token",
        "in flight",
        "weight",
        "<verdict",
    ]);
    for it in &decision.candidates {
        let in_flight = it.limit.map_or_else(|| it.in_flight.to_string(), |limit| format!("{} of {limit}", it.in_flight));
        table.row([
            shown(&it.backend),
            it.grid_zone.as_ref().map_or_else(|| "unknown".to_owned(), |zone| shown(zone)),
            it.intensity_g_per_kwh.map_or_else(|| "unknown".to_owned(), per_kwh),
            aged(it),
            it.pue.map(|pue: Pue| format!("{:.2}", pue.get())).unwrap_or_default(),
            it.grams.map_or_else(|| "unknown".to_owned(), grams),
            it.cost_grams.map(grams).unwrap_or_default(),
            it.waiting_grams.map(grams).unwrap_or_default(),
            it.price_grams.map(grams).unwrap_or_default(),
            it.first_token_ms.map(ms).unwrap_or_default(),
            it.queue_ms.map(ms).unwrap_or_default(),
            it.total_ms.map(ms).unwrap_or_default(),
            it.per_output_token_ms.map(|each| format!("{:.1} ms", each.get())).unwrap_or_default(),
            in_flight,
            it.weight.map(|weight| weight.to_string()).unwrap_or_default(),
            verdict(it),
        ]);
    }
    let is_chosen = |place: usize| decision.candidates.get(place).is_some_and(|it| &*it.verdict == "chosen");
    table.write(out, |place, row| if is_chosen(place) { paint(colour, Paint::Gain, row) } else { row.to_owned() });
    let said: BTreeSet<&str> = decision.candidates.iter().map(|it| &*it.verdict).filter(|word| *word != "chosen").collect();
    let explained = || said.iter().filter_map(|word| words::verdict(word).map(|meaning| (word, meaning)));
    if explained().next().is_some() {
        out.push('\n');
    }
    for (word, meaning) in explained() {
        line(out, &format!("  {word}: {meaning}"));
    }
}

fn verdict(candidate: &CandidateUsed<'_>) -> String {
    let word = shown(&candidate.verdict);
    match candidate.by {
        Some(by) => format!("{word} by {}", words::amount(&candidate.verdict, by)),
        None => word,
    }
}

fn chosen(out: &mut String, explanation: &Explanation<'_>, decision: &DecisionUsed<'_>) {
    let winner = decision.candidates.iter().find(|it| &*it.verdict == "chosen");
    // Of a line that names a reason and nobody who was chosen for it the reason is not believed.
    let meant = winner.is_some() || matches!(&*decision.reason, ShadowUsed::REFUSED | ShadowUsed::HELD | ShadowUsed::SHED);
    let meaning = words::reason(&decision.reason).filter(|_| meant).map(|text| format!(": {text}")).unwrap_or_default();
    let reason = format!("{}{meaning}", shown(&decision.reason));
    match winner {
        Some(winner) => fact(out, "chosen", &format!("{}, {reason}", shown(&winner.backend))),
        None => fact(out, "chosen", &format!("nobody, {reason}")),
    }
    if let Some(refusal) = &explanation.refusal {
        fact(out, "", refusal);
    }
    let Some((winner, baseline)) = winner.zip(decision.baseline.as_ref()) else { return };
    let at = decision.candidates.iter().find(|it| it.backend == *baseline);
    let difference = match (winner.grams, at.and_then(|it| it.grams)) {
        _ if winner.backend == *baseline => ", the same one: carbon changes nothing here".to_owned(),
        (Some(own), Some(other)) => {
            let more = other.get() - own.get();
            format!(", {} expected there, {} {}", grams(other), mass(more.abs()), if more < 0.0 { "less" } else { "more" })
        }
        _ => ", and the grams of one of the two are unknown".to_owned(),
    };
    fact(out, "baseline", &format!("without carbon it is {}{difference}", shown(baseline)));
}

/// How much choice there is, said as it is.
fn choice(out: &mut String, choice: &Choice) {
    let unknown = match choice.of_unknown_zone {
        0 => String::new(),
        count => format!(", {count} of them of no known zone"),
    };
    fact(
        out,
        "choice",
        &format!(
            "{} in {}{unknown}; {} every constraint, in {}",
            counted(choice.candidates, "candidate", "candidates"),
            counted(choice.grid_zones, "grid zone", "grid zones"),
            counted(choice.feasible, "meets", "meet"),
            counted(choice.feasible_grid_zones, "zone", "zones"),
        ),
    );
    fact(out, "", &worth(choice));
}

/// Where one may run that is not in one place.
fn place(wide: &Wide) -> String {
    let name = shown(&wide.backend);
    match wide.grid_zones {
        Some(zones) => {
            let between = wide.intensity_g_per_kwh.map(|ends| ends.map(per_kwh));
            let between = between.map(|[low, high]| format!(", from {low} to {high} g/kWh")).unwrap_or_default();
            format!(
                "{name} may run in any of {zones} grid zones{between}, of which the dirtiest counts: which it is, its provider chooses"
            )
        }
        None => format!("{name} may run anywhere, and never wins as green"),
    }
}

fn worth(choice: &Choice) -> String {
    let named = |it: &Predicted| format!("{}, {}", shown(&it.backend), grams(it.grams));
    match (choice.feasible, &choice.cleanest, &choice.dirtiest) {
        (0, ..) if choice.kept_free > 0 => "who would be in time was kept free for others, so carbon has no say".to_owned(),
        (0, ..) => "nobody meets every constraint, so carbon has no say".to_owned(),
        (1, ..) => "where only one meets every constraint there is nothing to choose".to_owned(),
        (_, None, _) | (_, _, None) => "nobody's grams are known, so carbon has no say".to_owned(),
        (_, Some(cleanest), Some(dirtiest)) => {
            let Some(spread) = choice.spread() else {
                return format!("the cleanest of those whose grams are known is {}", named(cleanest));
            };
            let grids =
                if choice.feasible_grid_zones <= 1 { "they are on one grid, where only PUE tells them apart; " } else { "" };
            if spread < 1.01 {
                return format!("{grids}their grams differ by less than 1 %: there is hardly a choice");
            }
            let (dirtiest, cleanest) = (named(dirtiest), named(cleanest));
            if spread < 1.1 {
                let more = 100.0 * (spread - 1.0);
                return format!("{grids}the dirtiest ({dirtiest}) emits {more:.1} % more than the cleanest does ({cleanest})");
            }
            format!("{grids}the dirtiest ({dirtiest}) emits {spread:.1} times what the cleanest does ({cleanest})")
        }
    }
}

fn shadow(used: &ShadowUsed<'_>) -> String {
    let ShadowUsed { policy, reason, backend, grams: emits, first_token_ms } = used;
    let would = match (backend, &**reason) {
        (Some(backend), _) => format!("chosen {}", shown(backend)),
        (None, "held") => "held it back".to_owned(),
        (None, "shed") => "refused it".to_owned(),
        (None, _) => "chosen nobody".to_owned(),
    };
    let mut text = format!("policy {} would have {would} ({})", shown(policy), shown(reason));
    if let Some(emits) = emits {
        let _ = write!(text, ", {}", grams(*emits));
    }
    if let Some(first_token) = first_token_ms {
        let _ = write!(text, ", first token {}", ms(*first_token));
    }
    text
}

fn counted(count: usize, one: &str, many: &str) -> String {
    format!("{count} {}", if count == 1 { one } else { many })
}

fn grams(grams: Grams) -> String {
    mass(grams.get())
}

fn ms(ms: Millis) -> String {
    format!("{:.0} ms", ms.get())
}

/// How old a reading was, and what it was worth where it was not fresh.
fn aged(it: &CandidateUsed<'_>) -> String {
    let age = it.intensity_age_s.map(|seconds| match seconds {
        0..120 => format!("{seconds} s"),
        120..7200 => format!("{} min", seconds / 60),
        7200..172_800 => format!("{} h", seconds / 3600),
        _ => format!("{} d", seconds / 86_400),
    });
    let worth = it.freshness.map(|freshness| freshness.as_str().to_owned());
    age.into_iter().chain(worth).collect::<Vec<_>>().join(", ")
}

fn per_kwh(intensity: GramsPerKwh) -> String {
    format!("{:.0}", intensity.get())
}

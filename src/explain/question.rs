//! A question to a configuration: who would serve this request?
//!
//! It is asked of a [`Snapshot`] as the proxy asks it, in the same order: route, key, candidates, decision.

use std::time::Instant;

use http::Method;
use jiff::Timestamp;

use super::{Asked, Choice, Explanation, Source, Wide};
use crate::affinity::Warm;
use crate::backend::BackendId;
use crate::decide::{Candidate, Decision, InTime, NoCandidate, Outcome, Scratch, Verdict, Waiting, decide_in_time, exclusion};
use crate::demand::Demand;
use crate::grid::ZoneId;
use crate::key::{Key, KeyPolicy};
use crate::policy::Objective;
use crate::record::{CandidateUsed, DecisionUsed, ShadowUsed, Text};
use crate::route::{Deployment, Route, select};
use crate::state::{self, Snapshot};
use crate::tables::nearest;
use crate::units::Millis;
use crate::wire::{Call, call};

/// A request that nobody has sent.
#[derive(Clone, Copy, Debug)]
pub struct Question<'a> {
    /// The model by the client's name.
    pub model: &'a str,
    /// How its route is found.
    pub target: Target<'a>,
    /// Tokens of the prompt.
    pub prompt_tokens: u32,
    /// The most output tokens that the client wants, where it says.
    pub max_output_tokens: Option<u32>,
    /// Whether it wants a stream.
    pub streamed: bool,
    /// Name of the client's key.
    pub key: Option<&'a str>,
    /// For when it is asked, where that is not now.
    pub at: Option<Timestamp>,
}

/// How a route is found.
#[derive(Clone, Copy, Debug)]
pub enum Target<'a> {
    /// By its name.
    Route(&'a str),
    /// By the path of a request without any header fields.
    Path(&'a str),
}

/// Why a question has no answer.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unanswered {
    /// No route of that name, or none that takes that path.
    #[error("no route {wanted}; there {}", listed("is", "are", known))]
    NoRoute {
        /// What was asked for, in words.
        wanted: String,
        /// The routes there are.
        known: Vec<String>,
    },
    /// The path is none that a decision is made for.
    #[error("nothing is decided for POST {path}: it {what}")]
    NoDecision {
        /// The path.
        path: String,
        /// What happens to it.
        what: String,
    },
    /// No key of that name, or one that does not open the route.
    #[error("{0}")]
    Key(String),
    /// Nobody on the route serves the model.
    #[error("nobody on route `{route}` serves {model:?}{}; it has {}", mean(suggestion.as_deref()), listed("only", "", known))]
    NoModel {
        /// The route.
        route: String,
        /// The model.
        model: String,
        /// What may have been meant.
        suggestion: Option<String>,
        /// The models of the route.
        known: Vec<String>,
    },
}

/// Names in an error that are listed before it says how many more there are.
const MOST_LISTED: usize = 12;

fn listed(one: &str, many: &str, names: &[String]) -> String {
    let verb = if names.len() == 1 { one } else { many };
    let shown = names.iter().take(MOST_LISTED).map(String::as_str).collect::<Vec<_>>().join(", ");
    let more = names.len().saturating_sub(MOST_LISTED);
    let text = if more > 0 { format!("{verb} {shown} and {more} more") } else { format!("{verb} {shown}") };
    if names.is_empty() { format!("{verb} none").trim().to_owned() } else { text.trim().to_owned() }
}

fn mean(suggestion: Option<&str>) -> String {
    suggestion.map(|name| format!(" (did you mean {name:?}?)")).unwrap_or_default()
}

/// What every explanation from a configuration begins with.
const UNMEASURED: &str = "FROM THE CONFIGURATION ALONE, no backend was asked: first tokens and token rates are what the file expects, everybody is \
     taken for healthy and idle, and carbon is each zone's yearly figure. A running proxy decides by what it has measured and by the \
     readings of the hour, and may choose otherwise.";
/// The same where the configuration names files of readings, and they know of a zone.
const FROM_FILES: &str = "FROM THE CONFIGURATION AND ITS FILES OF READINGS ALONE, no backend and no service was asked: first tokens and token \
     rates are what the file expects, everybody is taken for healthy and idle, and carbon is each zone's yearly figure where no file has a \
     reading of that time. A running proxy decides by what it has measured, and may choose otherwise.";
/// Said when the answer may be another for another client.
const OWN_POLICIES: &str =
    "Some keys that open this route bring a policy of their own: name one with --key. This is the route's own.";
/// Said when the answer is another for the next request.
const TURNS: &str = "Equals take turns, and this is the first turn: the next request may go to another of them.";

/// Who would serve the request, by the plan of the snapshot and what it knows. `now` and `wall` are when.
pub fn answer<'a>(
    snapshot: &'a Snapshot,
    question: &Question<'a>,
    now: Instant,
    wall: Timestamp,
) -> Result<Explanation<'a>, Unanswered> {
    let plan = &snapshot.plan;
    let (index, route, embeddings) = route(&plan.routes, question.target, snapshot)?;
    let key = question.key.map(|name| key(snapshot, name, index)).transpose()?;
    let own = key.and_then(|key| key.policy.as_deref());
    let policy = own.map_or(&route.policy, |own| &own.policy);
    let deployments = route.candidates(question.model);
    let Some(first) = deployments.first() else { return Err(no_model(route, question.model)) };
    let demand = Demand { body_bytes: 0, max_output_tokens: question.max_output_tokens, streamed: question.streamed, embeddings };
    let size = snapshot.size_of(first.flow, question.prompt_tokens, &demand);
    let asking = Asking { snapshot, deployments, streamed: question.streamed };
    // Nothing was served yet.
    let warm = Warm::default();
    let of_all = state::Question { model: question.model, size, policy, warm, now: snapshot.now(now), wall, turn: 0 };
    let candidates = asking.candidates(&of_all, |id| may_serve(route, own, id)).ok_or_else(|| no_model(route, question.model))?;
    let decided = asking.decide(&of_all, &candidates);
    let shadow = route.shadow.as_ref().and_then(|shadow| {
        // As a request is: whoever brings a policy by key is served by that one whatever the route's is.
        let of_all = state::Question { policy: own.map_or(&shadow.policy, |own| &own.policy), ..of_all };
        let used = asking.shadow(&of_all, |id| !shadow.outside.contains(&id) && suits_key(own, id))?;
        Some(ShadowUsed { policy: Text::from(&*shadow.policy.name), ..used })
    });
    let decision = asking.used(&of_all, &candidates, &decided);
    let mut zones = (0..plan.zones.len()).map(|zone| ZoneId(zone as u16));
    let read = zones.any(|zone| snapshot.grid.latest(zone).is_some());
    let mut notices = vec![if read { FROM_FILES } else { UNMEASURED }];
    if key.is_none() && plan.keys.iter().any(|key| key.opens(index) && key.policy.is_some()) {
        notices.push(OWN_POLICIES);
    }
    let rotates = matches!(policy.objective, Objective::RoundRobin | Objective::Weighted);
    if rotates || decision.candidates.iter().any(|it| &*it.verdict == Verdict::Tied.as_str()) {
        notices.push(TURNS);
    }
    Ok(Explanation {
        source: Source::Configuration,
        notices,
        asked: Asked {
            model: Some(Text::from(question.model)),
            route: Some(Text::from(&*route.name)),
            policy: Some(Text::from(&*policy.name)),
            objective: Some(policy.objective),
            key: key.map(|key| Text::from(&*key.name)),
            stream: question.streamed,
            budget_ms: policy.budget.and_then(|budget| budget.of(question.streamed, size.prompt_tokens)),
            narrowed: None,
            at: question.at,
        },
        choice: Choice::among(&decision.reason, &decision.candidates),
        wide: deployments
            .iter()
            .map(|one| plan.backend(one.backend))
            .filter_map(|backend| Wide::of(backend, snapshot.intensities(backend, wall)))
            .collect(),
        decision: Some(decision),
        refusal: refusal(decided),
        shadow,
        exchange: None,
    })
}

/// The route, its place in the plan, and whether the call asks for vectors.
fn route<'a>(routes: &'a [Route], target: Target<'_>, snapshot: &Snapshot) -> Result<(usize, &'a Route, bool), Unanswered> {
    let names = || routes.iter().map(|route| route.name.to_string()).collect();
    let path = match target {
        Target::Route(name) => {
            let found = routes.iter().enumerate().find(|(_, route)| &*route.name == name);
            let wanted = || Unanswered::NoRoute { wanted: format!("is called {name:?}"), known: names() };
            return found.map(|(index, route)| (index, route, false)).ok_or_else(wanted);
        }
        Target::Path(path) => path,
    };
    let found = select(routes, path, |_, _| false);
    let place = found.and_then(|found| Some((routes.iter().position(|route| std::ptr::eq(route, found))?, found)));
    let (index, route) = place.ok_or_else(|| Unanswered::NoRoute {
        wanted: format!("takes {path} without further header fields (with --route it is found by its name)"),
        known: names(),
    })?;
    let what = match call(route.dialect, &Method::POST, route.below(path).unwrap_or_default()) {
        Call::Inference(operation) => return Ok((index, route, operation.has_no_output())),
        Call::Named(named) => return Ok((index, route, named.operation.has_no_output())),
        Call::Models | Call::Model(_) => "is answered from the plan".to_owned(),
        Call::MethodNotAllowed { allow } => format!("is refused, and allows {allow}"),
        Call::Home | Call::Stream => format!("goes to the route's home, `{}`", snapshot.plan.backend(route.home).name),
    };
    Err(Unanswered::NoDecision { path: path.to_owned(), what })
}

fn key<'a>(snapshot: &'a Snapshot, name: &str, route: usize) -> Result<&'a Key, Unanswered> {
    let found = snapshot.plan.keys.iter().find(|key| &*key.name == name);
    let key = found.ok_or_else(|| Unanswered::Key(format!("there is no key called {name:?}")))?;
    if key.opens(route) { Ok(key) } else { Err(Unanswered::Key(format!("the key `{name}` does not open this route"))) }
}

/// Whether a backend lies inside the residency of the route's policy and of the key's.
fn may_serve(route: &Route, own: Option<&KeyPolicy>, backend: BackendId) -> bool {
    !route.outside.contains(&backend) && suits_key(own, backend)
}

fn suits_key(own: Option<&KeyPolicy>, backend: BackendId) -> bool {
    own.is_none_or(|own| own.outside.binary_search(&backend).is_err())
}

fn no_model(route: &Route, model: &str) -> Unanswered {
    let mut known: Vec<String> = route.models.keys().map(ToString::to_string).collect();
    known.sort_unstable();
    let suggestion = nearest(model, known.iter().map(|name| (name.as_str(), name.as_str()))).map(str::to_owned);
    Unanswered::NoModel { route: route.name.to_string(), model: model.to_owned(), suggestion, known }
}

/// The decision, where it is sent.
fn served(decided: &Result<InTime, NoCandidate>) -> Option<&Decision> {
    match decided {
        Ok(InTime { outcome: Outcome::Serve(decision), .. }) => Some(decision),
        _ => None,
    }
}

/// Why somebody was chosen, or nobody, in the word of the log.
fn reason(decided: &Result<InTime, NoCandidate>) -> &'static str {
    match decided.as_ref().map(|it| &it.outcome) {
        Ok(Outcome::Serve(decision)) => decision.reason.as_str(),
        Ok(Outcome::Hold(_)) => ShadowUsed::HELD,
        Ok(Outcome::Shed) => ShadowUsed::SHED,
        Err(_) => ShadowUsed::REFUSED,
    }
}

/// What its client gets who is sent nowhere.
fn refusal(decided: Result<InTime, NoCandidate>) -> Option<String> {
    match decided.map(|it| it.outcome) {
        Ok(Outcome::Serve(_)) => None,
        Ok(Outcome::Hold(_)) => {
            Some("the client waits until somebody can answer in time, and is refused if nobody can".to_owned())
        }
        Ok(Outcome::Shed) => Some("the client gets 429: nobody can answer in time".to_owned()),
        Err(why) => Some(format!("the client gets 503: {why}")),
    }
}

/// Everybody who is asked.
struct Asking<'a> {
    snapshot: &'a Snapshot,
    deployments: &'a [Deployment],
    streamed: bool,
}

impl<'a> Asking<'a> {
    fn candidates(&self, question: &state::Question<'_>, inside: impl Fn(BackendId) -> bool) -> Option<Vec<Candidate>> {
        let all = self.deployments.iter();
        all.map(|one| self.snapshot.candidate(one, inside(one.backend), question)).collect()
    }

    /// As the proxy decides for who has just come, while nobody else is there.
    fn decide(&self, question: &state::Question<'_>, candidates: &[Candidate]) -> Result<InTime, NoCandidate> {
        decide_in_time(question.policy, self.streamed, candidates, question.turn, Waiting::default(), &Scratch::default())
    }

    fn shadow(&self, question: &state::Question<'a>, inside: impl Fn(BackendId) -> bool) -> Option<ShadowUsed<'a>> {
        let candidates = self.candidates(question, inside)?;
        let decided = self.decide(question, &candidates);
        let chosen = served(&decided).and_then(|decision| candidates.get(usize::from(decision.chosen())));
        Some(ShadowUsed {
            policy: Text::from(&*question.policy.name),
            reason: Text::from(reason(&decided)),
            backend: chosen.map(|it| self.name(it)),
            grams: chosen.and_then(|it| it.estimate.emissions),
            first_token_ms: chosen.map(|it| it.estimate.first_token),
        })
    }

    fn name(&self, candidate: &Candidate) -> Text<'a> {
        Text::from(&*self.snapshot.plan.backend(candidate.backend).name)
    }

    /// The decision in the words of the log.
    fn used(
        &self,
        question: &state::Question<'_>,
        candidates: &[Candidate],
        decided: &Result<InTime, NoCandidate>,
    ) -> DecisionUsed<'a> {
        let decision = served(decided);
        let share = |of: fn(&InTime) -> f64| decided.as_ref().ok().and_then(|it| DecisionUsed::share(of(it)));
        let baseline = decision.and_then(|decision| candidates.get(usize::from(decision.baseline)));
        let rows = self.deployments.iter().zip(candidates).enumerate().map(|(index, (deployment, candidate))| {
            let verdict = match decision {
                Some(decision) => decision.verdicts.get(index).copied().unwrap_or(Verdict::LaterInOrder),
                None => exclusion(question.policy, self.streamed, candidate, Millis::ZERO).unwrap_or(Verdict::KeptFree),
            };
            self.row(question, deployment, candidate, verdict)
        });
        DecisionUsed {
            reason: Text::from(reason(decided)),
            baseline: baseline.map(|it| self.name(it)),
            turn: Some(question.turn.into()),
            spent_ms: None,
            reserve: share(|it| it.reserve),
            strain: share(|it| it.strain),
            input_tokens: None,
            output_tokens: None,
            coefficient: None,
            candidates: rows.collect(),
        }
    }

    fn row(
        &self,
        question: &state::Question<'_>,
        deployment: &'a Deployment,
        candidate: &Candidate,
        verdict: Verdict,
    ) -> CandidateUsed<'a> {
        let snapshot = self.snapshot;
        let backend = snapshot.plan.backend(candidate.backend);
        let intensity = snapshot.intensity(backend, question.wall);
        let table = deployment.coefficients.as_deref().unwrap_or_else(|| snapshot.plan.energy.find(question.model));
        let region = Some(Text::from(&*backend.region)).filter(|region| !region.is_empty());
        CandidateUsed {
            region,
            ..snapshot.candidate_used(
                candidate,
                verdict,
                (intensity, question.wall),
                (Some(table), deployment.prices),
                question.policy,
                None,
            )
        }
    }
}

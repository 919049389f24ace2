//! The file of a simulated fleet: text to a [`FleetPlan`].
//!
//! It is a file of its own rather than a part of the proxy's configuration, because it describes the other side of the wire: who
//! reads one of them must never find that the other half of it does not concern him.

use std::collections::HashSet;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::num::{NonZeroU8, NonZeroU16};
use std::sync::Arc;

use serde::Deserialize;
use serde_saphyr::Spanned;

use crate::backend::{AwsKeys, Secret};
use crate::fleet::{Day, Noise, Positive, Shape, Spec};
use crate::tables::Regions;
use crate::units::{GramsPerKwh, Millis};

/// Regions in one file: each costs a listener, and a fleet that is larger is a slip.
const MAX_REGIONS: usize = 64;

/// A free port of the loopback interface.
pub const ANY: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 0);

/// A simulated fleet.
#[derive(Clone, Debug)]
pub struct FleetPlan {
    /// The models that every region serves.
    pub models: Vec<Arc<str>>,
    /// The regions; at least one, at most 64, each name once.
    pub regions: Vec<RegionPlan>,
    /// Where the fleet is operated from, also while none of its regions is up; port 0 takes a free one.
    pub control: SocketAddr,
}

/// One simulated region.
#[derive(Clone, Debug)]
pub struct RegionPlan {
    /// How it answers.
    pub spec: Spec,
    /// Where it listens; port 0 takes a free one.
    pub listen: SocketAddr,
    /// The token without which it answers 401.
    pub bearer: Option<Secret>,
    /// How requests have to be signed, or else it answers 403.
    pub signed: Option<Signed>,
    /// Its grid in fast motion, for the demonstration.
    pub day: Option<Day>,
}

impl RegionPlan {
    /// A region on a free port of the loopback interface, open to everybody.
    pub fn new(spec: Spec) -> Self {
        Self { spec, listen: ANY, bearer: None, signed: None, day: None }
    }
}

/// What is wrong with the file of a fleet, and where.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{line}:{column}: {what}")]
pub struct FleetError {
    /// Counted from 1; 0 when the text as a whole is meant.
    pub line: u64,
    /// Counted from 1; 0 when the text as a whole is meant.
    pub column: u64,
    /// What is wrong, in words.
    pub what: String,
}

impl FleetPlan {
    /// The fleet of the shipped file, on free ports of the loopback interface, so that a demonstration never finds its own taken.
    /// An error cannot be met in a build whose tests passed.
    pub fn shipped() -> Result<Self, FleetError> {
        let mut plan = Self::parse(include_str!("../../config/fleet.yaml"))?;
        for region in &mut plan.regions {
            region.listen.set_port(0);
        }
        plan.control.set_port(0);
        Ok(plan)
    }

    /// Reads the file's text. The first problem ends it: the file is short and its reader runs it by hand.
    pub fn parse(text: &str) -> Result<Self, FleetError> {
        let file: FleetFile = serde_saphyr::from_str(text).map_err(|error| {
            let (line, column) = error.location().map_or((0, 0), |at| (at.line(), at.column()));
            // Without the snippet, which could show a token, and without the place, which is said already.
            let what = error.without_snippet().to_string();
            let what = what.split_once(" at line ").map_or(&*what, |(what, _)| what).trim_end_matches([',', ' ', '.']);
            FleetError { line, column, what: what.to_owned() }
        })?;
        file.into_plan()
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct FleetFile {
    models: Spanned<Vec<String>>,
    regions: Spanned<Vec<RegionFile>>,
    #[serde(default)]
    control: Option<Spanned<SocketAddr>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RegionFile {
    region: Spanned<String>,
    #[serde(default)]
    listen: Option<Spanned<SocketAddr>>,
    rtt_ms: Millis,
    replicas: NonZeroU16,
    #[serde(default)]
    slots_per_replica: Option<NonZeroU16>,
    #[serde(default)]
    queue_per_replica: Option<u16>,
    #[serde(default)]
    prefill_tokens_per_second: Option<Positive>,
    #[serde(default)]
    token_ms: Option<Millis>,
    #[serde(default)]
    token_ms_per_request: Option<Millis>,
    #[serde(default)]
    tokens_per_chunk: Option<NonZeroU8>,
    #[serde(default)]
    noise: Option<Noise>,
    #[serde(default)]
    require_bearer: Option<String>,
    #[serde(default)]
    require_sigv4: Option<SignedFile>,
    #[serde(default)]
    grid: Option<GridFile>,
}

/// How requests to a region have to be signed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Signed {
    /// For which service.
    pub service: Arc<str>,
    /// For which region, in the cloud's own word.
    pub region: Arc<str>,
    /// By which keys.
    pub keys: AwsKeys,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct SignedFile {
    access_key_id: String,
    secret_access_key: String,
    #[serde(default)]
    session_token: Option<String>,
    #[serde(default)]
    service: Option<String>,
    #[serde(default)]
    region: Option<String>,
}

impl SignedFile {
    /// For a region of that name.
    fn for_region(self, name: &str) -> Signed {
        let short = name.split_once('/').map_or(name, |(_, short)| short);
        Signed {
            service: Arc::from(self.service.as_deref().unwrap_or("bedrock")),
            region: Arc::from(self.region.as_deref().unwrap_or(short)),
            keys: AwsKeys {
                access_key_id: self.access_key_id.into(),
                secret_access_key: Secret::new(&self.secret_access_key),
                session_token: self.session_token.as_deref().map(Secret::new),
            },
        }
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct GridFile {
    shape: Shape,
    #[serde(default)]
    mean_g_per_kwh: Option<GramsPerKwh>,
    #[serde(default)]
    utc_offset_hours: UtcOffset,
}

/// Hours ahead of UTC, within what the world uses.
#[derive(Default)]
struct UtcOffset(f64);

impl<'de> Deserialize<'de> for UtcOffset {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let hours = f64::deserialize(deserializer)?;
        if (-12.0..=14.0).contains(&hours) {
            Ok(Self(hours))
        } else {
            Err(serde::de::Error::custom("expected hours between -12 and 14"))
        }
    }
}

impl FleetFile {
    fn into_plan(self) -> Result<FleetPlan, FleetError> {
        if self.models.value.is_empty() {
            return Err(at(&self.models, "a fleet serves at least one model".to_owned()));
        }
        if self.regions.value.is_empty() || self.regions.value.len() > MAX_REGIONS {
            return Err(at(&self.regions, format!("a fleet has 1 to {MAX_REGIONS} regions")));
        }
        let mut names = HashSet::new();
        let mut addresses = HashSet::new();
        for region in &self.regions.value {
            check_name(&region.region)?;
            if !names.insert(&region.region.value) {
                return Err(at(&region.region, format!("`{}` is listed twice", region.region.value)));
            }
            if let Some(listen) = &region.listen
                && listen.value.port() != 0
                && !addresses.insert(listen.value)
            {
                return Err(at(listen, format!("{} is taken by a region above", listen.value)));
            }
        }
        if let Some(control) = self.control.as_ref().filter(|control| addresses.contains(&control.value)) {
            return Err(at(control, format!("{} is taken by a region", control.value)));
        }
        let control = self.control.map_or(ANY, |control| control.value);
        let models = self.models.value.iter().map(|model| Arc::from(model.as_str())).collect();
        Ok(FleetPlan { models, regions: self.regions.value.into_iter().map(RegionFile::into_plan).collect(), control })
    }
}

impl RegionFile {
    fn into_plan(self) -> RegionPlan {
        let usual = Spec::new(&self.region.value, self.rtt_ms, self.replicas);
        let spec = Spec {
            slots_per_replica: self.slots_per_replica.unwrap_or(usual.slots_per_replica),
            queue_per_replica: self.queue_per_replica.unwrap_or(usual.queue_per_replica),
            prefill_rate: self.prefill_tokens_per_second.unwrap_or(usual.prefill_rate),
            token_base: self.token_ms.unwrap_or(usual.token_base),
            token_per_request: self.token_ms_per_request.unwrap_or(usual.token_per_request),
            tokens_per_chunk: self.tokens_per_chunk.unwrap_or(usual.tokens_per_chunk),
            noise: self.noise.unwrap_or(usual.noise),
            ..usual
        };
        let day = self.grid.map(|grid| Day {
            shape: grid.shape,
            mean: grid.mean_g_per_kwh.unwrap_or_else(|| grid.shape.usual_mean()),
            utc_offset_hours: grid.utc_offset_hours.0,
        });
        let open = RegionPlan::new(spec);
        RegionPlan {
            listen: self.listen.map_or(open.listen, |listen| listen.value),
            bearer: self.require_bearer.as_deref().map(Secret::new),
            signed: self.require_sigv4.map(|signed| signed.for_region(&self.region.value)),
            day,
            ..open
        }
    }
}

/// A cloud region has to be one that the shipped table knows, so that its grid zone follows from it; a name without a slash is the
/// reader's own.
fn check_name(name: &Spanned<String>) -> Result<(), FleetError> {
    let regions = Regions::shipped();
    if name.value.is_empty() || (name.value.contains('/') && regions.lookup(&name.value).is_none()) {
        let hint = regions.suggest(&name.value).map(|near| format!("; did you mean `{near}`?")).unwrap_or_default();
        return Err(at(name, format!("`{}` is no known region{hint}", name.value)));
    }
    Ok(())
}

fn at<T>(place: &Spanned<T>, what: String) -> FleetError {
    FleetError { line: place.referenced.line(), column: place.referenced.column(), what }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SHIPPED: &str = include_str!("../../config/fleet.yaml");

    fn error(text: &str) -> String {
        FleetPlan::parse(text).map(|plan| plan.regions.len()).unwrap_err().to_string()
    }

    #[test]
    fn the_shipped_fleet_parses_and_shows_five_kinds_of_grid() {
        let plan = FleetPlan::parse(SHIPPED).unwrap();
        let shapes: HashSet<String> = plan.regions.iter().map(|region| format!("{:?}", region.day.unwrap().shape)).collect();
        assert_eq!((plan.regions.len(), shapes.len()), (5, 5));
        assert_eq!(&*plan.regions[0].spec.name, "aws/us-east-1");
        assert!(FleetPlan::shipped().unwrap().regions.iter().all(|region| region.listen.port() == 0));
        assert_eq!((plan.control.port(), FleetPlan::shipped().unwrap().control), (9100, ANY));
    }

    #[test]
    fn problems_have_a_place() {
        let one = "models: [m]\nregions:\n  - region: aws/us-west-2\n    rtt_ms: 60\n    replicas: 1\n";
        assert!(FleetPlan::parse(one).is_ok());
        assert_eq!(
            error(&one.replace("west-2", "wset-2")),
            "3:13: `aws/us-wset-2` is no known region; did you mean `aws/us-west-2`?"
        );
        let twice = format!("{one}  - region: aws/us-west-2\n    rtt_ms: 1\n    replicas: 1\n");
        assert_eq!(error(&twice), "6:13: `aws/us-west-2` is listed twice");
        for (bad, line) in [
            (one.replace("replicas: 1", "replicas: 0"), "5:"),
            (one.replace("rtt_ms: 60", "rtt_ms: -1"), "4:"),
            (one.replace("rtt_ms", "rtt"), "4:"),
            (one.replace("[m]", "[]"), "1:"),
        ] {
            assert!(error(&bad).starts_with(line), "{}", error(&bad));
            assert!(!error(&bad).contains("at line"), "the place is said once: {}", error(&bad));
        }
        let shared = one.replace("    rtt_ms", "    listen: 127.0.0.1:9101\n    rtt_ms") + "control: 127.0.0.1:9101\n";
        assert_eq!(error(&shared), "7:10: 127.0.0.1:9101 is taken by a region");
    }

    #[test]
    fn no_token_is_shown() {
        let text = "models: [m]\nregions:\n  - {region: here, rtt_ms: 1, replicas: 1, require_bearer: hush}\n";
        let plan = FleetPlan::parse(text).unwrap();
        assert!(plan.regions[0].bearer.is_some() && !format!("{plan:?}").contains("hush"));
        assert!(!error(&text.replace("rtt_ms: 1", "rtt_ms: x")).contains("hush"));
    }

    proptest::proptest! {
        #[test]
        fn no_text_makes_it_panic(text in "(models|regions|region|rtt_ms|[-:\\[\\]{}, \n a-z0-9./&*])*") {
            let _ = FleetPlan::parse(&text);
        }
    }
}

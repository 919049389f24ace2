//! How a backend at AWS is signed for.

use std::path::PathBuf;
use std::sync::Arc;

use super::Secret;

/// An access key of AWS.
#[derive(Clone, PartialEq, Eq)]
pub struct AwsKeys {
    /// Which one it is; AWS and the signature say it openly.
    pub access_key_id: Arc<str>,
    /// What it signs with.
    pub secret_access_key: Secret,
    /// What goes with keys that end.
    pub session_token: Option<Secret>,
}

/// Says nothing of them: also an id in the wrong place may be a secret.
impl std::fmt::Debug for AwsKeys {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("AwsKeys")
    }
}

/// Where keys are kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum KeySource {
    /// In the configuration or the environment: they are those of the plan for as long as it is in force.
    Fixed(AwsKeys),
    /// In a shared credentials file, which whoever renews them writes anew.
    Profile {
        /// The file.
        path: PathBuf,
        /// The section.
        profile: Arc<str>,
        /// The keys as they were when the plan was made.
        first: AwsKeys,
    },
    /// Wherever AWS's own tools find them; they are asked for beside the traffic.
    Chain(Arc<AwsChain>),
}

/// What is asked for keys as AWS's own tools ask: the environment, a profile, a web identity, a container's or a machine's role.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AwsChain {
    /// The only one that is asked for the first keys; `None` leaves it to AWS's own order.
    pub profile: Option<Arc<str>>,
    /// What writes the first keys where the profile names a program for that, as the line of a shell.
    pub program: Option<Secret>,
    /// Whose rights are taken on with what is found, one after another.
    pub roles: Vec<AwsRole>,
    /// In which region the service is asked that gives out such rights.
    pub region: Arc<str>,
}

impl AwsChain {
    /// Whether the same keys come from it: they are good in every region.
    pub fn gives_as(&self, other: &Self) -> bool {
        (&self.profile, &self.program, &self.roles) == (&other.profile, &other.program, &other.roles)
    }
}

/// A role of AWS's that is taken on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AwsRole {
    /// Its name (ARN).
    pub arn: Arc<str>,
    /// What its owner wants to be told.
    pub external_id: Option<Arc<str>>,
    /// What the session is to be called in its owner's logs, where it matters.
    pub session_name: Option<Arc<str>>,
}

/// What signs the requests to one backend with AWS's signature version 4.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SigV4 {
    /// `bedrock` or `bedrock-mantle`.
    pub service: Arc<str>,
    /// The cloud's own word (`us-west-2`).
    pub region: Arc<str>,
    /// Where the keys are kept.
    pub source: KeySource,
}

impl SigV4 {
    /// The keys as they were when the plan was made; `None` where they are asked for later.
    pub fn first_keys(&self) -> Option<&AwsKeys> {
        match &self.source {
            KeySource::Fixed(keys) | KeySource::Profile { first: keys, .. } => Some(keys),
            KeySource::Chain(_) => None,
        }
    }
}

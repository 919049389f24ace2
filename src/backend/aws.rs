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
    Fixed,
    /// In a shared credentials file, which whoever renews them writes anew.
    Profile {
        /// The file.
        path: PathBuf,
        /// The section.
        profile: Arc<str>,
    },
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
    /// The keys as they were when the plan was made.
    pub keys: AwsKeys,
}

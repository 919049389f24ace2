//! Backends that are signed for: with which keys, for which service, in which region.

use std::path::PathBuf;
use std::sync::Arc;

use super::Check;
use crate::backend::{AwsKeys, Credential, KeySource, Secret, SigV4};
use crate::config::choices::SecretFile;
use crate::config::decode::{At, quoted};
use crate::config::file::SigV4File;
use crate::config::node::Mark;
use crate::config::profile::profile_keys;

/// What a host of AWS says of itself.
pub(super) struct AwsHost<'h> {
    pub(super) service: &'static str,
    pub(super) region: &'h str,
}

impl<'h> AwsHost<'h> {
    /// Of `bedrock-runtime.us-west-2.amazonaws.com`, `bedrock-mantle.us-west-2.api.aws`, their FIPS and VPC endpoints; `None` for any
    /// other host.
    pub(super) fn of(host: &'h str) -> Option<Self> {
        let mut labels = host.split('.').skip_while(|label| !label.starts_with("bedrock-"));
        let service = match labels.next()? {
            "bedrock-runtime" | "bedrock-runtime-fips" => "bedrock",
            "bedrock-mantle" => "bedrock-mantle",
            _ => return None,
        };
        let at_aws = [".amazonaws.com", ".amazonaws.com.cn", ".api.aws"].iter().any(|end| host.ends_with(end));
        labels.next().filter(|_| at_aws).map(|region| Self { service, region })
    }
}

impl Check<'_> {
    /// How a backend at `host` in the cloud's `region` is signed for.
    pub(super) fn sigv4(&mut self, written: SigV4File, mark: Mark, host: &str, region: Option<&str>) -> Credential {
        let SigV4File { service, region: own, access_key_id, secret_access_key, session_token, profile, credentials_file } =
            written;
        let by_host = AwsHost::of(host);
        let service = service.map_or_else(|| by_host.as_ref().map_or("bedrock", |host| host.service).to_owned(), |it| it.value);
        if let (Some(own), Some(host)) =
            (&own, by_host.as_ref().filter(|host| own.as_ref().is_some_and(|own| own.value != host.region)))
        {
            self.problems
                .add(own.mark, format!("this host is in {}, and takes no signature for {}", quoted(host.region), own.shown()));
        }
        let by_region = || region.and_then(|region| region.strip_prefix("aws/"));
        let region =
            own.map(|own| own.value).or_else(|| Some(by_host.as_ref().map(|host| host.region).or_else(by_region)?.to_owned()));
        let Some(region) = region else {
            self.problems.add(mark, "for which region is this signed?").mend =
                Some("say it: `sigv4: { region: us-west-2 }`".to_owned());
            return Credential::None;
        };
        let found = match (access_key_id, secret_access_key) {
            (Some(id), Some(secret)) => self.own_keys(&id, &secret, session_token.as_ref()).map(|keys| (KeySource::Fixed, keys)),
            (None, None) if session_token.is_none() => self.kept_keys(profile.as_ref(), credentials_file.as_ref(), mark),
            _ => {
                self.problems.add(mark, "a key has both `access_key_id` and `secret_access_key`");
                None
            }
        };
        let Some((source, keys)) = found else { return Credential::None };
        Credential::SigV4(Arc::new(SigV4 { service: service.into(), region: region.into(), source, keys }))
    }

    fn own_keys(&mut self, id: &At<SecretFile>, secret: &At<SecretFile>, token: Option<&At<SecretFile>>) -> Option<AwsKeys> {
        let without = "leave the keys out to use those of the environment, or of the shared credentials file";
        let (id, secret) = (self.secret(id, without), self.secret(secret, without));
        let session_token = match token {
            // The variable of a key that does not end is empty.
            Some(At { value: SecretFile::Here(token), .. }) if token.expose().is_empty() => None,
            Some(token) => Some(self.secret(token, without)?),
            None => None,
        };
        Some(AwsKeys { access_key_id: Arc::from(id?.expose()), secret_access_key: secret?, session_token })
    }

    /// The keys that are where AWS's own tools look first: in the environment, or in the shared credentials file.
    fn kept_keys(&mut self, profile: Option<&At<String>>, file: Option<&At<String>>, mark: Mark) -> Option<(KeySource, AwsKeys)> {
        let variable = |name| self.env.get(name).filter(|value| !value.is_empty());
        if profile.is_none()
            && file.is_none()
            && let (Some(id), Some(secret)) = (variable("AWS_ACCESS_KEY_ID"), variable("AWS_SECRET_ACCESS_KEY"))
        {
            let session_token = variable("AWS_SESSION_TOKEN").map(Secret::new);
            return Some((
                KeySource::Fixed,
                AwsKeys { access_key_id: id.into(), secret_access_key: Secret::new(secret), session_token },
            ));
        }
        let usual = variable("AWS_SHARED_CREDENTIALS_FILE").map(PathBuf::from);
        let usual = usual.or_else(|| variable("HOME").map(|home| PathBuf::from(home).join(".aws/credentials")));
        let of_environment = || variable("AWS_PROFILE").unwrap_or("default").to_owned();
        let profile = profile.map_or_else(of_environment, |profile| profile.value.clone());
        let path = file.map(|file| self.path(&file.value)).or(usual);
        let text = path.as_ref().and_then(|path| self.files.read(path).ok()).and_then(|text| String::from_utf8(text).ok());
        let (Some(path), Some(text)) = (path, text) else {
            let mark = file.map_or(mark, |file| file.mark);
            self.problems
                .add(mark, "there are no AWS keys: neither in the environment nor in a credentials file that can be read")
                .mend = Some("set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or say where they are".to_owned());
            return None;
        };
        match profile_keys(&text, &profile) {
            Ok(keys) => Some((KeySource::Profile { path, profile: profile.into() }, keys)),
            Err(why) => {
                self.problems.add(mark, why.to_string());
                None
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_host_says_its_service_and_region() {
        for (host, expected) in [
            ("bedrock-runtime.us-west-2.amazonaws.com", Some(("bedrock", "us-west-2"))),
            ("bedrock-runtime-fips.us-gov-west-1.amazonaws.com", Some(("bedrock", "us-gov-west-1"))),
            ("vpce-0abc-1.bedrock-runtime.eu-north-1.vpce.amazonaws.com", Some(("bedrock", "eu-north-1"))),
            ("bedrock-mantle.us-east-2.api.aws", Some(("bedrock-mantle", "us-east-2"))),
            ("bedrock-agent-runtime.us-east-2.amazonaws.com", None),
            ("bedrock-runtime.us-west-2.example.com", None),
            ("bedrock-runtime", None),
            ("localhost", None),
        ] {
            assert_eq!(AwsHost::of(host).map(|host| (host.service, host.region)), expected, "{host}");
        }
    }
}

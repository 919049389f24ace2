//! Backends that are signed for: with which keys, for which service, in which region.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::Check;
use crate::backend::{AwsChain, AwsKeys, AwsRole, Credential, KeySource, Secret, SigV4};
use crate::config::choices::SecretFile;
use crate::config::decode::{At, quoted};
use crate::config::file::SigV4File;
use crate::config::node::Mark;
use crate::config::profile::{NoKeys, ProfileRole, profile_keys, profile_origin, program_behind};

/// What a request is signed for where neither the configuration nor the catalogue says it of its host.
const USUAL_SERVICE: &str = "bedrock";

impl Check<'_> {
    /// How a backend at `host` in the cloud's `region` is signed for.
    pub(super) fn sigv4(&mut self, written: &SigV4File, mark: Mark, host: &str, region: Option<&str>) -> Credential {
        let SigV4File { service, region: own, access_key_id, secret_access_key, session_token, .. } = written;
        let by_host = self.catalogue.endpoint(host);
        let usual = || by_host.map_or(USUAL_SERVICE, |(endpoint, _)| &endpoint.service);
        let service = Arc::from(service.as_ref().map_or_else(usual, |written| &written.value));
        let of_host = by_host.map(|(_, region)| region);
        if let (Some(own), Some(region)) = (own, of_host.filter(|region| own.as_ref().is_some_and(|own| own.value != *region))) {
            self.problems
                .add(own.mark, format!("this host is in {}, and takes no signature for {}", quoted(region), own.shown()));
        }
        let by_region = || of_host.or_else(|| region.and_then(|region| region.strip_prefix("aws/")));
        let Some(region) = own.as_ref().map(|own| own.value.as_str()).or_else(by_region).map(Arc::from) else {
            self.problems.add(mark, "for which region is this signed?").mend =
                Some("say it: `sigv4: { region: us-west-2 }`".to_owned());
            return Credential::None;
        };
        let source = match (access_key_id, secret_access_key) {
            _ if written.role_arn.is_some() => self.chain(written, &region, mark),
            (Some(id), Some(secret)) => self.own_keys(id, secret, session_token.as_ref()).map(KeySource::Fixed),
            (None, None) if session_token.is_none() => self.kept_keys(written, &region, mark),
            _ => {
                self.problems.add(mark, "a key has both `access_key_id` and `secret_access_key`");
                None
            }
        };
        if written.role_arn.is_none()
            && let Some(other) = &written.external_id
        {
            self.problems.add(other.mark, "this goes with a `role_arn`");
        }
        source.map_or(Credential::None, |source| Credential::SigV4(Arc::new(SigV4 { service, region, source })))
    }

    fn own_keys(&mut self, id: &At<SecretFile>, secret: &At<SecretFile>, token: Option<&At<SecretFile>>) -> Option<AwsKeys> {
        let without = "leave the keys out to use those that AWS's own tools find";
        let (id, secret) = (self.secret(id, without), self.secret(secret, without));
        let session_token = match token {
            // The variable of a key that does not end is empty.
            Some(At { value: SecretFile::Here(token), .. }) if token.expose().is_empty() => None,
            Some(token) => Some(self.secret(token, without)?),
            None => None,
        };
        Some(AwsKeys { access_key_id: Arc::from(id?.expose()), secret_access_key: secret?, session_token })
    }

    /// The keys that are where AWS's own tools look: at once where that is the environment or the shared credentials file.
    fn kept_keys(&mut self, written: &SigV4File, region: &Arc<str>, mark: Mark) -> Option<KeySource> {
        let (profile, file) = (written.profile.as_ref(), written.credentials_file.as_ref());
        if profile.is_none()
            && file.is_none()
            && let (Some(id), Some(secret)) = (self.variable("AWS_ACCESS_KEY_ID"), self.variable("AWS_SECRET_ACCESS_KEY"))
        {
            let session_token = self.variable("AWS_SESSION_TOKEN").map(Secret::new);
            let (access_key_id, secret_access_key) = (id.into(), Secret::new(secret));
            return Some(KeySource::Fixed(AwsKeys { access_key_id, secret_access_key, session_token }));
        }
        let named = profile.map(|profile| profile.value.as_str()).or_else(|| self.variable("AWS_PROFILE"));
        let name: Arc<str> = named.unwrap_or("default").into();
        let usual = self.usual_file("AWS_SHARED_CREDENTIALS_FILE", ".aws/credentials");
        let path = file.map(|file| self.path(&file.value)).or(usual);
        let text = match path.as_ref().map(|path| self.text(path)) {
            Some(Ok(text)) => text,
            Some(Err(why)) if file.is_some() || !is_absent(why) => {
                self.problems.add(file.map_or(mark, |file| file.mark), "this credentials file cannot be read");
                return None;
            }
            _ => String::new(),
        };
        let configuration = match self.usual_file("AWS_CONFIG_FILE", ".aws/config").map(|path| self.text(&path)) {
            Some(Ok(text)) => text,
            Some(Err(why)) if !is_absent(why) => {
                self.problems.add(mark, "AWS's shared configuration file cannot be read");
                return None;
            }
            _ => String::new(),
        };
        let origin = profile_origin(&text, &configuration, &name);
        match (profile_keys(&text, &name), path) {
            (Ok(first), Some(path)) if file.is_some() || !origin.asks => Some(KeySource::Profile { path, profile: name, first }),
            // A file that is just being written must not make the machine's role sign, which may be another account's.
            (Err(why @ NoKeys::Missing(..)), _) if !origin.asks => self.no_keys(&why, mark),
            (Err(why), _) if file.is_some() || (named.is_some() && !origin.known) => self.no_keys(&why, mark),
            _ => self.chain(written, region, mark),
        }
    }

    fn no_keys(&mut self, why: &NoKeys, mark: Mark) -> Option<KeySource> {
        self.problems.add(mark, why.to_string());
        None
    }

    /// One of AWS's shared files.
    fn text(&self, path: &Path) -> Result<String, io::ErrorKind> {
        String::from_utf8(self.files.read(path).map_err(|error| error.kind())?).map_err(|_| io::ErrorKind::InvalidData)
    }

    /// Keys that are asked for once the plan is in force.
    fn chain(&mut self, written: &SigV4File, region: &Arc<str>, mark: Mark) -> Option<KeySource> {
        let keys = [&written.access_key_id, &written.secret_access_key, &written.session_token];
        let mut keys = keys.into_iter().flatten().map(|key| key.mark);
        if let Some(given) = keys.next().or_else(|| Some(written.credentials_file.as_ref()?.mark)) {
            let problem = self.problems.add(given, "a role is taken on with keys from where AWS's own tools look");
            problem.mend = Some("leave these out; `profile` may say which".to_owned());
            return None;
        }
        if cfg!(not(feature = "aws")) {
            let problem = self.problems.add(mark, "this program was built without the feature `aws`, and asks nobody for keys");
            problem.mend = Some("give it keys: in the environment, in a credentials file or here".to_owned());
            return None;
        }
        let text = |written: &At<String>| Arc::from(written.value.as_str());
        let (program, mut roles) = self.program(written).map_or((None, Vec::new()), |(program, roles)| (Some(program), roles));
        if let Some(arn) = &written.role_arn {
            roles.push(AwsRole { arn: text(arn), external_id: written.external_id.as_ref().map(text), session_name: None });
        }
        let by_environment = self.variable("AWS_REGION").or_else(|| self.variable("AWS_DEFAULT_REGION"));
        let region = by_environment.map_or_else(|| Arc::clone(region), Arc::from);
        let profile = written.profile.as_ref().map(text);
        Some(KeySource::Chain(Arc::new(AwsChain { profile, program, roles, region })))
    }

    /// The program that a profile names where it has no keys, or the profile that its role is taken on with, and the roles between
    /// them; unless the environment has keys and no profile is named here.
    fn program(&self, written: &SigV4File) -> Option<(Secret, Vec<AwsRole>)> {
        let in_environment = self.variable("AWS_ACCESS_KEY_ID").and(self.variable("AWS_SECRET_ACCESS_KEY")).is_some();
        let named = written.profile.as_ref().map(|profile| profile.value.as_str());
        if named.is_none() && in_environment {
            return None;
        }
        let name = named.or_else(|| self.variable("AWS_PROFILE")).unwrap_or("default");
        let text = |variable, usual| self.usual_file(variable, usual).and_then(|path| self.text(&path).ok()).unwrap_or_default();
        let credentials = text("AWS_SHARED_CREDENTIALS_FILE", ".aws/credentials");
        let configuration = text("AWS_CONFIG_FILE", ".aws/config");
        let (program, roles) = program_behind(&credentials, &configuration, name)?;
        let role = |role: &ProfileRole<'_>| AwsRole {
            arn: role.arn.into(),
            external_id: role.external_id.map(Arc::from),
            session_name: role.session_name.map(Arc::from),
        };
        Some((Secret::new(program), roles.iter().map(role).collect()))
    }

    pub(super) fn variable(&self, name: &str) -> Option<&str> {
        self.env.get(name).filter(|value| !value.is_empty())
    }

    /// The file that a variable names, or else the one below the home directory.
    fn usual_file(&self, variable: &str, usual: &str) -> Option<PathBuf> {
        let named = self.variable(variable).map(PathBuf::from);
        let found = named.or_else(|| self.variable("HOME").map(|home| PathBuf::from(home).join(usual)));
        // How one says that there is none.
        found.filter(|path| path != Path::new("/dev/null"))
    }
}

/// Whether there is no such file, as where the home directory is none.
const fn is_absent(why: io::ErrorKind) -> bool {
    matches!(why, io::ErrorKind::NotFound | io::ErrorKind::NotADirectory)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Files, load};

    /// A credentials file that reads as this.
    struct Shelf(Result<&'static [u8], io::ErrorKind>);

    impl Files for Shelf {
        fn read(&self, path: &Path) -> io::Result<Vec<u8>> {
            if path.ends_with("credentials") { Ok(self.0?.to_vec()) } else { Err(io::ErrorKind::NotFound.into()) }
        }
    }

    fn loaded(shelf: Result<&'static [u8], io::ErrorKind>, variables: &[(&str, &str)]) -> Result<(), String> {
        let text = "listeners: [{ address: 127.0.0.1:0 }]\nbackends: [{ name: a, url: https://bedrock-runtime.us-west-2.amazonaws.com, \
                    dialect: bedrock, auth: { sigv4: {} }, models: [m] }]\n";
        let all = [&[("HOME", "/home")], variables].concat();
        let env = all.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        load("w.yaml", text, &env, &Shelf(shelf)).map(|_| ()).map_err(|errors| errors.to_string())
    }

    #[cfg(feature = "aws")]
    #[test]
    fn a_file_that_cannot_be_read_is_not_the_machines_role() {
        for (shelf, variables, problem) in [
            (Err(io::ErrorKind::NotFound), &[][..], None),
            (Err(io::ErrorKind::NotADirectory), &[], None),
            (Ok(&b"[other]\n"[..]), &[], None),
            (Ok(b"[default]\nregion = us-west-2\n"), &[], None),
            (Err(io::ErrorKind::PermissionDenied), &[], Some("cannot be read")),
            (Ok(b"[default]\n\xff"), &[], Some("cannot be read")),
            (Ok(b"[default]\naws_access_key_id = A\naws_sec"), &[], Some("lacks `aws_secret_access_key`")),
            (Ok(b""), &[("AWS_PROFILE", "deploy")], Some("no profile `deploy`")),
        ] {
            let got = loaded(shelf, variables);
            assert_eq!(got.is_err(), problem.is_some(), "{shelf:?}: {got:?}");
            assert!(problem.is_none_or(|problem| got.as_ref().unwrap_err().contains(problem)), "{shelf:?}: {got:?}");
        }
    }
}

//! AWS's shared files: sections in brackets, `name = value` below them.

use std::sync::Arc;

use crate::backend::{AwsKeys, Secret};

/// Why a profile gives no keys. No value of the file is repeated.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NoKeys {
    /// The file has no such section.
    #[error("the credentials file has no profile `{0}`")]
    NoProfile(Arc<str>),
    /// The section has no key at all.
    #[error("profile `{0}` has no keys")]
    None(Arc<str>),
    /// Half of a key is not there.
    #[error("profile `{0}` lacks `{1}`")]
    Missing(Arc<str>, &'static str),
}

/// The keys of a profile in the text of a credentials file. A profile that is there twice is one, as it is to AWS's own tools.
pub fn profile_keys(text: &str, profile: &str) -> Result<AwsKeys, NoKeys> {
    let (mut id, mut secret, mut token) = (None, None, None);
    let found = settings(
        text,
        |section| section == profile,
        |name, value| {
            let slot = match name {
                "aws_access_key_id" => &mut id,
                "aws_secret_access_key" => &mut secret,
                "aws_session_token" => &mut token,
                _ => return,
            };
            *slot = Some(value).filter(|value| !value.is_empty());
        },
    );
    let name = || Arc::from(profile);
    if !found {
        return Err(NoKeys::NoProfile(name()));
    }
    match (id, secret) {
        (Some(id), Some(secret)) => Ok(AwsKeys {
            access_key_id: Arc::from(id),
            secret_access_key: Secret::new(secret),
            session_token: token.map(Secret::new),
        }),
        (None, None) => Err(NoKeys::None(name())),
        (None, Some(_)) => Err(NoKeys::Missing(name(), "aws_access_key_id")),
        (Some(_), None) => Err(NoKeys::Missing(name(), "aws_secret_access_key")),
    }
}

/// What the shared files say of where a profile's keys come from.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct ProfileOrigin<'t> {
    /// It is there.
    pub(super) known: bool,
    /// Somebody is to be asked for its keys, whatever else is written there: a role or an identity outranks keys that lie beside it. A
    /// program or a browser does not, which is for filling in keys that are missing.
    pub(super) asks: bool,
    /// Keys stand there.
    has_keys: bool,
    /// The program that it names for filling them in.
    program: Option<&'t str>,
    /// The role that is taken on ..
    role: ProfileRole<'t>,
    /// .. with the keys of that profile, and not with those of a machine, a container or an identity.
    source: Option<&'t str>,
}

/// A role as a profile has it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct ProfileRole<'t> {
    /// Its name; empty for none.
    pub(super) arn: &'t str,
    pub(super) external_id: Option<&'t str>,
    pub(super) session_name: Option<&'t str>,
}

/// The most profiles that lead from one to another; people write two or three.
const MOST_LINKS: usize = 8;

/// The program that gives a profile's keys, or those of the profile from which it has them in the end, and the roles that are taken on
/// with these, in that order. `None` where they come from anywhere else.
pub(super) fn program_behind<'t>(
    credentials: &'t str,
    configuration: &'t str,
    profile: &'t str,
) -> Option<(&'t str, Vec<ProfileRole<'t>>)> {
    let (mut name, mut roles) = (profile, Vec::new());
    for _ in 0..MOST_LINKS {
        let origin = profile_origin(credentials, configuration, name);
        match origin.source.filter(|_| !origin.role.arn.is_empty()) {
            Some(source) if source != name => {
                roles.push(origin.role);
                name = source;
            }
            None if !origin.asks && !origin.has_keys => {
                roles.reverse();
                return Some((origin.program?, roles));
            }
            _ => return None,
        }
    }
    None
}

/// Of a profile in the texts of the credentials file and of the configuration file, where the sections of all but `default` begin with
/// `profile`.
pub(super) fn profile_origin<'t>(credentials: &'t str, configuration: &'t str, profile: &str) -> ProfileOrigin<'t> {
    let (mut origin, mut by_other_means) = (ProfileOrigin::default(), false);
    let mut ask = |name: &str, value: &'t str| {
        let said = Some(value).filter(|value| !value.is_empty());
        origin.asks |= matches!(name, "role_arn" | "credential_source" | "web_identity_token_file");
        match name {
            "credential_process" => origin.program = said.or(origin.program),
            "aws_access_key_id" => origin.has_keys |= said.is_some(),
            "role_arn" => origin.role.arn = value,
            "external_id" => origin.role.external_id = said,
            "role_session_name" => origin.role.session_name = said,
            "source_profile" => origin.source = said,
            "credential_source" | "web_identity_token_file" => by_other_means = true,
            _ => {}
        }
    };
    let in_credentials = settings(credentials, |section| section == profile, &mut ask);
    let named = |section: &str| match section.strip_prefix("profile") {
        Some(name) if name.starts_with([' ', '\t']) => name.trim() == profile,
        _ => profile == "default" && section == profile,
    };
    let in_configuration = settings(configuration, named, &mut ask);
    origin.known = in_credentials || in_configuration;
    origin.source = origin.source.filter(|_| !by_other_means);
    origin
}

/// Gives every setting, its name in lower case, of the sections that are meant; whether there is one.
fn settings<'t>(text: &'t str, is_meant: impl Fn(&str) -> bool, mut take: impl FnMut(&str, &'t str)) -> bool {
    let (mut inside, mut found) = (false, false);
    for line in text.lines().map(str::trim) {
        if let Some(section) = line.strip_prefix('[').and_then(|rest| rest.split(']').next()) {
            inside = is_meant(section.trim());
            found |= inside;
            continue;
        }
        let setting = line.split_once('=').filter(|_| inside && !line.starts_with(['#', ';']));
        if let Some((name, value)) = setting {
            take(&name.trim().to_ascii_lowercase(), value.trim());
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const FILE: &str = "\
# rotated every hour
[default]
aws_access_key_id = AKIDDEFAULT
aws_secret_access_key=a/b+c=
[ prod ]
AWS_ACCESS_KEY_ID=AKIDPROD
aws_secret_access_key = secret
;aws_session_token = old
aws_session_token = token==
[half]
aws_access_key_id = AKIDHALF
aws_secret_access_key =
";

    #[test]
    fn a_profile_is_found_by_its_name() {
        let read = |profile| profile_keys(FILE, profile);
        let default = read("default").unwrap();
        assert_eq!((&*default.access_key_id, default.secret_access_key.expose()), ("AKIDDEFAULT", "a/b+c="));
        assert_eq!(default.session_token, None);
        let prod = read("prod").unwrap();
        assert_eq!((&*prod.access_key_id, prod.session_token.unwrap().expose()), ("AKIDPROD", "token=="));
        assert_eq!(read("half"), Err(NoKeys::Missing("half".into(), "aws_secret_access_key")));
        assert_eq!(profile_keys("[p]\nregion = x", "p"), Err(NoKeys::None("p".into())));
        assert_eq!(read("dev"), Err(NoKeys::NoProfile("dev".into())));
    }

    #[test]
    fn a_profile_that_asks_somebody_is_known() {
        let configuration =
            "[default]\nregion = us-west-2\n[profile deploy]\nrole_arn = arn\nsource_profile = default\n[prod]\nrole_arn=x";
        let of = |profile| profile_origin(FILE, configuration, profile);
        let shown = |origin: ProfileOrigin<'_>| (origin.known, origin.asks);
        assert_eq!(
            [of("default"), of("prod"), of("deploy")].map(shown),
            [(true, false), (true, false), (true, true)],
            "of the configuration file's `[prod]` nobody reads"
        );
        assert_eq!(of("nobody"), ProfileOrigin::default());
        assert_eq!(shown(profile_origin("[a]\nrole_arn=x", "", "a")), (true, true));
        for other in ["credential_process = fill", "sso_session = work"] {
            let configuration = format!("[default]\n{other}");
            let origin = profile_origin(FILE, &configuration, "default");
            assert_eq!(shown(origin), (true, false), "keys that lie there are taken");
            assert_eq!(origin.program.is_some(), other.starts_with("credential_process"));
            assert_eq!(program_behind(FILE, &configuration, "default"), None);
        }
    }

    #[test]
    fn a_program_is_found_behind_the_roles_that_are_taken_on_with_its_keys() {
        let configuration = "[profile fill]\ncredential_process = /opt/fill --as \"a b\" x=y\n\
            [profile first]\nrole_arn = arn:1\nsource_profile = fill\nexternal_id = agreed\n\
            [profile second]\nrole_arn = arn:2\nrole_session_name = me\nsource_profile = first\n\
            [profile round]\nrole_arn = arn:3\nsource_profile = about\n[profile about]\nrole_arn = arn:4\nsource_profile = round\n\
            [profile self]\nrole_arn = arn:5\nsource_profile = self\ncredential_process = x\n\
            [profile keyed]\nrole_arn = arn:6\nsource_profile = default\n\
            [profile written]\naws_access_key_id = A\ncredential_process = x\n\
            [profile machine]\nrole_arn = arn:7\ncredential_source = Ec2InstanceMetadata\nsource_profile = fill\n\
            [profile bare]\nregion = us-west-2\n";
        let of = |profile| program_behind(FILE, configuration, profile);
        let line = "/opt/fill --as \"a b\" x=y";
        let first = ProfileRole { arn: "arn:1", external_id: Some("agreed"), session_name: None };
        let second = ProfileRole { arn: "arn:2", external_id: None, session_name: Some("me") };
        assert_eq!(of("fill"), Some((line, vec![])));
        assert_eq!(of("first"), Some((line, vec![first])));
        assert_eq!(of("second"), Some((line, vec![first, second])), "the one that its keys open comes first");
        for other in ["round", "self", "keyed", "written", "machine", "bare", "nobody"] {
            assert_eq!(of(other), None, "{other}");
        }
    }

    proptest! {
        #[test]
        fn any_text_is_survived(text in r"(\[|\]|default|profile|aws_access_key_id|=|#| |\n|\PC){0,30}") {
            let _ = profile_keys(&text, "default");
            let _ = program_behind(&text, &text, "default");
        }
    }
}

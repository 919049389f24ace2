//! AWS's shared credentials file: sections in brackets, `name = value` below them.

use std::sync::Arc;

use crate::backend::{AwsKeys, Secret};

/// Why a profile gives no keys. No value of the file is repeated.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NoKeys {
    /// The file has no such section.
    #[error("the credentials file has no profile `{0}`")]
    NoProfile(Arc<str>),
    /// A key is not there.
    #[error("profile `{0}` lacks `{1}`")]
    Missing(Arc<str>, &'static str),
}

/// The keys of a profile in the text of a credentials file. A profile that is there twice is one, as it is to AWS's own tools.
pub fn profile_keys(text: &str, profile: &str) -> Result<AwsKeys, NoKeys> {
    let (mut id, mut secret, mut token) = (None, None, None);
    let (mut inside, mut found) = (false, false);
    for line in text.lines().map(str::trim) {
        if let Some(section) = line.strip_prefix('[').and_then(|rest| rest.split(']').next()) {
            inside = section.trim() == profile;
            found |= inside;
            continue;
        }
        let Some((name, value)) = line.split_once('=').filter(|_| inside && !line.starts_with(['#', ';'])) else { continue };
        let slot = match name.trim().to_ascii_lowercase().as_str() {
            "aws_access_key_id" => &mut id,
            "aws_secret_access_key" => &mut secret,
            "aws_session_token" => &mut token,
            _ => continue,
        };
        *slot = Some(value.trim()).filter(|value| !value.is_empty());
    }
    let name = || Arc::from(profile);
    if !found {
        return Err(NoKeys::NoProfile(name()));
    }
    Ok(AwsKeys {
        access_key_id: Arc::from(id.ok_or_else(|| NoKeys::Missing(name(), "aws_access_key_id"))?),
        secret_access_key: Secret::new(secret.ok_or_else(|| NoKeys::Missing(name(), "aws_secret_access_key"))?),
        session_token: token.map(Secret::new),
    })
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
        assert_eq!(read("dev"), Err(NoKeys::NoProfile("dev".into())));
    }

    proptest! {
        #[test]
        fn any_text_is_survived(text in r"(\[|\]|default|aws_access_key_id|=|#| |\n|\PC){0,30}") {
            let _ = profile_keys(&text, "default");
        }
    }
}

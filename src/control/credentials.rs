//! Reads AWS keys again where somebody else renews them, so that a request never waits for any.

use std::fs::File;
use std::io::{self, Read as _};
use std::path::Path;
use std::time::Duration;

use crate::backend::{Credential, KeySource};
use crate::config::profile_keys;
use crate::state::Snapshot;

/// How often. Keys that end do so after a quarter of an hour at the earliest, and whoever renews them does it minutes before.
pub(super) const EVERY: Duration = Duration::from_mins(1);
/// The longest credentials file that is read, in bytes: thousands of profiles.
const MOST: u64 = 1 << 20;

/// Takes over the keys of every profile as they now are. Keys that cannot be read stay what they were: AWS will say when they have
/// ended.
pub(super) fn renew(snapshot: &Snapshot) {
    for backend in &snapshot.plan.backends {
        let (Credential::SigV4(how), Some(keyring)) = (&backend.credential, snapshot.keyring(backend.id)) else { continue };
        let KeySource::Profile { path, profile, .. } = &how.source else { continue };
        let keys = read(path).map_err(|error| error.to_string());
        match keys.and_then(|text| profile_keys(&text, profile).map_err(|why| why.to_string())) {
            Ok(keys) => {
                if keyring.renew(keys) {
                    tracing::info!(backend = &*backend.name, "its AWS keys were renewed");
                }
            }
            Err(why) => tracing::error!(backend = &*backend.name, why, "its AWS keys cannot be read again"),
        }
    }
}

fn read(path: &Path) -> io::Result<String> {
    let mut text = String::new();
    File::open(path)?.take(MOST).read_to_string(&mut text)?;
    Ok(text)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use jiff::Timestamp;

    use super::*;
    use crate::backend::{Backend, BackendId, SigV4};
    use crate::clock::{Clock as _, SystemClock};
    use crate::testing::plan;
    use crate::wire::sigv4::{PayloadHash, Subject};

    #[test]
    fn keys_that_were_written_anew_sign_the_next_request() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let write = |id: &str| {
            let text = format!("[p]\naws_access_key_id={id}\naws_secret_access_key=s\n");
            std::fs::write(file.path(), &text).unwrap();
            profile_keys(&text, "p").unwrap()
        };
        let source = KeySource::Profile { path: file.path().to_owned(), profile: "p".into(), first: write("FIRST") };
        let how = Arc::new(SigV4 { service: "bedrock".into(), region: "us-west-2".into(), source });
        let mut plan = plan();
        plan.backends[0] = Arc::new(Backend { credential: Credential::SigV4(Arc::clone(&how)), ..(*plan.backends[0]).clone() });
        let snapshot = Snapshot::first(Arc::new(plan), SystemClock.monotonic());
        let signed_by = |id: &str| {
            let payload = PayloadHash::of([]);
            let subject = Subject { method: "GET", target: "/", host: "h", content_type: None, payload: &payload };
            let signed = snapshot.keyring(BackendId(0)).unwrap().sign(&how, &subject, Timestamp::UNIX_EPOCH).unwrap();
            signed.authorization.to_str().unwrap().contains(&format!("Credential={id}/"))
        };
        assert!(signed_by("FIRST"));
        write("SECOND");
        renew(&snapshot);
        assert!(signed_by("SECOND"));
        std::fs::write(file.path(), "[other]\n").unwrap();
        renew(&snapshot);
        assert!(signed_by("SECOND"), "what cannot be read changes nothing");
    }
}

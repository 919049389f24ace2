//! What a backend is sent as credential, and how it and Windward know each other.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use http::{HeaderName, HeaderValue, header};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};

use super::Check;
use crate::backend::{Credential, Identity, Renewed, Secret, TokenSource};
use crate::config::choices::{Auth, MetadataFile, MetadataOf, SecretFile, TokenFile};
use crate::config::decode::At;
use crate::config::file::{CommandFile, TlsFile};
use crate::config::node::Mark;
use crate::config::shown::{Shown, Unfit};
use crate::tables::withholds_field;

/// After so long a program is asked for the next token: those of Azure and Google are good for an hour.
const TOKEN_EVERY: Duration = Duration::from_mins(45);
/// More often it would only wear out whoever issues them.
const LEAST_EVERY: Duration = Duration::from_mins(1);

/// Header fields that frame the message, belong to one connection, or are written by Windward; a credential there would break the
/// request, or never leave.
const NOT_FOR_CREDENTIALS: [HeaderName; 12] = [
    header::HOST,
    header::CONTENT_LENGTH,
    header::CONTENT_TYPE,
    header::TRANSFER_ENCODING,
    header::CONNECTION,
    header::TE,
    header::TRAILER,
    header::UPGRADE,
    header::EXPECT,
    header::VIA,
    HeaderName::from_static("x-request-id"),
    HeaderName::from_static("traceparent"),
];

/// Fields in which somebody's credential goes and that are not withheld from everybody anyway.
pub(super) fn fields<'a>(credentials: impl Iterator<Item = &'a Credential>) -> Box<[HeaderName]> {
    let own = credentials.filter_map(|credential| match credential {
        Credential::Header(name, _) if !withholds_field(name.as_str()) => Some(name.clone()),
        Credential::Renewed(how) if !withholds_field(how.name.as_str()) => Some(how.name.clone()),
        _ => None,
    });
    let mut fields: Vec<HeaderName> = own.collect();
    fields.sort_unstable_by(|a, b| a.as_str().cmp(b.as_str()));
    fields.dedup();
    fields.into()
}

impl Check<'_> {
    /// For a backend at `host`, in the cloud's `region`.
    pub(super) fn credential(&mut self, written: &At<Auth>, host: &str, region: Option<&str>) -> Credential {
        let (name, secret, prefix) = match &written.value {
            Auth::SigV4(file) => return self.sigv4(file, written.mark, host, region),
            Auth::PassThrough => return Credential::PassThrough,
            Auth::Bearer(secret) => (header::AUTHORIZATION, secret, "Bearer "),
            Auth::Header(file) => {
                let Ok(name) = HeaderName::try_from(file.name.value.as_str()) else {
                    self.problems.add(file.name.mark, format!("{} is no header name", file.name.shown()));
                    return Credential::None;
                };
                if NOT_FOR_CREDENTIALS.contains(&name) {
                    self.problems.add(file.name.mark, format!("{} carries no credential", file.name.shown()));
                }
                (name, &file.value, "")
            }
        };
        let without = "leave `auth` out if nothing is to be sent";
        let (kept, source) = match &secret.value {
            TokenFile::Command(command) => {
                let source = self.command(command, secret.mark);
                return Credential::Renewed(Arc::new(Renewed { name, prefix, source, first: None }));
            }
            TokenFile::Metadata(MetadataFile { metadata: MetadataOf::Google }) => {
                // What Google's own libraries read.
                let authority = self.variable("GCE_METADATA_HOST").unwrap_or("metadata.google.internal").into();
                let source = TokenSource::GoogleMetadata { authority, every: TOKEN_EVERY };
                return Credential::Renewed(Arc::new(Renewed { name, prefix, source, first: None }));
            }
            TokenFile::Kept(kept @ SecretFile::In(path)) => (kept, Some(TokenSource::File(self.path(&path.value)))),
            TokenFile::Kept(kept) => (kept, None),
        };
        let Some(text) = self.secret_of(kept, secret.mark, without) else { return Credential::None };
        let Ok(mut value) = HeaderValue::from_str(&format!("{prefix}{}", text.expose())) else {
            self.problems.add(secret.mark, "the secret holds characters that no header can carry");
            return Credential::None;
        };
        if let Some(source) = source {
            return Credential::Renewed(Arc::new(Renewed { name, prefix, source, first: Some(text) }));
        }
        value.set_sensitive(true);
        Credential::Header(name, value)
    }

    /// A program of the search path, or one that lies at a path from the configuration's own directory.
    fn command(&mut self, written: &CommandFile, mark: Mark) -> TokenSource {
        let mut words: Vec<Box<str>> = written.command.0.iter().map(|word| word.value.as_str().into()).collect();
        let Some(program) = words.first_mut() else { return TokenSource::File(PathBuf::new()) };
        if program.trim().is_empty() || words.iter().any(|word| word.contains('\0')) {
            self.problems.add(mark, "this names no program");
        } else if let Some(program) = words.first_mut().filter(|program| program.contains('/')) {
            *program = self.path(program).to_string_lossy().into();
        }
        let every = self.span(written.every, TOKEN_EVERY);
        if every < LEAST_EVERY {
            self.problems.add(mark, "a program is asked for a token once a minute at most");
        }
        TokenSource::Command { words: words.into(), every }
    }

    /// The text of a secret without the line's end that editors leave behind it; reports one that is not there, with how to mend
    /// that.
    pub(super) fn secret(&mut self, written: &At<SecretFile>, without: &str) -> Option<Secret> {
        self.secret_of(&written.value, written.mark, without)
    }

    fn secret_of(&mut self, written: &SecretFile, mark: Mark, without: &str) -> Option<Secret> {
        let secret = match written {
            SecretFile::Here(secret) => secret.clone(),
            SecretFile::In(path) => {
                let content = self.read(path)?;
                let Ok(text) = std::str::from_utf8(&content) else {
                    self.problems.add(path.mark, "the secret in this file is no text");
                    return None;
                };
                Secret::new(text.trim_end_matches(['\r', '\n']))
            }
        };
        if secret.expose().trim().is_empty() {
            self.problems.add(mark, "the secret is empty").mend = Some(without.to_owned());
            return None;
        }
        Some(secret)
    }

    /// The certificates of a file in PEM.
    pub(super) fn certificates(&mut self, written: &At<String>) -> Option<Arc<[CertificateDer<'static>]>> {
        let pem = self.read(written)?;
        let certificates: Option<Vec<_>> = CertificateDer::pem_slice_iter(&pem).map(Result::ok).collect();
        match certificates {
            Some(certificates) if !certificates.is_empty() => Some(certificates.into()),
            _ => {
                self.problems.add(written.mark, "this file has no certificates in PEM");
                None
            }
        }
    }

    /// A certificate with its key, as they were read and as they are used.
    pub(super) fn identity(&mut self, written: &TlsFile) -> Option<(Arc<Identity>, Shown)> {
        let chain = self.certificates(&written.certificate);
        let pem = self.read(&written.key)?;
        let Ok(key) = PrivateKeyDer::from_pem_slice(&pem) else {
            self.problems.add(written.key.mark, "this file has no private key in PEM");
            return None;
        };
        let identity = Identity { chain: chain?.to_vec(), key };
        match Shown::new(&identity) {
            Ok(shown) => Some((Arc::new(identity), shown)),
            Err(error @ Unfit::Apart) => {
                self.problems.add(written.key.mark, error.to_string()).mend =
                    Some("the certificate's file begins with the certificate that was made for this key".to_owned());
                None
            }
            Err(error) => {
                self.problems.add(written.key.mark, error.to_string());
                None
            }
        }
    }
}

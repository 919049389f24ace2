//! Asks for keys of AWS where AWS's own tools look, in their order: the environment, a profile, a web identity, the role of a container
//! or of a machine; and takes on a role with them where that is wanted.
//!
//! All of it is AWS's own crate's (`aws-config`), which reads the environment of the process by itself. What is ours is the socket below
//! it, so that there is no second client for HTTP and TLS.

use std::error::Error;
use std::fmt;
use std::time::{Duration, SystemTime};

use aws_config::BehaviorVersion;
use aws_config::identity::IdentityCache;
use aws_config::profile::ProfileFileCredentialsProvider;
use aws_config::provider_config::ProviderConfig;
use aws_config::retry::RetryConfig;
use aws_config::sts::AssumeRoleProvider;
use aws_config::timeout::TimeoutConfig;
use aws_credential_types::Credentials;
use aws_credential_types::provider::error::CredentialsError;
use aws_credential_types::provider::{ProvideCredentials as _, SharedCredentialsProvider};
use aws_smithy_runtime_api::client::http::{HttpConnector, HttpConnectorFuture, HttpConnectorSettings, http_client_fn};
use aws_smithy_runtime_api::client::orchestrator::{HttpRequest, HttpResponse};
use aws_smithy_runtime_api::client::result::ConnectorError;
use aws_smithy_types::body::SdkBody;
use bytes::Bytes;
use http::{HeaderValue, Request, header};
use http_body_util::Full;
use jiff::Timestamp;
use serde::Deserialize;
use tokio::time::timeout;
use tracing::instrument::WithSubscriber as _;
use tracing::subscriber::NoSubscriber;

use super::fetch::{Limits, Place, ask};
use super::program;
use crate::backend::{AwsChain, AwsKeys, Secret};

/// How long all of it may take: a chain of roles asks several times. The start waits for it too, also on a machine without metadata.
const LONGEST: Duration = Duration::from_secs(10);
/// Times that each question is put. Whoever calls this comes again by itself.
const ATTEMPTS: u32 = 2;
/// What is waited for where the crate says nothing else. It asks a machine that has no such service for a second.
const USUAL: Duration = Duration::from_secs(5);
/// Bytes of an answer: keys with a token have two or three thousand.
const MOST: usize = 64 << 10;
/// What a session with a role's rights is called in its owner's logs.
const SESSION: &str = "windward";
/// Characters of what is said of a failure, which may have been written by others.
const MOST_SAID: usize = 300;

/// Asks for keys, and when they end if that is known.
pub(super) async fn keys(chain: &AwsChain) -> Result<(AwsKeys, Option<Timestamp>), String> {
    let first = match &chain.program {
        Some(line) => Some(written(&program::output("sh", ["-c", line.expose()].into_iter()).await?)?),
        None => None,
    };
    // What the crate says of its work is heard by nobody, since it may show what must not be seen; what fails comes back from here.
    let asked = timeout(LONGEST, provide(chain, first).with_subscriber(NoSubscriber::default())).await;
    let given = asked
        .map_err(|_| format!("nobody gave AWS keys within {} s", LONGEST.as_secs()))?
        .map_err(|error| said(&error, chain))?;
    let until = given.expiry().and_then(|until| Timestamp::try_from(until).ok());
    let keys = AwsKeys {
        access_key_id: given.access_key_id().into(),
        secret_access_key: Secret::new(given.secret_access_key()),
        session_token: given.session_token().map(Secret::new),
    };
    Ok((keys, until))
}

/// What a program writes that a profile names (`credential_process`). The crate would run it as well, without an end to one that hangs.
fn written(text: &str) -> Result<Credentials, String> {
    #[derive(Deserialize)]
    #[serde(rename_all = "PascalCase")]
    struct Written {
        version: u32,
        access_key_id: String,
        secret_access_key: String,
        session_token: Option<String>,
        expiration: Option<Timestamp>,
    }
    // What is wrong with it is not repeated, since that would be some of it.
    let keys: Written = serde_json::from_str(text).map_err(|_| "the profile's program wrote no AWS keys".to_owned())?;
    if keys.version != 1 {
        return Err("the profile's program wrote AWS keys of an unknown version".to_owned());
    }
    let until = keys.expiration.map(SystemTime::from);
    Ok(Credentials::new(keys.access_key_id, keys.secret_access_key, keys.session_token, until, "windward"))
}

async fn provide(chain: &AwsChain, first: Option<Credentials>) -> Result<Credentials, CredentialsError> {
    let client = http_client_fn(|settings, _| Line::of(settings).into());
    let region = aws_config::Region::new(chain.region.to_string());
    let retries = RetryConfig::standard().with_max_attempts(ATTEMPTS);
    let limits = TimeoutConfig::builder().connect_timeout(USUAL).read_timeout(USUAL).operation_attempt_timeout(2 * USUAL).build();
    let mut loader = aws_config::defaults(BehaviorVersion::latest())
        .http_client(client.clone())
        .region(region.clone())
        .retry_config(retries.clone())
        .timeout_config(limits.clone())
        // Whatever was found before is asked for because it ends.
        .identity_cache(IdentityCache::no_cache());
    if let Some(keys) = first {
        loader = loader.credentials_provider(SharedCredentialsProvider::new(keys));
    } else if let Some(profile) = &chain.profile {
        // Only it: the crate's chain would ask the environment before the profile and the machine after it, and either may be another
        // account's.
        let asked = ProviderConfig::without_region()
            .with_http_client(client)
            .with_region(Some(region))
            .with_retry_config(retries)
            .with_timeout_config(limits);
        let only = ProfileFileCredentialsProvider::builder().configure(&asked).profile_name(&**profile).build();
        loader = loader.profile_name(&**profile).credentials_provider(SharedCredentialsProvider::new(only));
    }
    let config = loader.load().await;
    let Some(found) = config.credentials_provider() else {
        return Err(CredentialsError::not_loaded("nobody was asked"));
    };
    let mut found = found;
    for role in &chain.roles {
        let session = role.session_name.as_deref().unwrap_or(SESSION);
        let mut taking = AssumeRoleProvider::builder(&*role.arn).configure(&config).session_name(session);
        if let Some(id) = &role.external_id {
            taking = taking.external_id(&**id);
        }
        found = SharedCredentialsProvider::new(taking.build_from_provider(found).await);
    }
    found.provide_credentials().await
}

/// An error with all that it comes from, in one bounded line.
fn said(error: &CredentialsError, chain: &AwsChain) -> String {
    let mut said = match (error, &chain.profile) {
        (CredentialsError::CredentialsNotLoaded(_), None) => {
            return "neither the environment, a profile, a web identity, a container nor the machine's metadata has AWS keys"
                .to_owned();
        }
        (CredentialsError::CredentialsNotLoaded(_), Some(profile)) => format!("profile `{profile}` has no AWS keys"),
        _ => error.to_string(),
    };
    let mut next = error.source();
    while let Some(cause) = next {
        said.push_str(": ");
        said.push_str(&cause.to_string());
        next = cause.source();
    }
    said.chars().map(|c| if c.is_control() { ' ' } else { c }).take(MOST_SAID).collect()
}

/// The crate's connection to the world: ours.
#[derive(Debug)]
struct Line {
    limits: Limits,
}

impl Line {
    fn of(settings: &HttpConnectorSettings) -> Self {
        let (connect, answer) = (settings.connect_timeout().unwrap_or(USUAL), settings.read_timeout().unwrap_or(USUAL));
        Self { limits: Limits { connect, total: connect + answer, body: MOST } }
    }
}

impl From<Line> for aws_smithy_runtime_api::client::http::SharedHttpConnector {
    fn from(line: Line) -> Self {
        Self::new(line)
    }
}

impl HttpConnector for Line {
    fn call(&self, request: HttpRequest) -> HttpConnectorFuture {
        let limits = self.limits;
        HttpConnectorFuture::new(async move {
            let (place, request) = addressed(request).map_err(|why| ConnectorError::user(why.into()))?;
            // Tried again like what broke: nobody was given anything twice.
            let answer = ask(&place, request, limits).await.map_err(|why| ConnectorError::io(Failed(why).into()))?;
            HttpResponse::try_from(answer.map(SdkBody::from)).map_err(|error| ConnectorError::other(error.into(), None))
        })
    }
}

/// Where a request goes, and the request as it is sent there.
fn addressed(request: HttpRequest) -> Result<(Place, Request<Full<Bytes>>), &'static str> {
    let request = request.try_into_http1x().map_err(|_| "this is no request")?;
    let (mut head, body) = request.into_parts();
    let body = Bytes::copy_from_slice(body.bytes().ok_or("a body that is no text is not sent")?);
    let tls = match head.uri.scheme_str() {
        Some("https") => true,
        Some("http") => false,
        _ => return Err("neither https nor http"),
    };
    let host = head.uri.host().ok_or("there is no host")?.trim_matches(['[', ']']).to_owned();
    let port = head.uri.port_u16().unwrap_or(if tls { 443 } else { 80 });
    let authority = head.uri.authority().map_or("", |authority| authority.as_str());
    head.headers.insert(header::HOST, HeaderValue::from_str(authority).map_err(|_| "a strange host")?);
    head.headers.insert(header::CONNECTION, HeaderValue::from_static("close"));
    let target = head.uri.path_and_query().map_or("/", |target| target.as_str()).parse();
    head.uri = target.map_err(|_| "a strange path")?;
    Ok((Place { tls, host, port }, Request::from_parts(head, Full::new(body))))
}

/// Why there was no answer.
#[derive(Debug)]
struct Failed(&'static str);

impl fmt::Display for Failed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0)
    }
}

impl Error for Failed {}

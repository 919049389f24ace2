//! What of a request is withheld from every backend: credentials, and what gateways and clouds before this one say of the client.
//!
//! A credential in a field that nobody here knows would be handed to somebody else's API, so there are two nets: the names that are
//! documented, each with whose it is, and the endings that name a credential whoever made it up. Everything else passes, because a
//! gateway that knows every field of every SDK is out of date the next morning.

/// Fields that are withheld, and whose they are. A `*` at the end stands for any rest. The names of one group stand together, so
/// that a name is only compared with those that begin as it does.
pub const FIELDS: &[(&str, &str)] = &[
    ("api-key", "Azure OpenAI"),
    ("apikey", "Kong key-auth"),
    ("authorization", "RFC 9110, 11.6.2"),
    ("cf-access-*", "Cloudflare Access: JWT, service token, e-mail"),
    ("cf-aig-authorization", "Cloudflare AI Gateway"),
    ("cf-connecting-*", "Cloudflare: the client's address"),
    ("cf-ipcountry", "Cloudflare: the client's country"),
    ("cf-pseudo-ipv4", "Cloudflare: the client's address"),
    ("cookie", "RFC 6265"),
    ("dpop", "RFC 9449"),
    ("fastly-client-ip", "Fastly"),
    ("forwarded", "RFC 7239"),
    ("helicone-auth", "Helicone"),
    ("ocp-apim-subscription-key", "Azure API Management"),
    ("proxy-authorization", "RFC 9110, 11.7.2"),
    ("remote-*", "Authelia: user, groups, name, e-mail"),
    ("tailscale-*", "Tailscale Serve: the user"),
    ("teleport-jwt-assertion", "Teleport application access"),
    ("true-client-ip", "Akamai, Cloudflare"),
    ("x-access-token", "OpenID Connect plugins of Kong"),
    ("x-amz-*", "AWS: SigV4, and session tokens"),
    ("x-amzn-mtls-*", "AWS load balancer: the client's certificate"),
    ("x-amzn-oidc-*", "AWS load balancer: access token, identity, claims"),
    ("x-api-key", "Anthropic, Amazon API Gateway"),
    ("x-apigateway-api-userinfo", "Google API Gateway"),
    ("x-appengine-*", "Google App Engine: the user's address and place"),
    ("x-arr-clientcert", "Azure App Service: the client's certificate"),
    ("x-auth-key", "Cloudflare API"),
    ("x-auth-request-*", "oauth2-proxy behind nginx: token and user"),
    ("x-auth-token", "OpenStack Keystone"),
    ("x-authenticated-*", "Kong OAuth 2.0: user, scope"),
    ("x-authentik-*", "authentik proxy provider: JWT and user"),
    ("x-client-ip", "Apache Traffic Server, Azure"),
    ("x-cluster-client-ip", "Zeus, Rackspace"),
    ("x-consumer-*", "Kong: the consumer"),
    ("x-credential-*", "Kong: the consumer's credential"),
    ("x-endpoint-api-userinfo", "Google Cloud Endpoints"),
    ("x-envoy-external-address", "Envoy: the client's address"),
    ("x-forwarded-*", "proxies, and oauth2-proxy: access token, user, e-mail"),
    ("x-functions-key", "Azure Functions"),
    ("x-goog-api-key", "Gemini, Vertex AI"),
    ("x-goog-authenticated-user-*", "Google Identity-Aware Proxy"),
    ("x-goog-iam-*", "Google IAM: authorization token, authority selector"),
    ("x-goog-iap-*", "Google Identity-Aware Proxy: JWT"),
    ("x-id-token", "OpenID Connect plugins of Kong"),
    ("x-litellm-api-key", "LiteLLM"),
    ("x-ms-client-principal*", "Azure App Service authentication: the user"),
    ("x-ms-token-*", "Azure App Service authentication: tokens of Entra, Google, .."),
    ("x-original-*", "proxies: the request before they changed it"),
    ("x-pomerium-*", "Pomerium: JWT and claims"),
    ("x-portkey-api-key", "Portkey"),
    ("x-portkey-virtual-key", "Portkey"),
    ("x-real-ip", "nginx"),
    ("x-serverless-authorization", "Google Cloud Run"),
    ("x-userinfo", "OpenID Connect plugins of Kong"),
    ("x-vault-token", "HashiCorp Vault"),
    ("x-vercel-oidc-token", "Vercel"),
    ("x-windward-*", "words to Windward itself"),
];

/// A field or parameter whose name ends so holds a credential, whoever made it up: `x-openai-api-key`, `x-acme-access-token`.
const ENDINGS: [&str; 13] = [
    "api-token",
    "private-token",
    "secret-key",
    "api-key",
    "apikey",
    "access-token",
    "auth-token",
    "id-token",
    "refresh-token",
    "session-token",
    "authorization",
    "jwt-assertion",
    "client-secret",
];

/// Parameters of a query that hold a credential, in lower case and with `-` for `_`, and whose they are. A `*` as above.
pub const PARAMETERS: &[(&str, &str)] = &[
    ("awsaccesskeyid", "AWS, presigned URLs of version 2"),
    ("googleaccessid", "Google Cloud, signed URLs of version 2"),
    ("key", "Gemini, Google APIs"),
    ("password", "anybody"),
    ("sig", "Azure, shared access signatures"),
    ("signature", "AWS and Google Cloud, signed URLs of version 2"),
    ("subscription-key", "Azure API Management"),
    ("token", "anybody"),
    ("x-amz-*", "AWS, presigned URLs"),
    ("x-goog-*", "Google Cloud, signed URLs"),
];

/// How many groups there are: 26 letters, 26 behind `x-`, and everything else.
const GROUPS: usize = 53;

/// Where each group lies in [`FIELDS`].
static INDEX: [(u8, u8); GROUPS] = index();

#[expect(clippy::indexing_slicing, clippy::cast_possible_truncation, reason = "done by the compiler, which stops where it fails")]
const fn index() -> [(u8, u8); GROUPS] {
    let mut index = [(0, 0); GROUPS];
    let mut at = 0;
    while at < FIELDS.len() {
        let group = group(FIELDS[at].0.as_bytes());
        if index[group].1 == 0 {
            index[group].0 = at as u8;
        }
        assert!(index[group].1 == 0 || index[group].1 as usize == at, "names of one group stand together");
        index[group].1 = at as u8 + 1;
        at += 1;
    }
    index
}

/// The group of a name: by its first letter, or by the one behind `x-`.
const fn group(name: &[u8]) -> usize {
    let (letter, base) = match name {
        [b'x', b'-', letter, ..] => (*letter, 26),
        [letter, ..] => (*letter, 0),
        [] => (0, 0),
    };
    if letter.is_ascii_lowercase() { base + (letter - b'a') as usize } else { GROUPS - 1 }
}

/// Whether a field of a request, its name in lower case, is withheld from every backend.
pub fn withholds_field(name: &str) -> bool {
    let (from, to) = INDEX.get(group(name.as_bytes())).copied().unwrap_or_default();
    let group = FIELDS.get(usize::from(from)..usize::from(to)).unwrap_or_default();
    group.iter().any(|(row, _)| matches(row.as_bytes(), name.as_bytes())) || ends_as_a_credential(name.as_bytes())
}

/// Whether a parameter of a query, its name decoded, is withheld from a backend that has a credential of its own.
pub fn withholds_parameter(name: &[u8]) -> bool {
    let plain = |byte: &u8| if *byte == b'_' { b'-' } else { byte.to_ascii_lowercase() };
    let name: smallvec::SmallVec<[u8; 32]> = name.iter().map(plain).collect();
    PARAMETERS.iter().any(|(row, _)| matches(row.as_bytes(), &name)) || ends_as_a_credential(&name)
}

fn matches(row: &[u8], name: &[u8]) -> bool {
    row.strip_suffix(b"*").map_or(name == row, |beginning| name.starts_with(beginning))
}

fn ends_as_a_credential(name: &[u8]) -> bool {
    // Most names are told by their last letter.
    matches!(name, [.., b'y' | b'n' | b't']) && ENDINGS.iter().any(|ending| name.ends_with(ending.as_bytes()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_row_is_found_and_says_whose_it_is() {
        for (row, whose) in FIELDS {
            assert!(withholds_field(&row.replace('*', "any")), "{row}");
            assert!(
                row.bytes().all(|byte| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'-' | b'*')) && !whose.is_empty(),
                "{row}"
            );
        }
        for (row, whose) in PARAMETERS {
            assert!(withholds_parameter(row.replace('*', "any").to_uppercase().as_bytes()) && !whose.is_empty(), "{row}");
        }
        assert!(ENDINGS.iter().all(|ending| withholds_field(&format!("x-acme-{ending}"))));
    }

    #[test]
    fn what_a_model_api_is_told_passes() {
        for name in [
            "accept",
            "accept-encoding",
            "anthropic-beta",
            "anthropic-version",
            "content-type",
            "host",
            "idempotency-key",
            "openai-beta",
            "openai-organization",
            "openai-project",
            "traceparent",
            "user-agent",
            "x-amzn-bedrock-guardrailidentifier",
            "x-api-keys",
            "x-goog-user-project",
            "x-request-id",
            "x-stainless-retry-count",
            "x-stainless-runtime-version",
            "x-",
            "x",
            "_",
        ] {
            assert!(!withholds_field(name), "{name}");
        }
        for name in ["api-version", "after", "limit", "order", "model", "keys", "page_token", "max_tokens", "alt", ""] {
            assert!(!withholds_parameter(name.as_bytes()), "{name}");
        }
        for name in ["api_key", "API-Key", "apikey", "access_token", "X-Amz-Signature", "x_goog_signature", "azure_api_key"] {
            assert!(withholds_parameter(name.as_bytes()), "{name}");
        }
    }
}

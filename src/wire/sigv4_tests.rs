use std::fmt::Write as _;

use aws_lc_rs::hmac;
use proptest::prelude::*;

use super::*;
use crate::backend::Secret;
use crate::wire::Operation;

const SCOPE: Scope<'static> = Scope { service: "bedrock", region: "us-west-2" };
const HOST_NAME: &str = "bedrock-runtime.us-west-2.amazonaws.com";
const BODY: &[u8] = br#"{"messages":[]}"#;
const TARGET: &str = "/model/openai.gpt-oss-120b-1%3A0/converse";

fn keys(token: Option<&str>) -> AwsKeys {
    AwsKeys {
        access_key_id: "AKIDEXAMPLE".into(),
        secret_access_key: Secret::new("wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY"),
        session_token: token.map(Secret::new),
    }
}

fn now() -> Timestamp {
    "2026-11-23T10:00:00Z".parse().unwrap()
}

fn hash(body: &[u8]) -> PayloadHash {
    PayloadHash::of([body])
}

/// The signature by the steps that AWS documents for a service whose paths are encoded twice, without its crate.
fn by_hand(target: &str, fields: &[(&str, &str)], payload: &PayloadHash) -> String {
    let (path, query) = target.split_once('?').unwrap_or((target, ""));
    let mut twice = String::new();
    for byte in path.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~/".contains(&byte) {
            twice.push(char::from(byte));
        } else {
            write!(twice, "%{byte:02X}").unwrap();
        }
    }
    let names: Vec<&str> = fields.iter().map(|(name, _)| *name).collect();
    signature_of(&twice, query, fields, &names.join(";"), payload)
}

/// The same with a path as it stands in the canonical request.
fn by_path(canonical_path: &str, fields: &[(&str, &str)], names: &str) -> String {
    signature_of(canonical_path, "", fields, names, &hash(BODY))
}

fn signature_of(path: &str, query: &str, fields: &[(&str, &str)], names: &str, payload: &PayloadHash) -> String {
    let lines = fields.iter().map(|(name, value)| [name, ":", value, "\n"].concat()).collect::<Vec<_>>().concat();
    let canonical = format!("POST\n{path}\n{query}\n{lines}\n{names}\n{}", payload.as_str());
    let scope = "20261123/us-west-2/bedrock/aws4_request";
    let to_sign = format!("AWS4-HMAC-SHA256\n20261123T100000Z\n{scope}\n{}", hash(canonical.as_bytes()).as_str());
    let mac = |key: &[u8], text: &str| hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, key), text.as_bytes());
    let secret = format!("AWS4{}", keys(None).secret_access_key.expose());
    let key = ["20261123", "us-west-2", "bedrock", "aws4_request"]
        .iter()
        .fold(secret.into_bytes(), |key, part| mac(&key, part).as_ref().to_vec());
    let mut hex = String::new();
    mac(&key, &to_sign).as_ref().iter().for_each(|byte| write!(hex, "{byte:02x}").unwrap());
    hex
}

fn sign_it(target: &str, token: Option<&str>) -> Signed {
    let payload = hash(BODY);
    let subject = Subject { method: "POST", target, host: HOST_NAME, content_type: Some("application/json"), payload: &payload };
    Signer::new(&keys(token)).sign(SCOPE, &subject, now()).unwrap()
}

/// A version with its colon, an ARN, whose slash is a part of the id, and a path without an id.
const TARGETS: [&str; 4] = [
    TARGET,
    "/model/anthropic.claude-3-haiku-20240307-v1%3A0/invoke-with-response-stream",
    "/model/arn%3Aaws%3Abedrock%3Aus-west-2%3A123456789012%3Aapplication-inference-profile%2Fabc/converse-stream",
    "/openai/v1/chat/completions",
];

#[test]
fn a_signature_is_the_one_that_the_documented_steps_give() {
    for target in TARGETS {
        // Helicone signed without the session token, which AWS refuses.
        for token in [None, Some("FwoGZXIvYXdzEXAMPLE//token==")] {
            let signed = sign_it(target, token);
            let mut fields = vec![("content-type", "application/json"), ("host", HOST_NAME), ("x-amz-date", "20261123T100000Z")];
            fields.extend(token.map(|token| ("x-amz-security-token", token)));
            let names: Vec<&str> = fields.iter().map(|(name, _)| *name).collect();
            let expected = format!(
                "AWS4-HMAC-SHA256 Credential=AKIDEXAMPLE/20261123/us-west-2/bedrock/aws4_request, SignedHeaders={}, Signature={}",
                names.join(";"),
                by_hand(target, &fields, &hash(BODY)),
            );
            assert_eq!(signed.authorization.to_str().unwrap(), expected, "{target}");
            assert_eq!(signed.security_token.as_ref().map(|value| value.to_str().unwrap()), token);
            assert!(signed.authorization.is_sensitive() && signed.security_token.is_none_or(|token| token.is_sensitive()));
        }
    }
}

/// Three public reports of gateways whose signatures AWS refused: the id each was about, the path in its canonical request that AWS
/// wanted, and those that were signed instead.
///
/// * higress 2396: the id had been encoded twice where it was sent, so that AWS wanted a third encoding.
/// * higress 3590: what was encoded was decoded before it was signed, in an ARN its slash with it.
/// * maki 212: the path was signed as it is sent, and `host` stood twice in the list of signed fields.
const REFUSED: [(&str, &str, &[&str]); 3] = [
    (
        "anthropic.claude-3-5-sonnet-20240620-v1:0",
        "/model/anthropic.claude-3-5-sonnet-20240620-v1%253A0/converse",
        &["/model/anthropic.claude-3-5-sonnet-20240620-v1%25253A0/converse"],
    ),
    (
        "arn:aws:bedrock:us-east-1:123456789012:inference-profile/global.anthropic.claude-sonnet-4-20250514-v1:0",
        "/model/arn%253Aaws%253Abedrock%253Aus-east-1%253A123456789012%253Ainference-profile%252Fglobal.anthropic.claude-sonnet-4-20250514-v1%253A0/converse",
        &[
            "/model/arn%3Aaws%3Abedrock%3Aus-east-1%3A123456789012%3Ainference-profile%2Fglobal.anthropic.claude-sonnet-4-20250514-v1%3A0/converse",
            "/model/arn%3Aaws%3Abedrock%3Aus-east-1%3A123456789012%3Ainference-profile/global.anthropic.claude-sonnet-4-20250514-v1%3A0/converse",
        ],
    ),
    (
        "us.anthropic.claude-sonnet-4-5-20250929-v1:0",
        "/model/us.anthropic.claude-sonnet-4-5-20250929-v1%253A0/converse",
        &[
            "/model/us.anthropic.claude-sonnet-4-5-20250929-v1%3A0/converse",
            "/model/us.anthropic.claude-sonnet-4-5-20250929-v1:0/converse",
        ],
    ),
];

#[test]
fn what_aws_refused_of_others_is_signed_as_it_wants_it_and_refused_as_they_did_it() {
    let names = ["content-type", "host", "x-amz-date"];
    let values = ["application/json", HOST_NAME, "20261123T100000Z"];
    let fields: Vec<(&str, &str)> = names.into_iter().zip(values).collect();
    for (id, wanted, others) in REFUSED {
        let target = super::super::bedrock::path(&super::super::bedrock::segment(id), Operation::Converse, false).unwrap();
        let signed = sign_it(&target, None);
        let signature = |canonical: &str, names: &str, fields: &[(&str, &str)]| {
            let credential = "AWS4-HMAC-SHA256 Credential=AKIDEXAMPLE/20261123/us-west-2/bedrock/aws4_request";
            format!("{credential}, SignedHeaders={names}, Signature={}", by_path(canonical, fields, names))
        };
        assert_eq!(signed.authorization, signature(wanted, "content-type;host;x-amz-date", &fields), "{id}");
        let mut received = received(&signed);
        let mut ask = |authorization: &str| {
            received.insert(AUTHORIZATION, HeaderValue::from_str(authorization).unwrap());
            check(&received, &target, BODY, None, SCOPE, now())
        };
        assert_eq!(ask(&signature(wanted, "content-type;host;x-amz-date", &fields)), Ok(()), "{id}");
        for other in others {
            assert_eq!(ask(&signature(other, "content-type;host;x-amz-date", &fields)), Err(Mistrust::Signature), "{other}");
        }
        let twice: Vec<(&str, &str)> = fields[..2].iter().chain(&fields[1..]).copied().collect();
        assert_eq!(ask(&signature(wanted, "content-type;host;host;x-amz-date", &twice)), Err(Mistrust::Fields), "{id}");
    }
    // And higress 2396 as it was sent.
    let target = "/model/anthropic.claude-3-5-sonnet-20240620-v1%253A0/converse";
    let signed = sign_it("/model/anthropic.claude-3-5-sonnet-20240620-v1%3A0/converse", None);
    assert_eq!(check(&received(&signed), target, BODY, None, SCOPE, now()), Err(Mistrust::Signature));
}

#[test]
fn a_query_that_is_no_text_is_neither_signed_nor_believed() {
    let payload = hash(b"{}");
    let sign = |target| {
        let subject = Subject { method: "POST", target, host: "h.test", content_type: None, payload: &payload };
        Signer::new(&keys(None)).sign(Scope { service: "bedrock", region: "eu-north-1" }, &subject, now())
    };
    for target in ["/a?b=%ff", "/a?%C3=%A9", "/a?b=%E2%82", "/a?b=%80%"] {
        assert!(sign(target).is_none(), "{target}");
    }
    for target in ["/a", "/%ff", "/a?", "/a?b=%C3%A9", "/a?b=\u{e9}%41", "/a?b=%", "/a?b=%f", "/a?b=%zz"] {
        assert!(sign(target).is_some(), "{target}");
    }
}

fn received(signed: &Signed) -> HeaderMap {
    let mut fields = HeaderMap::new();
    fields.insert(HOST, HeaderValue::from_static(HOST_NAME));
    fields.insert("content-type", HeaderValue::from_static("application/json"));
    fields.insert("accept", HeaderValue::from_static("*/*"));
    fields.insert(AUTHORIZATION, signed.authorization.clone());
    fields.insert(DATE, signed.date.clone());
    if let Some(token) = &signed.security_token {
        fields.insert(SECURITY_TOKEN, token.clone());
    }
    fields
}

fn check(
    fields: &HeaderMap,
    target: &str,
    body: &[u8],
    token: Option<&str>,
    scope: Scope<'_>,
    now: Timestamp,
) -> Result<(), Mistrust> {
    let payload = hash(body);
    let received = Received { method: "POST", target, authority: None, fields, payload: &payload };
    let by_head = could_be_signed(fields, None, &keys(token), now);
    let verified = verify(&received, &keys(token), Some(scope), now);
    match verified {
        Ok(()) | Err(Mistrust::Unsigned | Mistrust::Date | Mistrust::Fields) => assert_eq!(by_head, verified, "without the body"),
        // Of another region or service, or of another signature or body, which no head shows.
        Err(_) => {}
    }
    verified
}

#[test]
fn what_the_head_shows_is_seen_without_a_body() {
    let fields = received(&sign_it(TARGET, None));
    let ask = |token, now| could_be_signed(&fields, None, &keys(token), now);
    assert_eq!(ask(None, now()), Ok(()));
    assert_eq!(ask(None, now() + jiff::Span::new().minutes(6)), Err(Mistrust::Date));
    assert_eq!(ask(Some("token"), now()), Err(Mistrust::Signature), "its token is missing");
}

#[test]
fn what_was_signed_is_believed_and_nothing_else() {
    for target in TARGETS {
        for token in [None, Some("token")] {
            assert_eq!(check(&received(&sign_it(target, token)), target, BODY, token, SCOPE, now()), Ok(()), "{target}");
        }
    }
    let signed = sign_it(TARGET, None);
    let fields = received(&signed);
    let ask = |target, body, scope, now| check(&fields, target, body, None, scope, now);
    let elsewhere = Scope { region: "eu-north-1", ..SCOPE };
    assert_eq!(ask(TARGET, BODY, elsewhere, now()), Err(Mistrust::Region));
    let other = Scope { service: "bedrock-mantle", ..SCOPE };
    assert_eq!(ask(TARGET, BODY, other, now()), Err(Mistrust::Service));
    for minutes in [-6, 6] {
        assert_eq!(ask(TARGET, BODY, SCOPE, now() + jiff::Span::new().minutes(minutes)), Err(Mistrust::Date));
        assert_eq!(ask(TARGET, BODY, SCOPE, now() + jiff::Span::new().minutes(minutes * 2 / 3)), Ok(()));
    }
    assert_eq!(ask(TARGET, b"{}", SCOPE, now()), Err(Mistrust::Signature));
    for target in ["/model/openai.gpt-oss-120b-1:0/converse", "/model/openai.gpt-oss-120b-1%253A0/converse", "/model/x/converse"]
    {
        assert_eq!(ask(target, BODY, SCOPE, now()), Err(Mistrust::Signature), "{target}");
    }
    assert_eq!(check(&fields, TARGET, BODY, Some("token"), SCOPE, now()), Err(Mistrust::Signature), "its token is missing");
}

#[test]
fn what_must_be_signed_is_asked_for() {
    let with = |change: &dyn Fn(&mut HeaderMap)| {
        let mut fields = received(&sign_it(TARGET, None));
        change(&mut fields);
        check(&fields, TARGET, BODY, None, SCOPE, now())
    };
    let set = |name: &'static str, value: &'static str| {
        with(&|fields| {
            fields.insert(name, HeaderValue::from_static(value));
        })
    };
    assert_eq!(set("accept", "application/json"), Ok(()), "it is not signed and nobody asked");
    assert_eq!(set("x-amz-target", "x"), Err(Mistrust::Fields));
    assert_eq!(set("x-amz-security-token", "x"), Err(Mistrust::Fields));
    assert_eq!(set("host", "elsewhere"), Err(Mistrust::Signature));
    assert_eq!(set("x-amz-date", "20261123T100001Z"), Err(Mistrust::Signature));
    assert_eq!(set("x-amz-date", "yesterday"), Err(Mistrust::Date));
    assert_eq!(set("authorization", "Bearer AKIDEXAMPLE"), Err(Mistrust::Unsigned));
    assert_eq!(with(&|fields| drop(fields.remove("content-type"))), Err(Mistrust::Fields));
    let rewritten = |from: &str, to: &str| {
        with(&|fields| {
            let text = fields[AUTHORIZATION].to_str().unwrap().replace(from, to);
            fields.insert(AUTHORIZATION, HeaderValue::from_str(&text).unwrap());
        })
    };
    assert_eq!(rewritten("AKIDEXAMPLE", "AKIDOTHER"), Err(Mistrust::Unsigned));
    assert_eq!(rewritten("host;x-amz-date", "x-amz-date"), Err(Mistrust::Fields));
    assert_eq!(rewritten("content-type;host", "host;content-type"), Err(Mistrust::Fields));
    assert_eq!(rewritten("/20261123/", "/20261122/"), Err(Mistrust::Date));
}

/// AWS's SDK for JavaScript over HTTP/2.
#[test]
fn the_host_may_be_signed_as_the_pseudo_header_that_it_is() {
    for target in TARGETS {
        let signed = [(":authority", HOST_NAME), ("content-type", "application/json"), ("x-amz-date", "20261123T100000Z")];
        let names = "SignedHeaders=:authority;content-type;x-amz-date";
        let credential = "AWS4-HMAC-SHA256 Credential=AKIDEXAMPLE/20261123/us-west-2/bedrock/aws4_request";
        let authorization = format!("{credential}, {names}, Signature={}", by_hand(target, &signed, &hash(BODY)));
        let mut fields = HeaderMap::new();
        fields.insert("content-type", HeaderValue::from_static("application/json"));
        fields.insert(DATE, HeaderValue::from_static("20261123T100000Z"));
        fields.insert(AUTHORIZATION, HeaderValue::from_str(&authorization).unwrap());
        let payload = hash(BODY);
        let ask = |fields: &HeaderMap, target: &str, authority: Option<&str>| {
            let received = Received { method: "POST", target, authority, fields, payload: &payload };
            verify(&received, &keys(None), Some(SCOPE), now())
        };
        assert_eq!(ask(&fields, target, Some(HOST_NAME)), Ok(()), "{target}");
        assert_eq!(ask(&fields, target, Some("elsewhere")), Err(Mistrust::Signature));
        assert_eq!(ask(&fields, target, None), Err(Mistrust::Fields), "it came over HTTP/1.1");
        assert_eq!(ask(&fields, "/model/x/converse", Some(HOST_NAME)), Err(Mistrust::Signature));
        assert_eq!(ask(&fields, &format!("{target}?a=b"), Some(HOST_NAME)), Err(Mistrust::Signature));
        let both = authorization.replace("content-type;", "content-type;host;");
        fields.insert(AUTHORIZATION, HeaderValue::from_str(&both).unwrap());
        fields.insert(HOST, HeaderValue::from_static("elsewhere"));
        assert_eq!(ask(&fields, target, Some(HOST_NAME)), Err(Mistrust::Fields));
    }
}

proptest! {
    #[test]
    fn any_claim_is_survived(text in r"(AWS4-HMAC-SHA256|Credential=|SignedHeaders=|Signature=| |,|/|;|=|a|aws4_request){0,20}") {
        let _ = Claim::parse(&text);
    }

    #[test]
    fn a_body_in_pieces_has_the_hash_of_the_whole(body in prop::collection::vec(any::<u8>(), 0..200), cut in any::<prop::sample::Index>()) {
        let (one, two) = body.split_at(cut.index(body.len() + 1));
        prop_assert_eq!(PayloadHash::of([one, two]), hash(&body));
    }
}

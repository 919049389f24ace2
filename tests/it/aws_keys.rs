//! Keys of AWS from where AWS's own tools look: the binary with an environment of its own, services that give out keys, and a simulated
//! region that takes no request without their signature.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};

use jiff::{SignedDuration, Timestamp};

use super::process::{Program, windward};
use super::support::peer::{Seen, Then, respond};
use super::support::{Answer, Client, Fleet, Peer, patiently};

const FLEET: &str = r"
models: [m]
regions:
  - { region: aws/eu-north-1, rtt_ms: 0, replicas: 1, token_ms: 0.1, token_ms_per_request: 0, require_sigv4: { access_key_id: AKIDMOCK, secret_access_key: hush, session_token: temporary } }
";
const CONVERSE: &str = r#"{"messages":[{"role":"user","content":[{"text":"Which way does the wind blow?"}]}]}"#;
/// What the region takes, as containers and machines are told it.
const KEYS: &str = r#"{"Code":"Success","Type":"AWS-HMAC","AccessKeyId":"AKIDMOCK","SecretAccessKey":"hush","Token":"temporary","Expiration":"2100-01-01T00:00:00Z","LastUpdated":"2026-01-01T00:00:00Z"}"#;
const ROLE: &str = "arn:aws:iam::123456789012:role/models";

/// The service that gives out the rights of roles.
fn security_token_service() -> Peer {
    Peer::start(|seen, stream| {
        let asked = String::from_utf8_lossy(&seen.body).into_owned();
        let action = if asked.contains("Action=AssumeRoleWithWebIdentity") { "AssumeRoleWithWebIdentity" } else { "AssumeRole" };
        let answer = format!(
            "<{action}Response xmlns=\"https://sts.amazonaws.com/doc/2011-06-15/\"><{action}Result>\
             <AssumedRoleUser><AssumedRoleId>AROA:windward</AssumedRoleId><Arn>arn:aws:sts::123456789012:assumed-role/models/windward</Arn>\
             </AssumedRoleUser><Credentials><AccessKeyId>AKIDMOCK</AccessKeyId><SecretAccessKey>hush</SecretAccessKey>\
             <SessionToken>temporary</SessionToken><Expiration>2100-01-01T00:00:00Z</Expiration></Credentials>\
             </{action}Result><ResponseMetadata><RequestId>1</RequestId></ResponseMetadata></{action}Response>"
        );
        respond(stream, "200 OK", "content-type: text/xml\r\n", answer.as_bytes());
        Then::Next
    })
}

/// A machine's metadata, by its second version: nothing without a token that was asked for.
fn metadata(seen: &Seen, stream: &mut std::net::TcpStream) -> Then {
    let json = "content-type: application/json\r\n";
    let known = seen.field("x-aws-ec2-metadata-token") == Some("SESSION");
    match (seen.head.split(' ').next(), seen.target()) {
        (Some("PUT"), "/latest/api/token") => {
            respond(stream, "200 OK", "x-aws-ec2-metadata-token-ttl-seconds: 21600\r\n", b"SESSION");
        }
        (Some("GET"), _) if !known => respond(stream, "401 Unauthorized", "", b""),
        (Some("GET"), "/latest/meta-data/iam/security-credentials/") => respond(stream, "200 OK", "", b"models"),
        (Some("GET"), "/latest/meta-data/iam/security-credentials/models") => respond(stream, "200 OK", json, KEYS.as_bytes()),
        _ => respond(stream, "404 Not Found", "", b""),
    }
    Then::Next
}

struct Running {
    program: Program,
    address: SocketAddr,
}

impl Running {
    /// `windward serve` with no variable but these, and one backend with that credential before another with none.
    fn start(folder: &Path, fleet: &Fleet, sigv4: &str, environment: &[(&str, &str)]) -> Self {
        let url = fleet.url("aws/eu-north-1");
        let file = folder.join("windward.yaml");
        let text = format!(
            r#"
listeners: [{{ address: 127.0.0.1:0 }}]
log: {{ access: {log} }}
limits: {{ drain_delay: 1ms, drain_deadline: 5s }}
backends:
  - {{ name: signed, url: "{url}", dialect: bedrock, region: aws/eu-north-1, auth: {{ sigv4: {sigv4} }}, models: [m] }}
  - {{ name: spare, url: "{url}", dialect: bedrock, region: aws/eu-north-1, auth: {{ sigv4: {{ access_key_id: AKIDMOCK, secret_access_key: hush, session_token: temporary }} }}, models: [m] }}
routes: [{{ name: native, backends: [signed, spare], policy: in_order }}]
policies: [{{ name: in_order, objective: listed_order }}]
"#,
            log = folder.join("access.jsonl").display()
        );
        std::fs::write(&file, text).unwrap();
        let mut command = windward(["serve", "--json", "--verbosity", "trace", "-c"]);
        command.arg(file).env_clear().env("HOME", folder).envs(environment.iter().copied());
        let mut program = Program::start("windward serve", &mut command);
        let address = program.wait_for(|line| {
            let said: serde_json::Value = serde_json::from_str(line).ok()?;
            (said["message"] == "listening").then(|| said["address"].as_str()?.parse().ok()).flatten()
        });
        Self { program, address }
    }

    /// Who answers a request.
    fn backend(&self) -> String {
        let answer = self.ask();
        assert_eq!(answer.status, 200, "{}", answer.text());
        answer.field("x-windward-backend").unwrap().to_owned()
    }

    fn ask(&self) -> Answer {
        let mut client = Client::connect(self.address);
        client.post("/model/m/converse", "x-mock-output-tokens: 3\r\n", CONVERSE);
        client.answer()
    }

    /// All that it said, in which no secret is.
    fn stop(self) -> Vec<String> {
        let (status, said) = self.program.stop();
        assert!(status.success());
        for secret in ["hush", "temporary", "SESSION", "BASESECRET", "OTHERSECRET", "IDENTITY", "CONTAINER"] {
            assert!(!said.iter().any(|line| line.contains(secret)), "{secret} is said: {said:#?}");
        }
        said
    }
}

fn url(peer: &Peer, path: &str) -> String {
    format!("http://{}{path}", peer.address)
}

#[test]
fn a_machines_role_signs() {
    let (fleet, peer, folder) = (Fleet::start(FLEET), Peer::start(metadata), tempfile::tempdir().unwrap());
    let proxy = Running::start(folder.path(), &fleet, "{}", &[("AWS_EC2_METADATA_SERVICE_ENDPOINT", &url(&peer, ""))]);
    assert_eq!(proxy.backend(), "signed");
    let first = peer.next();
    assert!(first.head.starts_with("PUT /latest/api/token") && first.field("x-aws-ec2-metadata-token-ttl-seconds").is_some());
    assert_eq!(first.field("host"), Some(&*peer.address.to_string()));
    proxy.stop();
}

#[test]
fn a_containers_role_signs() {
    let (fleet, peer, folder) = (Fleet::start(FLEET), Peer::answering("200 OK", KEYS), tempfile::tempdir().unwrap());
    let environment =
        [("AWS_CONTAINER_CREDENTIALS_FULL_URI", &*url(&peer, "/role?a=1")), ("AWS_CONTAINER_AUTHORIZATION_TOKEN", "CONTAINER")];
    let proxy = Running::start(folder.path(), &fleet, "{}", &environment);
    assert_eq!(proxy.backend(), "signed");
    let seen = peer.next();
    assert_eq!((seen.target(), seen.field("authorization")), ("/role?a=1", Some("CONTAINER")));
    proxy.stop();
    assert!(!peer.saw_more(), "keys that last are asked for once");
}

/// As a pod of EKS is told it: the token is in a file, which is written anew now and then.
#[test]
fn a_pods_identity_signs() {
    let (fleet, peer, folder) = (Fleet::start(FLEET), Peer::answering("200 OK", KEYS), tempfile::tempdir().unwrap());
    let token = folder.path().join("token");
    std::fs::write(&token, "CONTAINER").unwrap();
    let environment = [
        ("AWS_CONTAINER_CREDENTIALS_FULL_URI", &*url(&peer, "/v1/credentials")),
        ("AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE", token.to_str().unwrap()),
    ];
    let proxy = Running::start(folder.path(), &fleet, "{}", &environment);
    assert_eq!(proxy.backend(), "signed");
    let seen = peer.next();
    assert_eq!((seen.target(), seen.field("authorization")), ("/v1/credentials", Some("CONTAINER")));
    proxy.stop();
}

/// The region takes no signature without the token of the session among what is signed.
#[test]
fn keys_of_the_environment_and_of_a_file_sign() {
    let (fleet, folder) = (Fleet::start(FLEET), tempfile::tempdir().unwrap());
    let file = folder.path().join("credentials");
    let keys = "aws_access_key_id = AKIDMOCK\naws_secret_access_key = hush\naws_session_token = temporary\n";
    std::fs::write(
        &file,
        format!("[default]\naws_access_key_id = AKIDOTHER\naws_secret_access_key = OTHERSECRET\n[mine]\n{keys}"),
    )
    .unwrap();
    let file = ("AWS_SHARED_CREDENTIALS_FILE", file.to_str().unwrap());
    let here = [("AWS_ACCESS_KEY_ID", "AKIDMOCK"), ("AWS_SECRET_ACCESS_KEY", "hush"), ("AWS_SESSION_TOKEN", "temporary")];
    let others = [("AWS_ACCESS_KEY_ID", "AKIDOTHER"), ("AWS_SECRET_ACCESS_KEY", "OTHERSECRET")];
    for (sigv4, environment, backend) in [
        ("{}", [&here[..], &[file]].concat(), "signed"),
        ("{}", here[..2].to_vec(), "spare"),
        ("{}", vec![file, ("AWS_PROFILE", "mine")], "signed"),
        ("{}", vec![file], "spare"),
        ("{ profile: mine }", [&others[..], &[file]].concat(), "signed"),
    ] {
        let proxy = Running::start(folder.path(), &fleet, sigv4, &environment);
        assert_eq!(proxy.backend(), backend, "{sigv4} {environment:?}");
        proxy.stop();
    }
}

#[test]
fn a_web_identity_signs() {
    let (fleet, peer, folder) = (Fleet::start(FLEET), security_token_service(), tempfile::tempdir().unwrap());
    let identity = folder.path().join("identity");
    std::fs::write(&identity, "IDENTITY").unwrap();
    let environment = [
        ("AWS_WEB_IDENTITY_TOKEN_FILE", identity.to_str().unwrap()),
        ("AWS_ROLE_ARN", ROLE),
        ("AWS_ENDPOINT_URL_STS", &url(&peer, "")),
    ];
    let proxy = Running::start(folder.path(), &fleet, "{}", &environment);
    assert_eq!(proxy.backend(), "signed");
    let seen = peer.next();
    let asked = String::from_utf8(seen.body.clone()).unwrap();
    assert!(asked.contains("WebIdentityToken=IDENTITY") && seen.field("authorization").is_none(), "{asked}");
    proxy.stop();
}

#[test]
fn a_role_is_taken_on_by_configuration_and_by_profile() {
    let (fleet, peer) = (Fleet::start(FLEET), security_token_service());
    let service = url(&peer, "");
    let profiles = "[profile deploy]\nrole_arn = arn:aws:iam::123456789012:role/models\nsource_profile = base\n\
        external_id = agreed\nregion = us-west-2\n[profile base]\naws_access_key_id = AKIDBASE\naws_secret_access_key = BASESECRET\n";
    let by_profile = [("AWS_CONFIG_FILE", "config"), ("AWS_ENDPOINT_URL_STS", &*service), ("AWS_REGION", "us-west-2")];
    // Another account's, which a profile that is named outranks.
    let others = [("AWS_ACCESS_KEY_ID", "AKIDOTHER"), ("AWS_SECRET_ACCESS_KEY", "OTHERSECRET")];
    let by_profile_beside_others = [&by_profile[..], &others].concat();
    let by_configuration = [
        ("AWS_ACCESS_KEY_ID", "AKIDBASE"),
        ("AWS_SECRET_ACCESS_KEY", "BASESECRET"),
        ("AWS_ENDPOINT_URL_STS", &*service),
        ("AWS_REGION", "us-west-2"),
    ];
    let role = format!("{{ role_arn: {ROLE}, external_id: agreed }}");
    let role_by_profile = format!("{{ role_arn: {ROLE}, external_id: agreed, profile: base }}");
    for (sigv4, environment) in [
        ("{ profile: deploy }", &by_profile[..]),
        ("{ profile: deploy }", &by_profile_beside_others),
        (&*role_by_profile, &by_profile_beside_others),
        (&*role, &by_configuration),
    ] {
        let folder = tempfile::tempdir().unwrap();
        let config = folder.path().join("config");
        std::fs::write(&config, profiles).unwrap();
        let config = config.to_str().unwrap();
        let environment: Vec<_> =
            environment.iter().map(|(name, value)| (*name, if *value == "config" { config } else { value })).collect();
        let proxy = Running::start(folder.path(), &fleet, sigv4, &environment);
        assert_eq!(proxy.backend(), "signed", "{sigv4}");
        let seen = peer.next();
        let asked = String::from_utf8(seen.body.clone()).unwrap();
        let signature = seen.field("authorization").unwrap();
        assert!(signature.contains("Credential=AKIDBASE/") && signature.contains("/us-west-2/sts/aws4_request"), "{signature}");
        assert!(
            asked.contains("RoleArn=arn%3Aaws%3Aiam%3A%3A123456789012%3Arole%2Fmodels&") && asked.contains("ExternalId=agreed"),
            "{asked}"
        );
        proxy.stop();
    }
}

#[test]
fn a_profile_without_keys_is_not_replaced_by_the_machines_role() {
    let (fleet, peer, folder) = (Fleet::start(FLEET), Peer::start(metadata), tempfile::tempdir().unwrap());
    let config = folder.path().join("config");
    std::fs::write(&config, "[profile bare]\nregion = us-west-2\n").unwrap();
    let environment = [
        ("AWS_CONFIG_FILE", config.to_str().unwrap()),
        ("AWS_EC2_METADATA_SERVICE_ENDPOINT", &*url(&peer, "")),
        ("AWS_ACCESS_KEY_ID", "AKIDOTHER"),
        ("AWS_SECRET_ACCESS_KEY", "OTHERSECRET"),
    ];
    let proxy = Running::start(folder.path(), &fleet, "{ profile: bare }", &environment);
    assert_eq!(proxy.backend(), "spare");
    let said = proxy.stop();
    assert!(said.iter().any(|line| line.contains("profile `bare` has no AWS keys")), "{said:#?}");
    assert!(!peer.saw_more());
}

#[test]
fn without_keys_another_is_asked_and_it_is_said_why() {
    let (fleet, folder) = (Fleet::start(FLEET), tempfile::tempdir().unwrap());
    let refusing = Peer::start(|_, stream| {
        respond(stream, "403 Forbidden", "content-type: application/json\r\n", br#"{"Code":"No","Message":"not you"}"#);
        Then::Next
    });
    for (environment, why) in [
        (("AWS_EC2_METADATA_DISABLED", "true".to_owned()), "has AWS keys"),
        (("AWS_CONTAINER_CREDENTIALS_FULL_URI", url(&refusing, "/")), "StatusCode(403)"),
        (("AWS_EC2_METADATA_SERVICE_ENDPOINT", format!("http://{}", Peer::nobody())), "AWS keys"),
    ] {
        let proxy = Running::start(folder.path(), &fleet, "{}", &[(environment.0, &environment.1)]);
        assert_eq!(proxy.backend(), "spare", "{environment:?}");
        let said = proxy.stop();
        let failed = said.iter().find(|line| line.contains("a credential cannot be renewed"));
        assert!(failed.is_some_and(|line| line.contains(why)), "{environment:?}: {failed:?}");
    }
}

/// A container's service: how it answers the first time, and how after that.
fn container(first: String, then: (&'static str, String)) -> Peer {
    let asked = AtomicUsize::new(0);
    Peer::start(move |_, stream| {
        let (status, body) = if asked.fetch_add(1, SeqCst) == 0 { ("200 OK", &first) } else { (then.0, &then.1) };
        respond(stream, status, "content-type: application/json\r\n", body.as_bytes());
        Then::Next
    })
}

/// Keys that end so many seconds from now.
fn ending(id: &str, seconds: i64) -> String {
    let end = Timestamp::now().checked_add(SignedDuration::from_secs(seconds)).unwrap();
    KEYS.replace("AKIDMOCK", id).replace("2100-01-01T00:00:00Z", &end.to_string())
}

#[test]
fn keys_that_end_are_used_to_their_end_and_replaced_where_there_are_others() {
    let fleet = Fleet::start(FLEET);
    let start = |peer: &Peer, folder: &Path| {
        let environment = [("AWS_CONTAINER_CREDENTIALS_FULL_URI", &*url(peer, "/role"))];
        Running::start(folder, &fleet, "{}", &environment)
    };
    // Others take the place of those that end. The region knows only the others.
    let (peer, folder) = (container(ending("AKIDOLD", 3), ("200 OK", KEYS.to_owned())), tempfile::tempdir().unwrap());
    let proxy = start(&peer, folder.path());
    assert_eq!(proxy.backend(), "spare");
    // Whoever asks so often has no attempt left for another backend some time.
    patiently("the next keys", || (proxy.ask().field("x-windward-backend") == Some("signed")).then_some(()));
    assert_eq!(proxy.ask().status, 200);
    for _ in 0..2 {
        peer.next();
    }
    proxy.stop();
    assert!(!peer.saw_more(), "keys that last are asked for once");

    // At their end they are not used any more, whoever gives no others.
    // Long enough for a machine that is busy to begin with them.
    let (peer, folder) = (container(ending("AKIDMOCK", 12), ("403 Forbidden", "{}".to_owned())), tempfile::tempdir().unwrap());
    let proxy = start(&peer, folder.path());
    assert_eq!(proxy.backend(), "signed", "until then they are");
    patiently("their end", || (proxy.backend() == "spare").then_some(()));
    let said = proxy.stop();
    assert!(
        !said.iter().any(|line| line.contains("refuses the gateway's own credential")),
        "none that had ended was sent: {said:#?}"
    );

    // Those that have ended already are none.
    let (peer, folder) = (container(ending("AKIDMOCK", -60), ("403 Forbidden", "{}".to_owned())), tempfile::tempdir().unwrap());
    let proxy = start(&peer, folder.path());
    assert_eq!(proxy.backend(), "spare");
    let said = proxy.stop();
    assert!(said.iter().any(|line| line.contains("a credential cannot be renewed")), "{said:#?}");
}

#[test]
fn a_program_that_a_profile_names_gives_keys() {
    let (fleet, folder) = (Fleet::start(FLEET), tempfile::tempdir().unwrap());
    let (config, keys) = (folder.path().join("config"), folder.path().join("keys.json"));
    let written = |id: &str, version: u8| {
        format!(
            r#"{{"Version":{version},"AccessKeyId":"{id}","SecretAccessKey":"hush","SessionToken":"temporary","Expiration":"2100-01-01T00:00:00Z"}}"#
        )
    };
    for (line, text, backend, why) in [
        ("cat KEYS", written("AKIDMOCK", 1), "signed", None),
        ("cat KEYS", written("AKIDMOCK", 2), "spare", Some("of an unknown version")),
        ("cat KEYS", "hush".to_owned(), "spare", Some("wrote no AWS keys")),
        ("sh -c 'exit 3'", String::new(), "spare", Some("it ended with exit status: 3")),
    ] {
        std::fs::write(&keys, text).unwrap();
        let line = line.replace("KEYS", keys.to_str().unwrap());
        std::fs::write(&config, format!("[profile fill]\ncredential_process = {line}\n")).unwrap();
        // Another account's, which a profile that is named outranks.
        let environment = [
            ("AWS_CONFIG_FILE", config.to_str().unwrap()),
            ("AWS_ACCESS_KEY_ID", "AKIDOTHER"),
            ("AWS_SECRET_ACCESS_KEY", "OTHERSECRET"),
        ];
        let proxy = Running::start(folder.path(), &fleet, "{ profile: fill }", &environment);
        assert_eq!(proxy.backend(), backend, "{line}");
        let said = proxy.stop();
        assert_eq!(said.iter().any(|line| line.contains("a credential cannot be renewed")), why.is_some(), "{said:#?}");
        assert!(why.is_none_or(|why| said.iter().any(|line| line.contains(why))), "{said:#?}");
    }

    // And a role is taken on with them: by a profile that has them from another, by the configuration, and by both one after the other.
    let peer = security_token_service();
    std::fs::write(&keys, written("AKIDBASE", 1)).unwrap();
    let profiles = format!(
        "[profile deploy]\nrole_arn = {ROLE}\nrole_session_name = of-the-profile\nsource_profile = fill\n\
         [profile fill]\ncredential_process = cat {}\n",
        keys.display()
    );
    std::fs::write(&config, profiles).unwrap();
    let environment = [("AWS_CONFIG_FILE", config.to_str().unwrap()), ("AWS_ENDPOINT_URL_STS", &*url(&peer, ""))];
    let second = format!("{{ profile: deploy, role_arn: {ROLE}2 }}");
    for (sigv4, roles) in [("{ profile: deploy }", 1), (&*second, 2)] {
        let proxy = Running::start(folder.path(), &fleet, sigv4, &environment);
        assert_eq!(proxy.backend(), "signed", "{sigv4}");
        let seen: Vec<_> = (0..roles).map(|_| peer.next()).collect();
        let by = |seen: &Seen, id: &str| seen.field("authorization").unwrap().contains(&format!("Credential={id}/"));
        let said = |seen: &Seen| String::from_utf8(seen.body.clone()).unwrap();
        assert!(by(&seen[0], "AKIDBASE") && said(&seen[0]).contains("RoleSessionName=of-the-profile"), "{}", said(&seen[0]));
        if let Some(second) = seen.get(1) {
            assert!(by(second, "AKIDMOCK") && said(second).contains("role%2Fmodels2&"), "{}", said(second));
        }
        proxy.stop();
    }
    let peer = security_token_service();
    std::fs::write(&keys, written("AKIDBASE", 1)).unwrap();
    std::fs::write(&config, format!("[default]\ncredential_process = cat {}\n", keys.display())).unwrap();
    let environment = [("AWS_CONFIG_FILE", config.to_str().unwrap()), ("AWS_ENDPOINT_URL_STS", &*url(&peer, ""))];
    let proxy = Running::start(folder.path(), &fleet, &format!("{{ role_arn: {ROLE} }}"), &environment);
    assert_eq!(proxy.backend(), "signed");
    assert!(peer.next().field("authorization").unwrap().contains("Credential=AKIDBASE/"));
    proxy.stop();
}

//! Configuration as a person meets it: the shipped files load, and what is wrong is said well.

use std::collections::BTreeSet;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use proptest::prelude::*;
use windward::config::{self, ConfigErrors, Env, Files, Loaded, SourcePlan};

/// The files of a machine on which everything that the examples name is there.
struct Shelf;

fn certificate() -> &'static (String, String) {
    static CERTIFICATE: OnceLock<(String, String)> = OnceLock::new();
    CERTIFICATE.get_or_init(|| {
        let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
        (made.cert.pem(), made.signing_key.serialize_pem())
    })
}

const CREDENTIALS: &str = "[default]\naws_access_key_id = AKID\naws_secret_access_key = secret\naws_session_token = token\n\
    [half]\naws_access_key_id = AKID\n";

impl Files for Shelf {
    fn read(&self, path: &Path) -> io::Result<Vec<u8>> {
        match path.file_name().and_then(|name| name.to_str()) {
            Some("cert.pem" | "ca.pem") => Ok(certificate().0.clone().into_bytes()),
            Some("key.pem") => Ok(certificate().1.clone().into_bytes()),
            Some("other.pem") => Ok(rcgen::KeyPair::generate().unwrap().serialize_pem().into_bytes()),
            Some("bedrock" | "electricity-maps" | "blue") => Ok(b"sk-from-a-file\n".to_vec()),
            Some("aws") => Ok(CREDENTIALS.as_bytes().to_vec()),
            Some("empty") => Ok(b"\n".to_vec()),
            Some("binary") => Ok(vec![0xff, 0xfe]),
            Some("control") => Ok(b"sk-\x07-hidden".to_vec()),
            _ => Err(io::ErrorKind::NotFound.into()),
        }
    }
}

const VARIABLES: [&str; 12] = [
    "AWS_ACCESS_KEY_ID",
    "AWS_SECRET_ACCESS_KEY",
    "BEDROCK_KEY",
    "OWN_KEY",
    "AWS_BEARER_TOKEN_BEDROCK",
    "ELECTRICITY_MAPS_TOKEN",
    "AZURE_SWEDEN_KEY",
    "AZURE_FRANCE_KEY",
    "VLLM_KEY",
    "OPENAI_US_KEY",
    "OPENAI_EU_KEY",
    "ANTHROPIC_API_KEY",
];

fn env() -> Env {
    VARIABLES.iter().map(|name| ((*name).to_owned(), "sk-from-a-variable".to_owned())).collect()
}

fn load(name: &str, text: &str) -> Result<Loaded, ConfigErrors> {
    config::load(name, text, &env(), &Shelf)
}

fn shipped(name: &str) -> String {
    std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("config").join(name)).unwrap()
}

fn cases(kind: &str) -> Vec<PathBuf> {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/cases/config").join(kind);
    let mut cases: Vec<PathBuf> = std::fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path()).collect();
    cases.retain(|path| path.extension().is_some_and(|extension| extension == "yaml"));
    cases.sort();
    cases
}

/// Compares with the file of the same name that ends in `.snap`; `WINDWARD_BLESS=1` writes it instead.
fn golden(case: &Path, seen: &str) -> Result<(), String> {
    let snap = case.with_extension("snap");
    if std::env::var_os("WINDWARD_BLESS").is_some() {
        std::fs::write(&snap, seen).unwrap();
    }
    let expected = std::fs::read_to_string(&snap).unwrap_or_default();
    if expected == seen { Ok(()) } else { Err(format!("{}:\n--- expected\n{expected}\n--- seen\n{seen}", snap.display())) }
}

#[test]
fn shipped_files_load_without_a_warning() {
    for name in [
        "windward.yaml",
        "minimal.yaml",
        "bedrock.yaml",
        "anthropic.yaml",
        "vertex.yaml",
        "azure.yaml",
        "vllm.yaml",
        "openai.yaml",
    ] {
        let loaded = load(name, &shipped(name)).unwrap_or_else(|errors| panic!("{errors}"));
        assert_eq!(loaded.warnings, [], "{}", loaded.warnings[0]);
    }
}

#[test]
fn the_minimal_file_is_minimal() {
    assert!(shipped("minimal.yaml").lines().count() < 20);
    let plan = load("minimal.yaml", &shipped("minimal.yaml")).unwrap().plan;
    assert_eq!((plan.backends.len(), plan.routes.len(), plan.zones.len()), (2, 1, 2));
    assert!(plan.carbon.yearly.iter().all(Option::is_some), "the shipped figures know both grids");
    assert_eq!(plan.boot.listeners[0].address.to_string(), "127.0.0.1:8080");
    let candidates = plan.routes[0].candidates("gpt-oss-120b");
    assert_eq!(candidates.len(), 2);
    assert_eq!(candidates[0].upstream_model_json.as_deref(), Some(&b"\"openai.gpt-oss-120b-1:0\""[..]));
    assert!(plan.routes[0].candidates("another").is_empty());
}

#[test]
fn the_reference_names_every_key() {
    let schema: serde_json::Value = serde_json::from_str(&config::schema()).unwrap();
    let mut keys = BTreeSet::new();
    properties(&schema, &mut keys);
    assert!(keys.len() > 80, "{keys:?}");
    let text = shipped("windward.yaml");
    for key in keys {
        assert!(text.contains(&format!("{key}:")), "`{key}` is not in config/windward.yaml");
    }
}

/// Where a key comes first it is explained, on its line or in the lines above it.
#[test]
fn the_examples_explain_every_key() {
    let schema: serde_json::Value = serde_json::from_str(&config::schema()).unwrap();
    let mut keys = BTreeSet::new();
    properties(&schema, &mut keys);
    for name in ["bedrock.yaml", "azure.yaml", "anthropic.yaml", "vertex.yaml", "vllm.yaml"] {
        let (text, mut explained, mut above) = (shipped(name), BTreeSet::new(), false);
        for line in text.lines().map(str::trim) {
            let key = line.strip_prefix("- ").unwrap_or(line).split_once(':').map(|(key, _)| key);
            if let Some(key) = key.filter(|key| keys.contains(*key) && explained.insert(key.to_owned())) {
                assert!(above || line.contains(" # "), "{name} says nothing of `{key}`: {line}");
            }
            above = line.starts_with('#');
        }
        assert!(explained.len() >= 15, "{name}: {explained:?}");
    }
}

fn properties(schema: &serde_json::Value, keys: &mut BTreeSet<String>) {
    match schema {
        serde_json::Value::Object(map) => {
            for (key, value) in map {
                if key == "properties" {
                    keys.extend(value.as_object().unwrap().keys().cloned());
                }
                properties(value, keys);
            }
        }
        serde_json::Value::Array(items) => items.iter().for_each(|item| properties(item, keys)),
        _ => {}
    }
}

#[test]
fn the_shipped_schema_is_this_version_s() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("config/windward.schema.json");
    if std::env::var_os("WINDWARD_BLESS").is_some() {
        std::fs::write(&path, config::schema()).unwrap();
    }
    let shipped = std::fs::read_to_string(path).unwrap();
    assert!(shipped == config::schema(), "config/windward.schema.json is not what `windward schema` prints");
}

#[test]
fn good_files_mean_what_they_say() {
    let wrong: Vec<String> = cases("ok")
        .iter()
        .filter_map(|case| {
            let name = case.file_name().unwrap().to_str().unwrap();
            let loaded = load(name, &std::fs::read_to_string(case).unwrap()).unwrap_or_else(|errors| panic!("{errors}"));
            let warnings: Vec<String> = loaded.warnings.iter().map(ToString::to_string).collect();
            let warnings = warnings.join("\n");
            golden(case, &format!("{}\n{warnings}", summary(&loaded))).err()
        })
        .collect();
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert!(cases("ok").len() >= 3);
}

/// What a plan decides, a line for each thing. Certificates are made for each run, so only their number is told.
fn summary(loaded: &Loaded) -> String {
    let plan = &loaded.plan;
    let mut out = format!("boot: {:?}\nlimits: {:?}\ncarbon: {:?}\n", plan.boot, plan.limits, plan.carbon);
    put(&mut out, format_args!("zones: {:?}\n", plan.zones));
    for backend in &plan.backends {
        let mut shown = (**backend).clone();
        let certificates = shown.origin.ca.take().map(|certificates| certificates.len());
        put(&mut out, format_args!("\n{shown:?}\n  certificates: {certificates:?}\n"));
        put(&mut out, format_args!("  models: {:?}\n", plan.models[backend.id.index()]));
    }
    for route in &plan.routes {
        let (name, prefix) = (&route.name, &route.prefix);
        put(
            &mut out,
            format_args!("\nroute {name} {prefix:?} {:?} home {:?}\n  {:?}\n", route.headers, route.home, route.policy),
        );
        let mut models: Vec<_> = route.models.iter().map(|(name, candidates)| (&**name, candidates)).collect();
        models.sort_by_key(|(name, _)| *name);
        models.push(("(any other)", &route.any_model));
        for (name, candidates) in models {
            for candidate in candidates.iter() {
                let energy = candidate.coefficients.as_ref().map(|coefficients| &coefficients.id);
                let upstream = &candidate.upstream_model_json;
                let (backend, weight) = (candidate.backend, candidate.weight);
                put(&mut out, format_args!("  {name}: {backend:?} as {} {upstream:?} {energy:?} {weight}", candidate.model));
                if let Some(segment) = &candidate.upstream_segment {
                    put(&mut out, format_args!(" {segment}"));
                }
                if let Some(path) = &candidate.base_path {
                    put(&mut out, format_args!(" below {path}"));
                }
                if candidate.translated {
                    out.push_str(" translated");
                }
                out.push('\n');
            }
        }
    }
    if !plan.keys.is_empty() {
        out.push('\n');
    }
    for key in plan.keys.iter() {
        put(&mut out, format_args!("{key:?}\n"));
    }
    for list in &plan.model_lists {
        put(&mut out, format_args!("\n{}\n", std::str::from_utf8(list).unwrap()));
    }
    out
}

fn put(out: &mut String, text: std::fmt::Arguments<'_>) {
    std::fmt::Write::write_fmt(out, text).unwrap();
}

#[test]
fn a_deployment_says_where_its_model_is_among_the_names_of_its_backend() {
    let backend = |name, models| format!("  - {{ name: {name}, url: 'http://127.0.0.1:1/v1', grid_zone: FR{models} }}\n");
    let backends = backend("a", ", models: [n, o, m]") + &backend("b", ", models: { o: x, n: y }") + &backend("c", "");
    let text = format!("routes: [{{ name: r, backends: [a, b, c] }}]\nbackends:\n{backends}");
    let plan = load("places.yaml", &text).unwrap().plan;
    let places = |model: &str| plan.routes[0].candidates(model).iter().map(|it| (it.backend.0, it.place)).collect::<Vec<_>>();
    assert_eq!(["m", "n", "o"].map(places), [vec![(0, 0), (2, 0)], vec![(0, 1), (1, 0), (2, 0)], vec![(0, 2), (1, 1), (2, 0)]]);
}

#[test]
fn bad_files_are_explained() {
    let mut wrong = Vec::new();
    for case in cases("bad") {
        let name = case.file_name().unwrap().to_str().unwrap();
        let Err(errors) = load(name, &std::fs::read_to_string(&case).unwrap()) else {
            wrong.push(format!("{name}: was taken"));
            continue;
        };
        wrong.extend(golden(&case, &errors.to_string()).err());
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert!(cases("bad").len() >= 20);
}

#[test]
fn every_problem_is_told_at_once() {
    let text = "\
workers: lots
listenrs: []
limits: { body: 12, idle: 1 parsec }
backends:
  - name: a
    url: ftp://x
    region: aws/us-wset-2
  - name: a
    url: https://x
    pue: .nan
routes:
  - name: r
    backends: [b]
    policy: fats
";
    let errors = load("x.yaml", text).unwrap_err();
    let lines: Vec<u32> = errors.problems.iter().map(|problem| problem.line).collect();
    assert_eq!(lines, [1, 2, 3, 3, 6, 7, 8, 10, 13, 14], "{errors}");
    assert!(errors.problems.iter().all(|problem| problem.column > 0));
    assert_eq!(errors.problems[4].field, "backends[0].url");
}

#[test]
fn no_secret_is_ever_shown() {
    let text = "\
carbon: { sources: [electricity_maps: { token: [sk-hidden] }] }
backends:
  - { name: a, url: 'https://me:sk-hidden@host', auth: { bearer: sk-hidden, oops: 1 } }
  - name: b
    url: https://sk-hidden@host/
    auth:
      header:
        name: x
        value:
          - sk-hidden
  - name: c
    url: https://host
    auth: sk-hidden
  - name: d
    url: https://host
    dialect: ${BEDROCK_KEY}
    region: ${BEDROCK_KEY}
    auth: { bearer: { file: control } }
";
    let shown = load("x.yaml", text).unwrap_err().to_string();
    assert!(!shown.contains("hidden"), "{shown}");
    assert!(!shown.contains("sk-from-a-variable"), "{shown}");
    let plan = load("windward.yaml", &shipped("windward.yaml")).unwrap();
    assert!(!format!("{plan:?}").contains("sk-from"));
}

#[test]
fn paths_go_from_the_file_s_directory() {
    let plan = load("/etc/windward/windward.yaml", &shipped("windward.yaml")).unwrap().plan;
    assert_eq!(plan.boot.access_log, config::LogTarget::File("/etc/windward/access.jsonl".into()));
    assert!(
        plan.carbon
            .sources
            .iter()
            .any(|source| matches!(source, SourcePlan::File { path, .. } if path == Path::new("/etc/windward/grid.csv")))
    );
}

#[test]
fn what_needs_a_restart_is_named() {
    let with = |head: &str| load("x.yaml", &format!("{head}\n{}", shipped("minimal.yaml"))).unwrap().plan.boot;
    let old = with("workers: 2");
    assert_eq!(config::boot_changes(&old, &old), [""; 0]);
    let new = with("workers: 3\nlog: { access: 'off' }\nadmin: { address: 127.0.0.1:1 }\nlimits: { drain_delay: 1s }");
    assert_eq!(config::boot_changes(&old, &new), ["admin.address", "workers", "log.access", "limits.drain_delay"]);
}

#[test]
fn a_long_file_is_refused() {
    let errors = load("x.yaml", &"#".repeat(config::MAX_FILE + 1)).unwrap_err();
    let said = errors.to_string();
    assert!(said.starts_with("error: a configuration has at most 1 MiB\n --> x.yaml\n  = help: leave out "), "{said}");
}

/// Loads and shows whatever comes of it; there is always something to show or a plan.
fn shown(text: &str) {
    match load("x.yaml", text) {
        Ok(loaded) => loaded.warnings.iter().for_each(|warning| assert!(!warning.to_string().is_empty())),
        Err(errors) => assert!(!errors.problems.is_empty() && !errors.to_string().contains('\x1b')),
    }
}

/// A file in which secrets stand written out, with one slip somewhere.
fn slip_beside_secrets() -> impl Strategy<Value = String> {
    let text = "\
carbon:
  sources:
    - electricity_maps: { token: sk-hidden, interval: 5m }
backends:
  - { name: a, url: https://a.example, region: aws/us-west-2, auth: { bearer: sk-hidden } }
  - name: b
    url: https://b.example
    region: aws/eu-north-1
    auth:
      header:
        name: api-key
        value: sk-hidden
  - name: c
    url: https://c.example
    region: aws/eu-north-1
    auth: { sigv4: { access_key_id: AKID, secret_access_key: sk-hidden, session_token: sk-hidden } }
  - name: d
    url: https://d.example
    region: aws/eu-north-1
    auth:
      sigv4:
        access_key_id: AKID
        secret_access_key: sk-hidden
        session_token: sk-hidden
keys:
  - name: blue
    secret: sk-hidden
  - { name: red, secret: sk-hidden, routes: [default] }
peers: { listen: \"10.0.0.5:7946\", others: [10.0.0.6:7946, 10.0.0.7:7946], secret: sk-hidden-sk-hidden, fast: 20ms }
";
    (0..text.len(), 0_usize..3, "[\\[\\]{}:,&*'\"x ]{0,2}").prop_map(move |(at, removed, put)| {
        let mut text = text.to_owned();
        text.replace_range(at..(at + removed).min(text.len()), &put);
        text
    })
}

fn mutated() -> impl Strategy<Value = String> {
    let edit = (0_usize..8000, 0_usize..40, "[\\[\\]{}:,&*!|>'\"%@`#\\-? \n\ta-z0-9é$.]{0,6}");
    (prop::sample::select(vec!["windward.yaml", "vllm.yaml", "bedrock.yaml"]), prop::collection::vec(edit, 1..4)).prop_map(
        |(name, edits)| {
            let mut text: Vec<char> = shipped(name).chars().collect();
            for (at, removed, put) in edits {
                let at = at % text.len();
                let end = (at + removed).min(text.len());
                text.splice(at..end, put.chars());
            }
            text.into_iter().collect()
        },
    )
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn loading_is_total(text in "\\PC{0,200}") {
        shown(&text);
    }

    #[test]
    fn loading_is_total_near_a_real_file(text in mutated()) {
        shown(&text);
    }

    #[test]
    fn a_slip_beside_a_secret_does_not_show_it(text in slip_beside_secrets()) {
        if let Err(errors) = load("x.yaml", &text) {
            prop_assert!(!errors.to_string().contains("hidden"), "{}\n{}", text, errors);
        }
    }
}

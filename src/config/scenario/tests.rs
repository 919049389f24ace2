use std::collections::HashMap;
use std::time::Duration;

use super::*;
use crate::fleet::TokenCurve;

const LEAST: &str = "\
regions:
  - { name: here, grid_zone: DE, rtt: 5ms, replicas: 4, resident: true }
  - { name: there, grid_zone: FR, rtt: 14ms, replicas: 2, token_curve: steep, max_in_flight: 100 }
classes:
  - { name: chat, share: 3, first_token: 300ms, per_prompt_token: 100us, per_output_token: 35ms }
  - { name: batch, share: 1, first_token: 5s, per_output_token: 80ms, policy: { on_no_candidate: reject } }
policies:
  - { name: green, objective: least_carbon, latency_budget: { quantile: 0.99 }, attempts: { retry_unsafe: true } }
";

/// Files by name.
#[derive(Default)]
struct Shelf(HashMap<&'static str, String>);

impl Files for Shelf {
    fn read(&self, path: &Path) -> std::io::Result<Vec<u8>> {
        let found = path.to_str().and_then(|name| self.0.get(name)).map(|text| text.clone().into_bytes());
        found.ok_or_else(|| std::io::ErrorKind::NotFound.into())
    }
}

fn read(text: &str) -> Result<Scenario, String> {
    load("s.yaml", text, &Env::default(), &Shelf::default()).map_err(|errors| errors.to_string())
}

fn error(text: &str) -> String {
    read(text).err().unwrap_or_else(|| panic!("was taken: {text}"))
}

#[test]
fn a_scenario_says_what_it_means() {
    let scenario = read(LEAST).unwrap();
    let [here, there] = &scenario.regions[..] else { panic!("{:?}", scenario.regions) };
    assert!(here.resident && !there.resident);
    assert_eq!((here.declared, there.declared), (256, 100));
    assert_eq!(there.spec.token_curve, TokenCurve::Steep);
    assert_eq!(scenario.classes.iter().map(|class| class.share).collect::<Vec<_>>(), [0.75, 0.25]);
    assert_eq!(scenario.classes[1].policy["on_no_candidate"], "reject");
    assert_eq!(scenario.policies[0].settings["latency_budget"]["quantile"], 0.99);
    assert!(!scenario.policies[0].settings.contains_key("name"));
    assert_eq!(scenario.duration(), Duration::from_hours(2), "48 hours of 150 s");
}

#[test]
fn a_problem_has_its_place_and_a_mend() {
    let with = |line: &str| format!("{LEAST}{line}\n");
    for (text, said) in [
        (LEAST.replace("rtt: 5ms", "rtt: 5"), "write `5s`, if that is what it means"),
        (LEAST.replace("token_curve", "tokencurve"), "did you mean `token_curve`?"),
        (LEAST.replace("steep", "stepe"), "did you mean `steep`?"),
        (LEAST.replace("least_carbon", "least_carbn"), "did you mean `least_carbon`?"),
        (LEAST.replace("quantile", "quantil"), "did you mean `quantile`?"),
        (LEAST.replace("replicas: 4", "replicas: 0"), "from 1 to 1000"),
        (LEAST.replace("name: there", "name: here"), "a second region of that name"),
        (LEAST.replace("name: green, ", ""), "the key `name` is missing here"),
        (with("events: [{ at: 1s, region: hree }]"), "did you mean `here`?"),
        (LEAST.replace("name: green, ", "name: green, ablate: [no_prise], "), "did you mean `no_price`?"),
        (LEAST.replace("35ms", "35ms, policy: { ablate: [no_price] }"), "only a policy that is compared"),
        (with("noise: { rtt: 3 }"), "from 0 to 2"),
        (
            LEAST.replace("replicas: 4", "replicas: 4, price_usd_per_million_tokens: { input: -1, output: 2 }"),
            "from 0 to 1000000",
        ),
        (with("from: yesterday"), "expected a moment"),
        (with("hours: 0"), "from 0.01 to 8760"),
        ("classes: []".to_owned(), "this list is empty"),
        (LEAST.replace("policies", "polices"), "did you mean `policies`?"),
        ("hours: 1".to_owned(), "the key `regions` is missing, here and in what this extends"),
    ] {
        let found = error(&text);
        assert!(found.contains(said) && found.contains("s.yaml"), "{found}");
    }
    let two = error(&LEAST.replace("rtt: 5ms", "rtt: 5").replace("35ms", "35"));
    assert_eq!(two.matches("error:").count(), 2, "all at once: {two}");
    let one = error(&with("events: [{ at: 1s, region: here }]").replace("rtt: 5ms", "rtt: 5"));
    assert_eq!(one.matches("error:").count(), 1, "an event of a region that has a mistake is none: {one}");
}

#[test]
fn a_file_stands_on_the_one_it_extends() {
    let shelf = Shelf(HashMap::from([
        ("dir/../base.yaml", format!("{LEAST}traffic: {{ per_second: 9, wave: 0.1 }}\nhours: 5\n")),
        ("dir/wrong.yaml", LEAST.replace("rtt: 5ms", "rtt: 5")),
        ("dir/circle.yaml", "extends: circle.yaml".to_owned()),
        ("dir/event.yaml", format!("{LEAST}events:\n  - {{ at: 1s, region: there }}\n")),
    ]));
    let load = |text: &str| load("dir/s.yaml", text, &Env::default(), &shelf).map_err(|errors| errors.to_string());
    let scenario = load("extends: ../base.yaml\ntraffic: { per_second: 12 }\n").unwrap();
    assert_eq!((scenario.traffic.per_second, scenario.traffic.wave, scenario.hours), (12.0, 0.1, 5.0));
    let found = load("extends: wrong.yaml").unwrap_err();
    assert!(found.contains("dir/wrong.yaml:2:"), "{found}");
    let fewer = "extends: event.yaml\nregions:\n  - { name: here, grid_zone: DE, rtt: 5ms, replicas: 4 }\n";
    let found = load(fewer).unwrap_err();
    for part in ["dir/s.yaml:3:", "an event in line 10 of dir/event.yaml is about region `there`", "regions[0].name", "= help: "]
    {
        assert!(found.contains(part), "{part}: {found}");
    }
    assert!(load(&format!("{fewer}events: []\n")).unwrap().events.is_empty());
    assert!(load("extends: circle.yaml").unwrap_err().contains("in a circle"));
    assert!(load("extends: nowhere.yaml").unwrap_err().contains("cannot be read"));
}

#[test]
fn without_data_there_is_none() {
    let with = |value: &str| {
        let env = Env::from_iter([("DATA".to_owned(), value.to_owned())]);
        load("s.yaml", &format!("{LEAST}data: ${{DATA:-}}\n"), &env, &Shelf::default()).unwrap().data.map(|said| said.value)
    };
    assert_eq!(with(""), None);
    assert_eq!(with("/data"), Some(PathBuf::from("/data")));
}

proptest::proptest! {
    #[test]
    fn no_text_makes_it_panic(text in "(regions|classes|events|policies|name|rtt|extends|at|[-:\\[\\]{}, \n a-z0-9./&*])*") {
        let _ = read(&text);
        let _ = read(&format!("{LEAST}{text}"));
    }
}

//! Configurations that are larger than they look: each is refused, in little memory and with few steps, and says what to do about it.

use std::fmt::Write as _;
use std::io;
use std::path::Path;

use windward::config::{self, Env, Files, MAX_FILE};

/// More than this is never held at one moment: sixty times the longest file.
const MOST_BYTES: u64 = 64 << 20;
/// Allocations, which is what reading is made of: a hundred for each value that a file may have.
const MOST_STEPS: u64 = 10_000_000;
/// The longest text that a person, or a log, is given: a hundred problems, none of them long.
const MOST_SAID: usize = 128 << 10;
const BACKENDS: &str = "backends:\n- { name: a, url: 'http://127.0.0.1:1', region: aws/eu-north-1 }\n";

struct Nothing;

impl Files for Nothing {
    fn read(&self, _: &Path) -> io::Result<Vec<u8>> {
        Err(io::ErrorKind::NotFound.into())
    }
}

/// `line` for every number, as far as a file may go.
fn lines(count: usize, line: impl Fn(usize) -> String) -> String {
    let mut text = String::new();
    for nth in 0..count {
        let line = line(nth);
        if text.len() + line.len() + BACKENDS.len() > MAX_FILE {
            break;
        }
        text.push_str(&line);
    }
    text
}

fn billion_laughs() -> String {
    let mut text = String::from("a0: &a0 [x, x, x, x, x, x, x, x, x]\n");
    for nth in 1..12 {
        let list = vec![format!("*a{}", nth - 1); 9].join(", ");
        let _ = writeln!(text, "a{nth}: &a{nth} [{list}]");
    }
    text
}

/// What is wrong with each, in the words that say how to mend it.
fn bombs() -> Vec<(&'static str, String, &'static str)> {
    let aliases = "write out what aliases";
    let nesting = "take out some of the nesting";
    let values = "leave out what is not needed";
    let many_keys = (0..9000).map(|nth| format!("k{nth}: 1")).collect::<Vec<_>>().join(", ");
    let name = "x".repeat(MAX_FILE - 200);
    let patterns = vec![format!("'{}b'", "*a".repeat(500)); 900].join(", ");
    vec![
        ("aliases of aliases", billion_laughs(), aliases),
        (
            "one alias often",
            lines(900, |nth| if nth == 0 { "a: &a x\n".into() } else { format!("k{nth}: [{}]\n", ["*a"; 20].join(",")) }),
            aliases,
        ),
        ("much text often", format!("a: &a '{}'\nb: [{}]\n", "x".repeat(900_000), ["*a"; 900].join(", ")), "shorten it"),
        ("merged often", format!("a: &a {{{many_keys}}}\nb: [{}]\n", ["{<<: *a}"; 900].join(", ")), aliases),
        ("anchors", lines(80_000, |nth| format!("- &a{nth} x\n")), aliases),
        ("lists in lists", "[".repeat(100_000), nesting),
        ("items of items", "- ".repeat(100_000), nesting),
        ("deeper and deeper", (0..1000).fold(String::new(), |text, nth| text + &" ".repeat(nth) + "a:\n"), nesting),
        ("a million keys", "k: 1\n".repeat(1_000_000), values),
        ("keys", lines(100_000, |nth| format!("k{nth}:\n")), values),
        ("one key again and again", lines(100_000, |_| "k:\n".into()), values),
        ("unknown keys", BACKENDS.to_owned() + &lines(40_000, |nth| format!("k{nth}: 1\n")), "there is `listeners`"),
        ("backends", "backends:\n".to_owned() + &lines(100_000, |nth| format!("- {{ name: b{nth} }}\n")), values),
        ("a long name", format!("backends:\n- {{ name: {name}, url: 'http://127.0.0.1:1' }}\n"), "letters"),
        ("a long number", format!("{BACKENDS}limits: {{ head: {} }}\n", "9".repeat(900_000)), "write"),
        (
            "a long text",
            format!("{BACKENDS}limits:\n  head: |\n{}", lines(15_000, |_| format!("    {}\n", "x".repeat(60)))),
            "write",
        ),
        ("patterns", format!("{}, models: [{patterns}] }}\n", BACKENDS.trim_end().trim_end_matches(" }")), "1 to 256 bytes"),
        ("variables", format!("{BACKENDS}limits: {{ head: '{}' }}\n", "${A:-".repeat(150_000)), "write"),
        ("a hundred megabytes", "# ".to_owned() + &"é".repeat(50 << 20), "leave out what is not needed"),
    ]
}

#[test]
fn what_is_too_much_is_refused_in_little_memory_and_says_how_to_mend_it() {
    let mut wrong = Vec::new();
    for (what, text, mend) in bombs() {
        let mut loaded = None;
        let used = allocation_counter::measure(|| loaded = Some(config::load("bomb.yaml", &text, &Env::default(), &Nothing)));
        let Some(Err(errors)) = loaded else {
            wrong.push(format!("{what}: it is taken"));
            continue;
        };
        let said = errors.to_string();
        if used.bytes_max > MOST_BYTES || used.count_total > MOST_STEPS || said.len() > MOST_SAID {
            wrong.push(format!("{what}: {} bytes, {} steps, {} said", used.bytes_max, used.count_total, said.len()));
        }
        if !errors.problems.iter().any(|problem| problem.mend.as_ref().is_some_and(|help| help.contains(mend))) {
            wrong.push(format!("{what}: no `{mend}` in\n{}", said.chars().take(600).collect::<String>()));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

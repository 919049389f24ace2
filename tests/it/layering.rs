//! The map of `src/lib.rs` is held to: its table of layers is read and compared with what the sources import.
//!
//! The document is the test's data, so neither can become wrong alone. One crate with a test was preferred to a crate for each
//! layer: a border is moved here by editing one line of a table, and the reader of the library sees it.

mod source;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use source::{Shipped, TestModule, Token, imports, tokens};

/// What may lie at the top of the repository, besides dotfiles and what a build leaves there.
const TOP_LEVEL: [&str; 10] =
    ["Cargo.lock", "Cargo.toml", "LICENSE", "README.md", "benches", "config", "examples", "src", "target", "tests"];

/// Longest file, in lines: what can be read in one sitting. Tests are read too.
const MAX_LINES: usize = 500;

/// The last layer that is pure.
const PURE: usize = 2;

/// What a pure module does not name: sockets and files, locks and threads, a clock, an unseeded source of chance, the environment.
const IMPURE: [&[&str]; 22] = [
    &["tokio"],
    &["tokio_util"],
    &["hyper"],
    &["hyper_util"],
    &["tower"],
    &["socket2"],
    &["notify"],
    &["arc_swap"],
    &["fs"],
    &["TcpListener"],
    &["TcpStream"],
    &["UdpSocket"],
    &["Mutex"],
    &["RwLock"],
    &["Condvar"],
    &["thread", "::", "spawn"],
    &["process", "::", "Command"],
    &["Instant", "::", "now"],
    &["SystemTime", "::", "now"],
    &["Timestamp", "::", "now"],
    &["Rng", "::", "new"],
    &["env", "::", "var"],
];

/// The one pure module that is there to read the clock, the runtime's included.
const CLOCK: &str = "clock";

/// The reader of YAML, and the only module that reads any: what it makes of a text is decided in one place.
const YAML: (&str, &str) = ("serde_saphyr", "config");

/// The table of layers.
struct Map {
    /// Each module's layer, and its place in the layer's list.
    modules: BTreeMap<String, (usize, usize)>,
    /// The layers that each layer may import.
    allowed: BTreeMap<usize, BTreeSet<usize>>,
}

impl Map {
    /// Reads it out of the crate's documentation: rows `| layer | modules | may import |`.
    fn read(lib: &str) -> Self {
        let mut map = Self { modules: BTreeMap::new(), allowed: BTreeMap::new() };
        for row in lib.lines().filter_map(|line| line.strip_prefix("//! |")) {
            let cells: Vec<&str> = row.trim_end_matches('|').split('|').map(str::trim).collect();
            let [layer, modules, may_import] = cells[..] else { continue };
            let Ok(layer) = layer.parse::<usize>() else { continue };
            for (place, module) in modules.split(',').map(str::trim).enumerate() {
                let former = map.modules.insert(module.to_owned(), (layer, place));
                assert!(former.is_none(), "`{module}` stands twice in the table");
            }
            map.allowed.insert(layer, may_import.split(',').filter_map(|layer| layer.trim().parse().ok()).collect());
        }
        map
    }

    /// Why `from` must not import `to`, if it must not.
    fn objection(&self, from: &str, to: &str) -> Option<String> {
        let (Some(&(above, place)), Some(&(below, other_place))) = (self.modules.get(from), self.modules.get(to)) else {
            return (from != to).then(|| format!("`{to}` is in no layer"));
        };
        let allowed = self.allowed.get(&above).is_some_and(|layers| layers.contains(&below));
        if from == to || (allowed && (above != 1 || below != 1 || other_place < place)) {
            None
        } else if allowed {
            Some(format!("`{to}` does not stand before `{from}` in layer 1"))
        } else {
            Some(format!("layer {above} may not import `{to}` of layer {below}"))
        }
    }

    /// Everything in a module's file that the map forbids, with the lines.
    fn violations(&self, module: &str, depth: usize, code: &str) -> Vec<String> {
        let tokens = tokens(code);
        let names = imports(&tokens, depth);
        // Names such as `crate::Error`, of the crate's root, would be no modules; there are none.
        let mut found: Vec<String> = names
            .iter()
            .filter_map(|name| self.objection(module, name.text).map(|why| format!("{}: {why}", name.line)))
            .collect();
        let pure = self.modules.get(module).is_some_and(|(layer, _)| *layer <= PURE) && module != CLOCK;
        if pure {
            for pattern in IMPURE {
                let lines = occurrences(&tokens, pattern);
                found.extend(lines.iter().map(|line| format!("{line}: a pure module names `{}`", pattern.concat())));
            }
        }
        if module != YAML.1 {
            let lines = occurrences(&tokens, &[YAML.0]);
            found.extend(lines.iter().map(|line| format!("{line}: only `{}` reads YAML", YAML.1)));
        }
        found
    }
}

fn occurrences(tokens: &[Token<'_>], pattern: &[&str]) -> Vec<usize> {
    let same = |window: &&[Token<'_>]| window.iter().zip(pattern).all(|(token, text)| token.text == *text);
    tokens.windows(pattern.len()).filter(same).map(|window| window[0].line).collect()
}

/// A file of the library.
struct File {
    /// Below `src`.
    path: PathBuf,
    /// The module of the first level that it belongs to.
    module: String,
    /// How deep its own module lies; 0 for the crate's root.
    depth: usize,
    text: String,
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// Every Rust file below a folder, by path, with its text. What a build leaves there is no source.
fn rust_files(below: &Path) -> Vec<(PathBuf, String)> {
    let mut found = Vec::new();
    let mut folders = vec![below.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.extend((path.file_name() != Some("target".as_ref())).then_some(path));
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                let text = fs::read_to_string(&path).unwrap();
                found.push((path, text));
            }
        }
    }
    found.sort();
    found
}

/// Every file of the library.
fn files() -> Vec<File> {
    let src = root().join("src");
    rust_files(&src).into_iter().map(|(path, text)| File::new(path.strip_prefix(&src).unwrap(), text)).collect()
}

impl File {
    fn new(path: &Path, text: String) -> Self {
        let mut names: Vec<String> = path.with_extension("").iter().map(|part| part.to_string_lossy().into_owned()).collect();
        names.pop_if(|last| matches!(last.as_str(), "mod" | "lib" | "main"));
        Self { path: path.to_owned(), module: names.first().cloned().unwrap_or_default(), depth: names.len(), text }
    }

    /// This file and those of the modules that it lies within: what belongs to a module of tests is a test.
    fn homes(&self) -> impl Iterator<Item = PathBuf> {
        let folders = self.path.ancestors().skip(1).filter(|folder| !folder.as_os_str().is_empty());
        let around = folders.flat_map(|folder| [folder.with_extension("rs"), folder.join("mod.rs")]);
        std::iter::once(self.path.clone()).chain(around)
    }

    /// The file, below `src`, of a module declared here.
    fn of_module(&self, module: &TestModule) -> [PathBuf; 2] {
        let folder = self.path.parent().unwrap();
        let own = match self.path.file_stem().and_then(|stem| stem.to_str()) {
            Some("mod" | "lib" | "main") | None => folder.to_owned(),
            Some(stem) => folder.join(stem),
        };
        match module {
            TestModule::At(path) => [folder.join(path), folder.join(path)],
            TestModule::Named(name) => [own.join(format!("{name}.rs")), own.join(name).join("mod.rs")],
        }
    }
}

/// The files whose code is shipped, and that code.
fn shipped() -> Vec<(File, String)> {
    let taken_apart: Vec<(File, Shipped)> =
        files().into_iter().map(|file| (Shipped::new(&file.text), file)).map(|(s, f)| (f, s)).collect();
    let tests: BTreeSet<PathBuf> = taken_apart
        .iter()
        .flat_map(|(file, shipped)| shipped.test_modules.iter().flat_map(|module| file.of_module(module)))
        .collect();
    let is_test = |file: &File| file.homes().any(|home| tests.contains(&home));
    taken_apart.into_iter().filter(|(file, _)| !is_test(file)).map(|(file, shipped)| (file, shipped.code)).collect()
}

fn map() -> Map {
    Map::read(&fs::read_to_string(root().join("src/lib.rs")).unwrap())
}

#[test]
fn imports_go_only_where_the_map_allows() {
    let map = map();
    let mut found = Vec::new();
    for (file, code) in shipped().iter().filter(|(file, _)| file.depth > 0) {
        let violations = map.violations(&file.module, file.depth, code);
        found.extend(violations.iter().map(|violation| format!("src/{}:{violation}", file.path.display())));
    }
    assert!(found.is_empty(), "{}", found.join("\n"));
}

#[test]
fn the_map_names_every_module_and_no_other() {
    let named: BTreeSet<String> = map().modules.into_keys().collect();
    let there: BTreeSet<String> =
        shipped().into_iter().filter(|(file, _)| file.depth == 1).map(|(file, _)| file.module).collect();
    assert_eq!(named, there);
}

#[test]
fn no_file_is_longer_than_can_be_read() {
    let files = ["src", "tests", "examples", "benches"].iter().flat_map(|folder| rust_files(&root().join(folder)));
    let lengths = files.map(|(path, text)| (text.lines().count(), path));
    let long: Vec<(usize, PathBuf)> = lengths.filter(|(lines, _)| *lines > MAX_LINES).collect();
    assert!(long.is_empty(), "more than {MAX_LINES} lines: {long:?}");
}

#[test]
fn every_promise_names_tests_that_are_there() {
    let page = fs::read_to_string(root().join("src/promises.rs")).unwrap();
    let sources: String =
        ["src", "tests"].iter().flat_map(|folder| rust_files(&root().join(folder))).map(|(_, text)| text).collect();
    let rows = page.lines().filter(|line| line.starts_with("//! |") && !line.contains("|---|") && !line.contains("| shown by |"));
    let mut promises = 0;
    for row in rows {
        let shown_by = row.rsplit('|').nth(1).unwrap();
        let names: Vec<&str> = shown_by.split('`').skip(1).step_by(2).collect();
        assert!(!names.is_empty(), "nothing shows: {row}");
        for name in names {
            assert!(sources.contains(&format!("fn {name}(")), "there is no test `{name}`");
        }
        promises += 1;
    }
    assert!(promises > 25);
}

#[test]
fn nothing_lies_about_at_the_top() {
    let names = fs::read_dir(root()).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
    let other: Vec<String> = names.filter(|name| !name.starts_with('.') && !TOP_LEVEL.contains(&name.as_str())).collect();
    assert!(other.is_empty(), "not meant for the top level: {other:?}");
}

mod checker {
    //! The checks themselves can fail, and on what they should.

    use super::*;

    const LIB: &str = "//! Text.\n//!\n//! | layer | modules | may import |\n//! |---|---|---|\n//! | 0 | units, clock | - |\n\
                       //! | 1 | grid, route | 0, 1 |\n//! | 2 | wire, config | 0, 1, 2 |\n//! | 3 | state | 0, 1, 2, 3 |\n\
                       //! | 4 | control, proxy | 0, 1, 2, 3 |\npub mod units;\n";

    fn violations(module: &str, code: &str) -> Vec<String> {
        Map::read(LIB).violations(module, 1, &Shipped::new(code).code)
    }

    #[test]
    fn the_table_is_read() {
        let map = Map::read(LIB);
        assert_eq!(map.modules.len(), 9);
        assert_eq!(map.modules["route"], (1, 1));
        assert_eq!(map.allowed[&0].len(), 0);
        assert_eq!(map.allowed[&4].iter().copied().collect::<Vec<_>>(), [0, 1, 2, 3]);
    }

    #[test]
    fn an_import_upwards_is_found() {
        assert_eq!(
            violations("grid", "use crate::units::Grams;\nuse crate::{grid, wire};"),
            ["2: layer 1 may not import `wire` of layer 2"]
        );
        assert_eq!(violations("units", "use crate::clock::Clock;"), ["1: layer 0 may not import `clock` of layer 0"]);
        assert_eq!(
            violations("control", "crate::state::f(); crate::proxy::g();"),
            ["1: layer 4 may not import `proxy` of layer 4"]
        );
        assert_eq!(
            violations("wire", "use crate::config::Plan;\nuse crate::control::x;"),
            ["2: layer 2 may not import `control` of layer 4"]
        );
        assert_eq!(violations("proxy", "use crate::nowhere::X;"), ["1: `nowhere` is in no layer"]);
    }

    #[test]
    fn within_the_first_layer_only_what_stands_before_is_free() {
        assert_eq!(violations("route", "use crate::grid::Zone;"), [""; 0]);
        assert_eq!(violations("grid", "use crate::route::Route;"), ["1: `route` does not stand before `grid` in layer 1"]);
    }

    #[test]
    fn a_pure_module_that_is_not_is_found() {
        assert_eq!(violations("grid", "fn f() {\n std::fs::read(x); }"), ["2: a pure module names `fs`"]);
        assert_eq!(
            violations("wire", "use std::time::Instant;\nlet a = Instant::now();"),
            ["2: a pure module names `Instant::now`"]
        );
        assert_eq!(violations("config", "use tokio::net::TcpStream;").len(), 2);
        assert_eq!(violations("clock", "tokio::time::Instant::now()"), [""; 0]);
        assert_eq!(violations("state", "use std::sync::Mutex; tokio::spawn(f);"), [""; 0]);
        assert_eq!(violations("grid", "// std::fs\n#[cfg(test)]\nmod tests { use std::fs; use crate::state; }"), [""; 0]);
    }

    #[test]
    fn yaml_is_read_in_one_place() {
        assert_eq!(violations("state", "use serde_saphyr::Spanned;"), ["1: only `config` reads YAML"]);
        assert_eq!(violations("config", "use serde_saphyr::Spanned;"), [""; 0]);
    }

    #[test]
    fn what_lies_within_a_module_of_tests_is_a_test() {
        let homes = |path: &str| {
            let file = File::new(Path::new(path), String::new());
            file.homes().map(|home| home.display().to_string()).collect::<Vec<_>>()
        };
        assert_eq!(homes("wire/tests.rs"), ["wire/tests.rs", "wire.rs", "wire/mod.rs"]);
        assert_eq!(homes("wire/tests/sse.rs")[..2], ["wire/tests/sse.rs", "wire/tests.rs"]);
        assert_eq!(homes("lib.rs"), ["lib.rs"]);
    }

    #[test]
    fn a_file_knows_its_module() {
        let of = |path: &str| {
            let file = File::new(Path::new(path), String::new());
            (file.module.clone(), file.depth, file.of_module(&TestModule::Named("tests".to_owned()))[0].display().to_string())
        };
        assert_eq!(of("lib.rs"), (String::new(), 0, "tests.rs".to_owned()));
        assert_eq!(of("grid.rs"), ("grid".to_owned(), 1, "grid/tests.rs".to_owned()));
        assert_eq!(of("wire/mod.rs"), ("wire".to_owned(), 1, "wire/tests.rs".to_owned()));
        assert_eq!(of("wire/sse.rs"), ("wire".to_owned(), 2, "wire/sse/tests.rs".to_owned()));
    }
}

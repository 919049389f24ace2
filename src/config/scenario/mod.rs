//! The file of a simulation: text to a [`Scenario`], read as the configuration is, so that it has the same units and its problems
//! the same form.
//!
//! A scenario differs from its neighbours by a few lines, so a file may extend another one, whose keys stand where it has none.

mod check;
mod file;
mod plan;

use std::path::{Path, PathBuf};

pub use plan::{
    Ablation, Changes, Class, Energy, Errors, Event, Exchanged, RegionPlan, Said, Scenario, Sessions, Settings, Tenants, Traffic,
};

use self::check::Draft;
use self::file::ScenarioFile;
use super::decode::{At, Decode, Problems};
use super::node::{Mark, Tree, Value};
use super::{ConfigErrors, Env, Files, MAX_FILE, Severity, env, error, node};

/// A file that extends a file that extends a file: more would be hard to read, and a circle would never end.
const MAX_DEPTH: usize = 4;

/// Reads the scenario `text`, which is called `name`; relative paths in it go from the directory of that name.
pub fn load(name: &str, text: &str, env: &Env, files: &dyn Files) -> Result<Scenario, ConfigErrors> {
    let source = Source { name, text };
    let (draft, tree) = draft_of(source, env, files, 0)?;
    let mut problems = Problems::default();
    match draft.finish(&mut problems) {
        Some(scenario) if problems.faults.is_empty() => Ok(scenario),
        _ => Err(source.errors(Some(&tree), problems)),
    }
}

#[derive(Clone, Copy)]
struct Source<'a> {
    name: &'a str,
    text: &'a str,
}

impl Source<'_> {
    fn errors(self, tree: Option<&Tree>, problems: Problems) -> ConfigErrors {
        ConfigErrors {
            more: problems.faults.len().saturating_sub(error::MAX_PROBLEMS),
            problems: error::report(self.name, self.text, tree, problems.faults, Severity::Error),
        }
    }

    /// A path of this file, from where the program stands.
    fn path(self, written: &str) -> PathBuf {
        Path::new(self.name).parent().unwrap_or(Path::new("")).join(written)
    }
}

/// One of the files, for what is read from it.
#[derive(Clone, Copy)]
struct Origin<'a> {
    source: Source<'a>,
    tree: &'a Tree,
    /// Whether it has events of its own.
    has_events: bool,
    /// Not where one of them has a mistake, whose name is then not known.
    all_regions_read: bool,
}

impl<'a> Origin<'a> {
    fn new(source: Source<'a>, tree: &'a Tree, file: &ScenarioFile) -> Self {
        let written = match tree.root.get("regions").map(|node| &node.value) {
            Some(Value::List(items)) => items.len(),
            _ => 0,
        };
        let all_regions_read = file.regions.as_ref().map_or(0, |regions| regions.0.len()) == written;
        Self { source, tree, has_events: file.events.is_some(), all_regions_read }
    }

    /// A path that it names; none where nothing stands there.
    fn named(self, written: &At<String>) -> Option<Said<PathBuf>> {
        self.said(written, |text| self.source.path(text))
    }

    /// What is made of a text, with its place; nothing of an empty one.
    fn said<T>(self, written: &At<String>, made: impl FnOnce(&str) -> T) -> Option<Said<T>> {
        let text = Some(written.value.trim()).filter(|text| !text.is_empty())?;
        Some(Said::new(made(text), error::place(self.source.name, self.source.text, self.tree, written.mark)))
    }
}

/// What this file and those that it extends say.
fn draft_of(source: Source<'_>, env: &Env, files: &dyn Files, depth: usize) -> Result<(Draft, Tree), ConfigErrors> {
    let mut problems = Problems::default();
    if source.text.len() > MAX_FILE {
        problems.add(Mark::default(), "a scenario has at most 1 MiB");
        return Err(source.errors(None, problems));
    }
    let mut tree = match node::parse(source.text) {
        Ok(tree) => tree,
        Err(node::Unreadable { line, column, message, mend }) => {
            problems.add(Mark { line, column, id: 0 }, message).mend = mend;
            return Err(source.errors(None, problems));
        }
    };
    env::expand(&mut tree.root, env, &mut problems);
    let Some(file) = ScenarioFile::decode(&tree.root, &mut problems) else { return Err(source.errors(Some(&tree), problems)) };
    let mut draft = match &file.extends {
        None => Draft::default(),
        Some(written) => {
            let path = source.path(&written.value);
            if depth == MAX_DEPTH {
                problems.add(written.mark, "this is extended too often, or in a circle");
                return Err(source.errors(Some(&tree), problems));
            }
            let read = files.read(&path).map_err(|error| error.to_string());
            let text = read.and_then(|bytes| String::from_utf8(bytes).map_err(|_| "it is no text in UTF-8".to_owned()));
            match text {
                Ok(text) => draft_of(Source { name: &path.display().to_string(), text: &text }, env, files, depth + 1)?.0,
                Err(error) => {
                    problems.add(written.mark, format!("{} cannot be read: {error}", path.display()));
                    return Err(source.errors(Some(&tree), problems));
                }
            }
        }
    };
    let origin = Origin::new(source, &tree, &file);
    draft.apply(file, origin, &mut problems);
    if problems.faults.is_empty() { Ok((draft, tree)) } else { Err(source.errors(Some(&tree), problems)) }
}

#[cfg(test)]
mod tests;

//! The file of a simulation: text to a [`Scenario`], read as the configuration is, so that it has the same units and its problems
//! the same form.
//!
//! A scenario differs from its neighbours by a few lines, so a file may extend another one, whose keys stand where it has none.

mod check;
mod file;
mod plan;

use std::path::{Path, PathBuf};

pub use plan::{
    Ablation, Changes, Class, Energy, Errors, Event, Exchanged, RegionPlan, Scenario, Sessions, Settings, Tenants, Traffic,
};

use self::check::Draft;
use self::file::ScenarioFile;
use super::decode::{Decode, Problems};
use super::node::{Mark, Tree};
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
    draft.apply(file, &|written| source.path(written), &mut problems);
    if problems.faults.is_empty() { Ok((draft, tree)) } else { Err(source.errors(Some(&tree), problems)) }
}

#[cfg(test)]
mod tests;

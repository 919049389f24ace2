//! Configuration: text to a [`Plan`], with every problem reported at once.
//!
//! The way is text, tree with places (`node`), tree with variables (`env`), file as written (`decode`, `file`), file as meant
//! (`check`). Each step notes what is wrong and goes on, and only a file without fault becomes a plan. Serde's derived readers were
//! not taken for the second half because they end at the first fault, and an operator should not meet three slips in three turns.
//!
//! Everything is an argument: text, environment, other files. So a reload, `windward check` and a test do the same thing.

pub mod fleet;
pub mod scenario;

mod check;
mod choices;
mod decode;
mod env;
mod error;
mod file;
mod network;
mod node;
mod plan;
mod profile;
mod schema;
mod shown;
mod values;
mod words;

pub use check::{builtin_reading, model_json};
pub use env::{Env, Files, NoFiles};
pub use error::{ConfigErrors, Problem, Severity};
pub use network::Network;
pub use plan::{Balance, Boot, CarbonPlan, Limits, Listener, ListenerTls, LogTarget, PeersPlan, Plan, SourcePlan, boot_changes};
pub use profile::{NoKeys, profile_keys};
pub use schema::schema;
pub use shown::{Shown, Unfit};
pub use values::span;

use check::Check;
use decode::{Decode, Problems, quoted};
use node::{Mark, Node, Tree, Value};

/// The longest file, in bytes. A thousand backends with every key set take a third of it.
pub const MAX_FILE: usize = 1 << 20;

/// Keys of the file's first level that a later version reads: named, so that nobody believes they work.
const LATER: [&str; 2] = ["telemetry", "control"];

/// What a file became.
#[derive(Clone, Debug)]
pub struct Loaded {
    /// What it means.
    pub plan: Plan,
    /// What is allowed and yet probably not meant, in the file's order.
    pub warnings: Vec<Problem>,
}

/// Reads the configuration `text`, which is called `name`; relative paths in it go from the directory of that name. Total: any text
/// gives a plan or a list of problems.
pub fn load(name: &str, text: &str, env: &Env, files: &dyn Files) -> Result<Loaded, ConfigErrors> {
    let errors = |tree: Option<&Tree>, problems: Problems| ConfigErrors {
        more: problems.faults.len().saturating_sub(error::MAX_PROBLEMS),
        problems: error::report(name, text, tree, problems.faults, Severity::Error),
    };
    let mut problems = Problems::default();
    if text.len() > MAX_FILE {
        problems.add(Mark::default(), "a configuration has at most 1 MiB").mend =
            Some("leave out what is not needed, and name keys and certificates by their files".to_owned());
        return Err(errors(None, problems));
    }
    let mut tree = match node::parse(text) {
        Ok(tree) => tree,
        Err(node::Unreadable { line, column, message, mend }) => {
            problems.add(Mark { line, column, id: 0 }, message).mend = mend;
            return Err(errors(None, problems));
        }
    };
    env::expand(&mut tree.root, env, &mut problems);
    take_later(&mut tree.root, &mut problems);
    let file = file::File::decode(&tree.root, &mut problems);
    let Some(file) = file else { return Err(errors(Some(&tree), problems)) };
    let mut check = Check::new(name, &tree.root, (env, files), problems);
    let plan = check.plan(file, text_hash(text));
    if !check.problems.faults.is_empty() {
        return Err(errors(Some(&tree), check.problems));
    }
    let warnings = error::report(name, text, Some(&tree), check.warnings.faults, Severity::Warning);
    Ok(Loaded { plan, warnings })
}

/// The hash that [`Plan::text_hash`] has for this text.
pub fn text_hash(text: &str) -> u64 {
    fnv1a(text.as_bytes())
}

/// FNV-1a, 64 bits: not for adversaries, but the same in every version of the compiler, which the standard library's is not.
fn fnv1a(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3))
}

/// Takes the keys of later versions out and says so.
fn take_later(root: &mut Node, problems: &mut Problems) {
    if let Value::Map(entries) = &mut root.value {
        entries.retain(|entry| {
            let later = LATER.contains(&&*entry.key);
            if later {
                problems.add(entry.mark, format!("{} is not supported yet in this version", quoted(&entry.key)));
            }
            !later
        });
    }
}

//! Configuration: an embedded defaults document, overridden by a file, overridden by environment variables.
//!
//! The defaults document is manual and schema at once: a key that it does not show is a mistake wherever it is set.
//! Everything wrong is reported in one run, each mistake with its file and line or the variable's name; [`EXIT_STATUS`]
//! is what a binary then ends with. Loading reads no other file: certificates and secrets are read by who needs them,
//! through [`ConfigPath`] and [`SecretFile`].
//!
//! * **Templates.** A table `default` inside a table makes its siblings named entries: `[source.default]` holds what every
//!   `[source.<name>]` inherits, and is no entry itself, so `default` cannot be a name.
//! * **Environment.** `<PREFIX>__LIMITS__BODY_BYTES_MAX=64KiB`: two underscores between levels, in upper case. A value that
//!   parses as TOML is taken as such (`true`, `7`, `[{id="s1", file="f"}]`), any other as a string.
//! * **Arrays** are replaced as a whole, never merged.

mod de;
mod tree;
mod types;

#[cfg(test)]
mod tests;

use std::fmt;
use std::path::{Path, PathBuf};

use serde::de::DeserializeOwned;

use tree::{Node, Origin, Step, Value};

pub use types::{ByteSize, ConfigPath, Moment, Period, SecretFile, SecretFileError, duration, durations};

/// The exit status of a program whose configuration is wrong (`EX_CONFIG` of sysexits.h).
pub const EXIT_STATUS: u8 = 78;

/// Deserialisation is tried again after each mistake; this many are enough for one run.
const MISTAKE_COUNT_MAX: usize = 200;

/// What is to be loaded.
#[derive(Debug, Clone, Copy)]
pub struct Spec {
    /// The program's name, shown where a mistake has no better place.
    pub name: &'static str,
    /// The defaults document, TOML, embedded in the program. It must parse, and fit the type that is loaded.
    pub defaults: &'static str,
    /// What names of environment variables start with, for example `INGEST`.
    pub env_prefix: &'static str,
}

/// Relations between values, which types alone cannot express.
pub trait Check {
    /// Adds one mistake per relation that does not hold. Its sentence names other keys in full (`limits.hard_max`): when
    /// one of them was wrong itself, the relation is not reported.
    fn check(&self, mistakes: &mut Vec<Mistake>);
}

/// One thing wrong in a configuration. The operator's fault.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mistake {
    /// Where the value was given; filled in by the loader.
    place: Option<(Origin, String)>,
    key: String,
    sentence: String,
}

impl Mistake {
    /// A mistake in the value at `key` (`limits.body_bytes_max`, `source.acme.secrets[0].file`), told in a few words.
    pub fn new(key: impl Into<String>, sentence: impl Into<String>) -> Self {
        Self { place: None, key: key.into(), sentence: sentence.into() }
    }

    /// The key whose value is wrong; empty for a mistake in the file's syntax.
    pub fn key(&self) -> &str {
        &self.key
    }
}

impl fmt::Display for Mistake {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some((_, place)) = &self.place {
            write!(formatter, "{place}: ")?;
        }
        if !self.key.is_empty() {
            write!(formatter, "{}: ", self.key)?;
        }
        formatter.write_str(&self.sentence)
    }
}

/// Everything wrong in a configuration, one per line. Never empty. The operator's fault.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mistakes(Vec<Mistake>);

impl Mistakes {
    /// Mistakes found after loading, for example in the files that a configuration names; an error if there are any.
    pub fn none_in(found: Vec<Mistake>) -> Result<(), Self> {
        if found.is_empty() { Ok(()) } else { Err(Self(found)) }
    }

    /// The mistakes: the file's by line, then what is missing, then the environment's.
    pub fn iter(&self) -> std::slice::Iter<'_, Mistake> {
        self.0.iter()
    }
}

impl fmt::Display for Mistakes {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, mistake) in self.0.iter().enumerate() {
            let newline = if index == 0 { "" } else { "\n" };
            write!(formatter, "{newline}{mistake}")?;
        }
        Ok(())
    }
}

impl std::error::Error for Mistakes {}

impl From<Mistake> for Mistakes {
    fn from(mistake: Mistake) -> Self {
        Self(vec![mistake])
    }
}

/// The process's environment in the form that [`load`] takes.
pub fn environment() -> impl Iterator<Item = (String, String)> {
    std::env::vars_os()
        .filter_map(|(name, value)| Some((name.into_string().ok()?, value.to_string_lossy().into_owned())))
}

/// Loads a configuration: defaults, then the file, then the environment.
///
/// # Errors
/// Every mistake that could be found in one run.
///
/// # Panics
/// When the defaults document is not valid TOML, which a test of each program rules out.
pub fn load<T: DeserializeOwned + Check>(
    spec: Spec,
    file: Option<&Path>,
    env: impl Iterator<Item = (String, String)>,
) -> Result<T, Mistakes> {
    let (defaults, errors) = tree::parse(spec.defaults, |_line| Origin::Default);
    assert!(errors.is_empty(), "the embedded defaults of {} are not valid TOML: {errors:?}", spec.name);

    let mut loader = Loader::new(spec, file);
    let mut merged = Node::table(Origin::Default);
    if let Some(file) = file {
        loader.read(file, &defaults, &mut merged);
    }
    for (name, node) in tree::from_environment(spec.env_prefix, &defaults, env) {
        match node {
            Ok(node) => loader.lay(node, &defaults, &mut merged),
            Err(sentence) => loader.report(Origin::Environment(name), String::new(), sentence.into()),
        }
    }
    loader.finish(&defaults, tree::fill(merged, &defaults))
}

/// The state of one load: the mistakes found so far and what they concern.
struct Loader {
    /// Where paths in the configuration start.
    dir: PathBuf,
    /// How the file, or in its absence the program, is called in a mistake.
    title: String,
    mistakes: Vec<Mistake>,
    /// Lines that did not parse: what follows from them is not reported again.
    broken: bool,
}

impl Loader {
    fn new(spec: Spec, file: Option<&Path>) -> Self {
        Self {
            dir: file.and_then(Path::parent).map(Path::to_path_buf).unwrap_or_default(),
            title: file.map_or_else(|| spec.name.to_owned(), |file| file.display().to_string()),
            mistakes: Vec::new(),
            broken: false,
        }
    }

    /// Lays one layer over those before it, as far as it has the defaults' shape.
    fn lay(&mut self, mut layer: Node, defaults: &Node, merged: &mut Node) {
        tree::conform(&mut layer, defaults, "", &mut |origin, key, sentence| self.report(origin, key, sentence));
        merged.overlay(layer);
    }

    /// Lays the file over the defaults, as much of it as can be parsed.
    fn read(&mut self, file: &Path, defaults: &Node, merged: &mut Node) {
        let text = match std::fs::read_to_string(file) {
            Ok(text) => text,
            Err(error) => {
                self.broken = true;
                return self.report(Origin::Default, String::new(), format!("cannot be read: {error}"));
            }
        };
        let (node, errors) = tree::parse(&text, |line| Origin::File { line });
        for (line, message) in errors {
            self.broken = true;
            self.report(Origin::File { line }, String::new(), message);
        }
        self.lay(node, defaults, merged);
    }

    /// Notes a mistake, once.
    fn report(&mut self, origin: Origin, key: String, sentence: String) {
        let known = |mistake: &Mistake| {
            let same_place = mistake.place.as_ref().is_some_and(|(known, _)| *known == origin);
            // One wrong line of a template is wrong in every entry that inherits it; a line that did not parse explains
            // whatever else is odd about it.
            same_place && (mistake.sentence == sentence && origin != Origin::Default || mistake.key.is_empty())
        };
        if self.mistakes.iter().any(known) {
            return;
        }
        let place = match &origin {
            Origin::File { line } => format!("{}:{line}", self.title),
            Origin::Default => self.title.clone(),
            Origin::Environment(name) => name.to_string(),
        };
        self.mistakes.push(Mistake { place: Some((origin, place)), key, sentence });
    }

    /// Reads the merged tree into the type, mending what is wrong until it can be read; then checks relations.
    fn finish<T: DeserializeOwned + Check>(mut self, defaults: &Node, mut tree: Node) -> Result<T, Mistakes> {
        let mut mended = Mended::default();
        let value = loop {
            let error = match serde_path_to_error::deserialize::<_, T>(de::NodeDeserializer::new(&tree, &self.dir)) {
                Ok(value) => break Some(value),
                Err(error) => error,
            };
            let steps = steps(error.path());
            let sentence = error.into_inner().to_string();
            let (label, origin) = tree.locate(&steps);
            if !mended.is_consequence(&label, &sentence) {
                mended.keys.push(label.clone());
                self.report(origin, label, sentence);
            }
            if self.mistakes.len() >= MISTAKE_COUNT_MAX || !mended.mend(&mut tree, defaults, steps) {
                break None;
            }
        };
        // Without the whole file, relations would be judged on values that the operator never gave.
        if let (Some(value), false) = (&value, self.broken) {
            let mut found = Vec::new();
            value.check(&mut found);
            for Mistake { key, sentence, .. } in found {
                let steps = Step::parse_all(&key);
                let (label, origin) = tree.locate(&steps);
                let key = if tree.depth(&steps) == steps.len() { label } else { key };
                if !mended.concerns(&key, &sentence) {
                    self.report(origin, key, sentence);
                }
            }
        }
        match value {
            Some(value) if self.mistakes.is_empty() => Ok(value),
            _ => {
                self.mistakes.sort_by(|one, two| one.place.cmp(&two.place));
                Err(Mistakes(self.mistakes))
            }
        }
    }
}

/// What was replaced or removed so that the rest could be read.
#[derive(Default)]
struct Mended {
    /// Labels of the values that were wrong.
    keys: Vec<String>,
    /// Labels of tables that lost a key: that it is missing then is no mistake of its own.
    tables: Vec<String>,
}

impl Mended {
    /// Whether this error only says that a removed key is missing.
    fn is_consequence(&self, label: &str, sentence: &str) -> bool {
        sentence.starts_with("missing field") && self.tables.iter().any(|table| table == label)
    }

    /// Whether a relation of this key, or of one that its sentence names, was judged on a mended value.
    fn concerns(&self, key: &str, sentence: &str) -> bool {
        let inside = |outer: &str, inner: &str| {
            inner.strip_prefix(outer).is_some_and(|rest| rest.is_empty() || rest.starts_with(['.', '[']))
        };
        self.keys.iter().any(|mended| inside(mended, key) || inside(key, mended) || sentence.contains(mended))
    }

    /// Makes the value at `steps` harmless: the default's where there is one, else removed. Says whether it could.
    fn mend(&mut self, tree: &mut Node, defaults: &Node, mut steps: Vec<Step>) -> bool {
        steps.truncate(tree.depth(&steps));
        while let Some(last) = steps.last() {
            let inherited = tree::schema_at(defaults, &steps);
            let parent_steps = steps.get(..steps.len() - 1).unwrap_or_default();
            let is_entry = tree::schema_at(defaults, parent_steps).is_some_and(|parent| parent.template().is_some());
            let Some(parent) = tree.at_mut(parent_steps) else { return false };
            match (&mut parent.value, last) {
                // A list's element, after its fields could not be mended one by one.
                (Value::Array(elements), Step::Index(index)) if *index < elements.len() => {
                    elements.remove(*index);
                    return true;
                }
                (Value::Table(entries), Step::Key(key)) => match (inherited, entries.get(key)) {
                    (Some(default), Some(node)) if !is_entry => {
                        if node.origin == Origin::Default {
                            return false;
                        }
                        entries.insert(key.clone(), default.clone());
                        return true;
                    }
                    (_, Some(_)) => {
                        entries.remove(key);
                        self.tables.push(tree.locate(parent_steps).0);
                        return true;
                    }
                    (_, None) => {}
                },
                _ => {}
            }
            steps.pop();
        }
        false
    }
}

/// The path of a deserialisation error, as steps through the tree.
fn steps(path: &serde_path_to_error::Path) -> Vec<Step> {
    use serde_path_to_error::Segment;
    path.iter()
        .map_while(|segment| match segment {
            Segment::Seq { index } => Some(Step::Index(*index)),
            Segment::Map { key } => Some(Step::Key(key.clone())),
            // Below an enum's variant there is nothing of the tree's own.
            Segment::Enum { .. } | Segment::Unknown => None,
        })
        .collect()
}

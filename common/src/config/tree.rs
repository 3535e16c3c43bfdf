//! The configuration as a tree whose every node knows where it was written, and how such trees are laid over each other.

use std::collections::BTreeMap;
use std::sync::Arc;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

/// Where a value was written. Ordered as mistakes are shown.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Origin {
    /// In the configuration file, at this line, counted from 1.
    File { line: usize },
    /// Nowhere but in the defaults document.
    Default,
    /// In this environment variable.
    Environment(Arc<str>),
}

/// One value and its origin.
#[derive(Debug, Clone)]
pub(super) struct Node {
    pub(super) value: Value,
    pub(super) origin: Origin,
}

/// A TOML value. Dates are kept as text, since nothing here is configured by a date.
#[derive(Debug, Clone)]
pub(super) enum Value {
    Bool(bool),
    Integer(i64),
    Float(f64),
    String(String),
    Array(Vec<Element>),
    Table(BTreeMap<String, Node>),
}

/// An array's element, and its place as it was written: mending may remove those before it.
#[derive(Debug, Clone)]
pub(super) struct Element {
    pub(super) node: Node,
    pub(super) written: usize,
}

/// One step from a node to a node in it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Step {
    Key(String),
    Index(usize),
}

impl Step {
    /// Reads `source.acme.secrets[0].file`.
    pub(super) fn parse_all(key: &str) -> Vec<Self> {
        let mut steps = Vec::new();
        for part in key.split('.') {
            let mut pieces = part.split('[');
            steps.extend(pieces.next().filter(|name| !name.is_empty()).map(|name| Self::Key(name.to_owned())));
            steps.extend(pieces.filter_map(|index| index.trim_end_matches(']').parse().ok()).map(Self::Index));
        }
        steps
    }
}

/// The label of a key inside the table labelled `parent`.
pub(super) fn label(parent: &str, key: &str) -> String {
    if parent.is_empty() { key.to_owned() } else { format!("{parent}.{key}") }
}

impl Node {
    /// An empty table.
    pub(super) fn table(origin: Origin) -> Self {
        Self { value: Value::Table(BTreeMap::new()), origin }
    }

    /// Lays `over` on top: tables are merged, anything else is replaced.
    pub(super) fn overlay(&mut self, over: Self) {
        match (&mut self.value, over.value) {
            (Value::Table(below), Value::Table(above)) => {
                for (key, node) in above {
                    match below.get_mut(&key) {
                        Some(known) => known.overlay(node),
                        None => drop(below.insert(key, node)),
                    }
                }
            }
            (below, above) => {
                *below = above;
                self.origin = over.origin;
            }
        }
    }

    fn is_table(&self) -> bool {
        matches!(self.value, Value::Table(_))
    }

    /// The template that entries of this table inherit, if it is a table of named entries.
    pub(super) fn template(&self) -> Option<&Self> {
        let Value::Table(entries) = &self.value else { return None };
        entries.get("default").filter(|node| node.is_table())
    }

    fn child(&self, step: &Step) -> Option<&Self> {
        match (&self.value, step) {
            (Value::Table(entries), Step::Key(key)) => entries.get(key),
            (Value::Array(elements), Step::Index(index)) => elements.get(*index).map(|element| &element.node),
            _ => None,
        }
    }

    /// The node that `steps` lead to.
    pub(super) fn at_mut(&mut self, steps: &[Step]) -> Option<&mut Self> {
        let mut node = self;
        for step in steps {
            node = match (&mut node.value, step) {
                (Value::Table(entries), Step::Key(key)) => entries.get_mut(key)?,
                (Value::Array(elements), Step::Index(index)) => &mut elements.get_mut(*index)?.node,
                _ => return None,
            };
        }
        Some(node)
    }

    /// How many of `steps` lead to a node that exists.
    pub(super) fn depth(&self, steps: &[Step]) -> usize {
        let mut node = self;
        for (depth, step) in steps.iter().enumerate() {
            match node.child(step) {
                Some(child) => node = child,
                None => return depth,
            }
        }
        steps.len()
    }

    /// Label and origin of the deepest existing node on the way that `steps` describe.
    pub(super) fn locate(&self, steps: &[Step]) -> (String, Origin) {
        let (mut node, mut name) = (self, String::new());
        for step in steps {
            let Some(child) = node.child(step) else { break };
            name = match (step, &node.value) {
                (Step::Key(key), _) => label(&name, key),
                (Step::Index(index), Value::Array(elements)) => format!("{name}[{}]", elements[*index].written),
                (Step::Index(_), _) => unreachable!("only an array has a child at an index"),
            };
            node = child;
        }
        (name, node.origin.clone())
    }
}

/// The part of the defaults document that describes the value at `steps`; entries are described by their template.
pub(super) fn schema_at<'a>(defaults: &'a Node, steps: &[Step]) -> Option<&'a Node> {
    steps.iter().try_fold(defaults, |node, step| match (node.template(), step) {
        (Some(template), Step::Key(_)) => Some(template),
        _ => node.child(step),
    })
}

/// Removes from a layer what `schema` does not show, and what is no table where it shows one, and reports it.
pub(super) fn conform(layer: &mut Node, schema: &Node, name: &str, report: &mut dyn FnMut(Origin, String, String)) {
    let (Value::Table(entries), Value::Table(described)) = (&mut layer.value, &schema.value) else { return };
    entries.retain(|key, node| {
        let name = label(name, key);
        let Some(schema) = schema.template().or_else(|| described.get(key)) else {
            let known: Vec<&str> = described.keys().map(String::as_str).collect();
            report(node.origin.clone(), name, format!("unknown key, expected one of {}", known.join(", ")));
            return false;
        };
        if schema.is_table() && !node.is_table() {
            report(node.origin.clone(), name, "expected a table".into());
            return false;
        }
        conform(node, schema, &name, report);
        true
    });
}

/// Fills a conforming tree up from `base`, the defaults, and turns templates into what their entries inherit.
pub(super) fn fill(over: Node, base: &Node) -> Node {
    let Value::Table(base_entries) = &base.value else { return over };
    let origin = over.origin;
    let Value::Table(mut over_entries) = over.value else { unreachable!("a conforming tree has a table here") };
    let nothing = || Node::table(Origin::Default);
    let entries = if let Some(template) = base.template() {
        let template = fill(over_entries.remove("default").unwrap_or_else(nothing), template);
        over_entries.into_iter().map(|(key, node)| (key, fill(node, &template))).collect()
    } else {
        let filled = base_entries.iter().map(|(key, below)| {
            let over = over_entries.remove(key).or_else(|| below.is_table().then(nothing));
            (key.clone(), over.map_or_else(|| below.clone(), |over| fill(over, below)))
        });
        filled.collect()
    };
    Node { value: Value::Table(entries), origin }
}

/// Parses a document, as much of it as is valid, and returns the errors with their lines.
pub(super) fn parse(text: &str, origin: impl Fn(usize) -> Origin) -> (Node, Vec<(usize, String)>) {
    let line_at = |offset: usize| text.bytes().take(offset).filter(|byte| *byte == b'\n').count() + 1;
    let (table, errors) = DeTable::parse_recoverable(text);
    let errors = errors.iter().map(|error| {
        let line = error.span().map_or(1, |span| line_at(span.start));
        (line, error.message().lines().collect::<Vec<_>>().join(", "))
    });
    let mut errors: Vec<(usize, String)> = errors.collect();
    let origin = |offset: usize| origin(line_at(offset));
    let mut reading = Reading { origin: &origin, too_large: Vec::new() };
    let node = Node { value: reading.table(table.get_ref()), origin: origin(0) };
    errors.extend(reading.too_large.into_iter().map(|offset| (line_at(offset), TOO_LARGE.to_owned())));
    (node, errors)
}

/// TOML asks for integers of 64 bits with a sign, and for binary64.
const TOO_LARGE: &str = "a number is too large: an integer has at most 64 bits, one of them for the sign";

/// From the parser's values to ours.
struct Reading<'a> {
    origin: &'a dyn Fn(usize) -> Origin,
    /// Where numbers stand that TOML's types cannot hold. The parser keeps numbers as text, and so passes them.
    too_large: Vec<usize>,
}

impl Reading<'_> {
    fn table(&mut self, table: &DeTable<'_>) -> Value {
        let entries = table.iter().map(|(key, value)| {
            let node = Node { value: self.value(value), origin: (self.origin)(key.span().start) };
            (key.get_ref().to_string(), node)
        });
        Value::Table(entries.collect())
    }

    fn value(&mut self, value: &Spanned<DeValue<'_>>) -> Value {
        match value.get_ref() {
            DeValue::String(text) => Value::String(text.to_string()),
            DeValue::Integer(integer) => match i64::from_str_radix(integer.as_str(), integer.radix()) {
                Ok(integer) => Value::Integer(integer),
                Err(_) => self.too_large(value),
            },
            DeValue::Float(float) => match float.as_str().parse::<f64>() {
                // `inf` is written so; `1e999` would become it.
                Ok(number) if number.is_finite() || float.as_str().ends_with(['f', 'n']) => Value::Float(number),
                Ok(_) | Err(_) => self.too_large(value),
            },
            DeValue::Boolean(boolean) => Value::Bool(*boolean),
            DeValue::Datetime(datetime) => Value::String(datetime.to_string()),
            DeValue::Array(elements) => {
                let element = |(written, element): (usize, &Spanned<DeValue<'_>>)| {
                    let node = Node { value: self.value(element), origin: (self.origin)(element.span().start) };
                    Element { node, written }
                };
                Value::Array(elements.iter().enumerate().map(element).collect())
            }
            DeValue::Table(table) => self.table(table),
        }
    }

    /// Notes such a number. What stands in its place is never used: its line is a mistake, and explains what follows.
    fn too_large(&mut self, value: &Spanned<DeValue<'_>>) -> Value {
        self.too_large.push(value.span().start);
        Value::String(String::new())
    }
}

/// The variables that start with `<prefix>__`, by name, each as a tree with one leaf, or what is wrong with its name.
pub(super) fn from_environment(
    prefix: &str,
    defaults: &Node,
    env: impl Iterator<Item = (String, String)>,
) -> Vec<(Arc<str>, Result<Node, &'static str>)> {
    let prefix = format!("{prefix}__");
    let mut variables: Vec<(String, String)> = env.filter(|(name, _)| name.starts_with(&prefix)).collect();
    variables.sort();
    variables
        .into_iter()
        .map(|(name, text)| {
            let path = name.strip_prefix(&prefix).unwrap_or_default().to_lowercase();
            let name: Arc<str> = name.into();
            let keys: Vec<Step> = path.split("__").map(|key| Step::Key(key.to_owned())).collect();
            if path.split("__").any(str::is_empty) {
                return (name, Err("two underscores separate levels, and each level needs a name"));
            }
            let origin = Origin::Environment(name.clone());
            let mut node = Node { value: environment_value(&text, schema_at(defaults, &keys), &origin), origin };
            for key in path.rsplit("__") {
                let origin = node.origin.clone();
                node = Node { value: Value::Table(BTreeMap::from([(key.to_owned(), node)])), origin };
            }
            (name, Ok(node))
        })
        .collect()
}

/// A variable's text as TOML if it is that and not a string's place, else as a string.
fn environment_value(text: &str, described: Option<&Node>, origin: &Origin) -> Value {
    let wants_string = described.is_some_and(|node| matches!(node.value, Value::String(_)));
    let mut reading = Reading { origin: &|_offset| origin.clone(), too_large: Vec::new() };
    let parsed = DeValue::parse(text).ok().map(|parsed| reading.value(&parsed));
    match parsed.filter(|_| reading.too_large.is_empty()) {
        Some(Value::String(text)) => Value::String(text),
        Some(parsed) if !wants_string => parsed,
        _ => Value::String(text.to_owned()),
    }
}

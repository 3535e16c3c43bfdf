//! `docs`: the page of all settings, made of the defaults files, which are the manual.
//!
//! A defaults file has lines of five kinds: empty, a comment, `[section]`, and `key = value` with or without a comment. A comment
//! belongs to the line below it, of a section or a key; one with an empty line below it to the section that it is in, and the first of
//! all to the file. What is indented in a comment stays as it is.

use crate::workspace;
use anyhow::{Context, Result, bail, ensure};
use std::fmt::Write as _;
use std::fs;

const PAGE: &str = "docs/configuration.md";
/// `(title, defaults file, beginning of environment variables)`.
const FILES: [(&str, &str, &str); 2] = [
    ("Ingest", "ingest/ingest.default.toml", "INGEST"),
    ("Processor", "processor/processor.default.toml", "PROCESSOR"),
];
const BEGIN: &str = "\
# Settings

Made by `./x docs` from the defaults files; do not edit. Each key is shown with its default. A file needs only what differs, and an
environment variable overrides it: its name is the program's, the section's and the key's, in capitals, with `__` between them. A mistake is
told with its file and line, all mistakes in one run, and ends the program with status 78; `--check` does only that.
";

/// Makes the page anew.
pub(crate) fn write() -> Result<()> {
    fs::write(workspace::root().join(PAGE), page()?).with_context(|| format!("writing {PAGE}"))
}

/// Whether the page is of the present defaults.
pub(crate) fn check() -> Result<()> {
    let there = fs::read_to_string(workspace::root().join(PAGE)).with_context(|| format!("reading {PAGE}"))?;
    ensure!(there == page()?, "{PAGE} is not of the present defaults: make it anew with ./x docs");
    Ok(())
}

fn page() -> Result<String> {
    let mut page = BEGIN.to_owned();
    for (title, file, prefix) in FILES {
        let text = fs::read_to_string(workspace::root().join(file)).with_context(|| format!("reading {file}"))?;
        let (intro, sections) = parse(&text).with_context(|| file.to_owned())?;
        write!(
            page,
            "\n## {title}\n\nFrom [{file}](../{file}); variables begin with `{prefix}__`.\n\n{}",
            shown(&intro, "")
        )?;
        for Section { name, about, keys } in sections {
            write!(page, "\n### `[{name}]`\n\n{}", shown(&about, ""))?;
            if !about.is_empty() && !keys.is_empty() {
                page.push('\n');
            }
            for Key { name, value, about } in keys {
                let colon =
                    if about.is_empty() { "\n".into() } else { format!(": {}", shown(&about, "  ").trim_start()) };
                write!(page, "* **`{name}`** = `{value}`{colon}")?;
            }
        }
    }
    Ok(page)
}

#[derive(Debug, PartialEq)]
struct Section {
    name: String,
    about: Vec<String>,
    keys: Vec<Key>,
}

#[derive(Debug, PartialEq)]
struct Key {
    name: String,
    value: String,
    about: Vec<String>,
}

/// What a defaults file says: about itself, and its sections.
fn parse(text: &str) -> Result<(Vec<String>, Vec<Section>)> {
    let (mut intro, mut sections, mut comment): (_, Vec<Section>, Vec<String>) = (Vec::new(), Vec::new(), Vec::new());
    for (index, line) in text.lines().enumerate() {
        let unread = || format!("line {} is none of a defaults file: {line}", index + 1);
        if let Some(said) = line.strip_prefix('#') {
            comment.push(said.strip_prefix(' ').unwrap_or(said).to_owned());
        } else if line.is_empty() {
            let about = sections.last_mut().map_or(&mut intro, |section| &mut section.about);
            if !about.is_empty() && !comment.is_empty() {
                about.push(String::new());
            }
            about.append(&mut comment);
        } else if let Some(name) = line.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
            sections.push(Section { name: name.to_owned(), about: std::mem::take(&mut comment), keys: Vec::new() });
        } else {
            let (name, rest) = line.split_once(" = ").with_context(unread)?;
            let (value, behind) = cut(rest);
            let section = sections.last_mut().with_context(unread)?;
            let mut about: Vec<String> = behind.map(str::to_owned).into_iter().collect();
            about.append(&mut comment);
            section.keys.push(Key { name: name.to_owned(), value: value.to_owned(), about });
        }
    }
    if !comment.is_empty() {
        bail!("a comment at the end belongs to nothing: {comment:?}");
    }
    Ok((intro, sections))
}

/// A value, and the comment behind it. A `#` in a string begins none.
fn cut(text: &str) -> (&str, Option<&str>) {
    let mut quoted = false;
    for (at, c) in text.char_indices() {
        quoted ^= c == '"';
        if c == '#' && !quoted {
            return (text[..at].trim_end(), Some(text[at + 1..].trim_start()));
        }
    }
    (text, None)
}

/// A comment as Markdown, with so much before each line.
fn shown(lines: &[String], indent: &str) -> String {
    let mut text = String::new();
    let mut code = false;
    for line in lines {
        let is_code = line.starts_with("    ") || (code && line.is_empty());
        if is_code != code && !text.ends_with("\n\n") {
            text.push('\n');
        }
        code = is_code;
        // Indented by four it is code already; `<name>` would be a tag.
        let line = if is_code { line.clone() } else { line.replace('<', "\\<").replace('*', "\\*") };
        let _ = if line.is_empty() { writeln!(text) } else { writeln!(text, "{indent}{line}") };
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_comment_belongs_to_the_line_below_it() {
        let (intro, sections) = parse(
            "# The manual.\n#\n# More.\n\n# Of a.\n[a]\n\n# Of all of a.\n\n# Of x, with\n#     a formula\nx = \"#1\"   # a colour\ny = 2\n\n[b.c]\n",
        )
        .unwrap();
        assert_eq!(intro, ["The manual.", "", "More."]);
        let key = |name: &str, value: &str, about: &[&str]| Key {
            name: name.into(),
            value: value.into(),
            about: about.iter().map(|line| (*line).to_owned()).collect(),
        };
        let keys = vec![key("x", "\"#1\"", &["a colour", "Of x, with", "    a formula"]), key("y", "2", &[])];
        let about = vec!["Of a.".into(), String::new(), "Of all of a.".into()];
        let expected =
            [Section { name: "a".into(), about, keys }, Section { name: "b.c".into(), about: vec![], keys: vec![] }];
        assert_eq!(sections, expected);
        assert!(parse("x = 1\n").is_err(), "a key outside of every section");
        assert!(parse("[a]\nx\n").is_err());
        assert!(parse("[a]\n# of nothing\n").is_err());
    }

    #[test]
    fn what_is_indented_stays_and_what_looks_like_a_tag_is_none() {
        let lines = ["a <b>", "    c <d>", "", "e"].map(str::to_owned);
        assert_eq!(shown(&lines, "  "), "  a \\<b>\n\n      c <d>\n\n  e\n");
    }
}

//! Every way a configuration can be written, and every way it can be wrong.

#![allow(clippy::unwrap_used, reason = "tests")]

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::Deserialize;

use super::{
    ByteSize, Check, ConfigPath, Mistake, Mistakes, Moment, Period, SecretFile, SecretFileError, Spec, environment,
    load,
};
use crate::id::SourceId;

const DEFAULTS: &str = r#"
[listen]
address = "127.0.0.1:8443"
certificate = ""
[limits]
body = "256KiB"
deadline = "15s"
hard = "30s"
count = 5
ratio = 0.5
[log]
format = "json"
[retry]
lanes = ["10s", "1m"]
[pipeline]
edge_key = { id = "", file = "" }
[source.default]
enabled = true
path = "/webhook"
tolerance = "5m"
secrets = []
[source.default.rule]
id = "/id"
"#;

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Config {
    listen: Listen,
    limits: Limits,
    log: Log,
    retry: Retry,
    pipeline: Pipeline,
    source: BTreeMap<SourceId, Source>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Listen {
    address: std::net::SocketAddr,
    certificate: ConfigPath,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Limits {
    body: ByteSize,
    #[serde(with = "super::duration")]
    deadline: Duration,
    #[serde(with = "super::duration")]
    hard: Duration,
    count: u8,
    ratio: f64,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Log {
    format: crate::telemetry::LogFormat,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Retry {
    #[serde(with = "super::durations")]
    lanes: Vec<Duration>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Pipeline {
    edge_key: Key,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Key {
    id: String,
    file: SecretFile,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Source {
    enabled: bool,
    path: String,
    #[serde(with = "super::duration")]
    tolerance: Duration,
    secrets: Vec<Key>,
    rule: Rule,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Rule {
    id: String,
}

impl Check for Config {
    fn check(&self, mistakes: &mut Vec<Mistake>) {
        if self.limits.deadline >= self.limits.hard {
            mistakes.push(Mistake::new("limits.deadline", "must be shorter than limits.hard"));
        }
        for (name, source) in &self.source {
            for (index, secret) in source.secrets.iter().enumerate() {
                if secret.id.is_empty() {
                    mistakes.push(Mistake::new(format!("source.{name}.secrets[{index}].id"), "must not be empty"));
                }
            }
        }
        if self.listen.certificate.as_path().extension().is_some_and(|extension| extension == "txt") {
            mistakes.push(Mistake::new("listen.certificate", "must be PEM"));
        }
        if self.log.format == crate::telemetry::LogFormat::Human && self.pipeline.edge_key.id.is_empty() {
            mistakes.push(Mistake::new("pipeline.edge_key.id", "is required"));
        }
    }
}

/// A file's text, loaded from a directory of its own; the name that mistakes show is cut to the file's.
fn try_load(file: Option<&str>, env: &[(&str, &str)]) -> (PathBuf, Result<Config, Vec<String>>) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("edge.toml");
    if let Some(text) = file {
        std::fs::write(&path, text).unwrap();
    }
    let spec = Spec { name: "edge", defaults: DEFAULTS, env_prefix: "EDGE" };
    let env = env.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
    let loaded = load::<Config>(spec, file.map(|_| path.as_path()), env);
    let shown = |mistake: &Mistake| mistake.to_string().replace(&format!("{}/", dir.path().display()), "");
    (dir.path().to_owned(), loaded.map_err(|mistakes| mistakes.iter().map(shown).collect()))
}

fn good(file: Option<&str>, env: &[(&str, &str)]) -> Config {
    try_load(file, env).1.unwrap()
}

/// One run over `file` and `env` must report exactly these mistakes, in this order.
fn check(file: &str, env: &[(&str, &str)], expect: &[&str]) {
    let mistakes = try_load(Some(file), env).1.expect_err("a mistake");
    assert_eq!(mistakes, expect, "for {file}");
}

#[test]
fn without_file_and_environment_the_defaults_hold() {
    let config = good(None, &[]);
    assert_eq!(config.listen.address.port(), 8443);
    assert!(config.listen.certificate.is_empty() && config.listen.certificate.if_set().is_none());
    assert_eq!(config.limits.body, ByteSize::kib(256));
    assert_eq!((config.limits.deadline, config.limits.count), (Duration::from_secs(15), 5));
    assert_eq!(config.retry.lanes, [Duration::from_secs(10), Duration::from_secs(60)]);
    assert!(config.source.is_empty(), "the template is no entry");
}

#[test]
fn the_file_overrides_defaults_and_the_environment_overrides_the_file() {
    let file = "[limits]\ncount = 6\nbody = \"1KiB\"\n[log]\nformat = \"human\"\n[pipeline]\nedge_key.id = \"e\"\n";
    let config = good(Some(file), &[("EDGE__LIMITS__COUNT", "7"), ("EDGE_LIMITS", "x"), ("OTHER__LIMITS__COUNT", "8")]);
    assert_eq!((config.limits.count, config.limits.body), (7, ByteSize::new(1024)));
    assert_eq!(config.log.format, crate::telemetry::LogFormat::Human);
    assert_eq!(config.limits.deadline, Duration::from_secs(15), "a table is merged, not replaced");
}

#[test]
fn entries_inherit_the_template_however_it_is_changed() {
    let file = r#"
[source.a]
path = "/a"
[source.b]
tolerance = "30s"
rule.id = "/b"
[source.default]
tolerance = "60s"
[source.c]
"#;
    let config = good(Some(file), &[("EDGE__SOURCE__DEFAULT__ENABLED", "false"), ("EDGE__SOURCE__D__PATH", "/d")]);
    let names: Vec<&str> = config.source.keys().map(SourceId::as_str).collect();
    assert_eq!(names, ["a", "b", "c", "d"]);
    let seen: Vec<(&str, u64, bool, &str)> = config
        .source
        .values()
        .map(|source| (source.path.as_str(), source.tolerance.as_secs(), source.enabled, source.rule.id.as_str()))
        .collect();
    let expect = [
        ("/a", 60, false, "/id"),
        ("/webhook", 30, false, "/b"),
        ("/webhook", 60, false, "/id"),
        ("/d", 60, false, "/id"),
    ];
    assert_eq!(seen, expect);
}

#[test]
fn environment_values_are_toml_where_they_parse_and_strings_where_strings_belong() {
    let env = [
        ("EDGE__LIMITS__RATIO", "0.25"),
        ("EDGE__LIMITS__DEADLINE", "2s"),
        ("EDGE__LIMITS__BODY", "4096"),
        ("EDGE__RETRY__LANES", r#"["1s"]"#),
        ("EDGE__PIPELINE__EDGE_KEY__ID", "7"),
        ("EDGE__SOURCE__A__SECRETS", r#"[{id = "s1", file = "f"}]"#),
        ("EDGE__SOURCE__A__PATH", "\"/quoted\""),
        ("EDGE__SOURCE__A__RULE__ID", "x = 1\n[limits]"),
    ];
    let config = good(None, &env);
    assert_eq!((config.limits.ratio, config.limits.deadline.as_secs()), (0.25, 2));
    assert_eq!(config.limits.body, ByteSize::kib(4));
    assert_eq!(config.retry.lanes, [Duration::from_secs(1)]);
    assert_eq!(config.pipeline.edge_key.id, "7");
    let source = config.source.values().next().unwrap();
    assert_eq!((source.path.as_str(), source.secrets[0].id.as_str()), ("/quoted", "s1"));
    assert_eq!(source.rule.id, "x = 1\n[limits]", "a value cannot smuggle in other keys");
}

#[test]
fn paths_start_at_the_files_directory() {
    let file = "[listen]\ncertificate = \"tls/server.pem\"\n[pipeline]\nedge_key = { id = \"e\", file = \"/abs/key\" }\n\
                [source.a]\nsecrets = [{ id = \"s1\", file = \"s\" }]\n";
    let (dir, config) = try_load(Some(file), &[("EDGE__SOURCE__B__SECRETS", "[{id = 's2', file = 'e'}]")]);
    let config = config.unwrap();
    assert_eq!(config.listen.certificate.as_path(), dir.join("tls/server.pem"));
    assert_eq!(config.pipeline.edge_key.file.as_path(), Path::new("/abs/key"));
    let files: Vec<&Path> = config.source.values().map(|source| source.secrets[0].file.as_path()).collect();
    assert_eq!(files, [dir.join("s"), dir.join("e")]);
    assert_eq!(good(None, &[("EDGE__LISTEN__CERTIFICATE", "x")]).listen.certificate.as_path(), Path::new("x"));
}

#[test]
fn every_mistake_is_told_in_one_run() {
    let file = r#"# line 1
[listen]
address = "nowhere"
certificat = "x"
[limits]
body = "many"
deadline = "20s"
hard = "10s"
count = 300
ratio = true
[log]
format = "xml"
[retry]
lanes = ["10s", "soon", 7]
[sources.a]
path = "/a"
[source.a]
tolerance = 5
secrets = [
  { id = "", file = "f" },
  { id = 5, file = "f", extra = 1 },
  { file = "f" },
  "s1",
]
[source."B b"]
path = "/b"
[source]
c = 1
"#;
    let expect = [
        "edge.toml:3: listen.address: invalid socket address syntax",
        "edge.toml:4: listen.certificat: unknown key, expected one of address, certificate",
        "edge.toml:6: limits.body: invalid value: string \"many\", expected a size such as \"256KiB\"",
        "edge.toml:7: limits.deadline: must be shorter than limits.hard",
        "edge.toml:9: limits.count: invalid value: integer `300`, expected u8",
        "edge.toml:10: limits.ratio: invalid type: boolean `true`, expected f64",
        "edge.toml:12: log.format: unknown variant `xml`, expected `json` or `human`",
        "edge.toml:14: retry.lanes[1]: invalid value: string \"soon\", expected a duration such as \"10s\"",
        "edge.toml:14: retry.lanes[2]: invalid type: integer `7`, expected a string",
        "edge.toml:15: sources: unknown key, expected one of limits, listen, log, pipeline, retry, source",
        "edge.toml:18: source.a.tolerance: invalid type: integer `5`, expected a string",
        "edge.toml:20: source.a.secrets[0].id: must not be empty",
        "edge.toml:21: source.a.secrets[1].extra: unknown field `extra`, expected `id` or `file`",
        "edge.toml:21: source.a.secrets[1].id: invalid type: integer `5`, expected a string",
        "edge.toml:22: source.a.secrets[2]: missing field `id`",
        "edge.toml:23: source.a.secrets[3]: expected a table",
        "edge.toml:25: source.B b: \"B b\" is not a source name: 1 to 64 of a-z, 0-9, _ and -, beginning with a letter or digit",
        "edge.toml:28: source.c: expected a table",
    ];
    check(file, &[], &expect);
}

#[test]
fn a_number_that_toml_cannot_hold_is_a_mistake_wherever_it_stands_in_a_file() {
    let sentence = "a number is too large: an integer has at most 64 bits, one of them for the sign";
    // A size is also read from text: this is not one.
    check("limits.body = 9223372036854775808\n", &[], &[&format!("edge.toml:1: {sentence}")]);
    check("[limits]\nbody = 0xffff_ffff_ffff_ffff\ncount = 1\n", &[], &[&format!("edge.toml:2: {sentence}")]);
    check("limits.ratio = 1e999\n", &[], &[&format!("edge.toml:1: {sentence}")]);
    check(
        "[source.a]\nsecrets = [\n  { id = 99999999999999999999, file = \"f\" },\n]\n",
        &[],
        &[&format!("edge.toml:3: {sentence}")],
    );
    // Nobody reads the template's value here, and yet it is no TOML.
    let shadowed = "[source.default]\npath = -9223372036854775809\n[source.a]\npath = \"/a\"\n";
    check(shadowed, &[], &[&format!("edge.toml:2: {sentence}")]);

    assert_eq!(good(Some("limits.body = 9223372036854775807\n"), &[]).limits.body, ByteSize::new(i64::MAX as u64));
    assert_eq!(good(Some("limits.body = \"9223372036854775808\"\n"), &[]).limits.body, ByteSize::new(1 << 63));
    assert!(good(Some("limits.ratio = inf\n"), &[]).limits.ratio.is_infinite());
    assert!(good(Some("limits.ratio = nan\n"), &[]).limits.ratio.is_nan());
}

#[test]
fn a_number_that_toml_cannot_hold_is_text_in_a_variable() {
    let body = [("EDGE__LIMITS__BODY", "9223372036854775808")];
    assert_eq!(good(None, &body).limits.body, ByteSize::new(1 << 63), "as any size is");
    let env = [
        ("EDGE__LIMITS__RATIO", "1e999"),
        ("EDGE__SOURCE__A__SECRETS", "[{id = \"s1\", file = 99999999999999999999}]"),
    ];
    let expect = [
        "EDGE__LIMITS__RATIO: limits.ratio: invalid type: string \"1e999\", expected f64",
        "EDGE__SOURCE__A__SECRETS: source.a.secrets: expected a list",
    ];
    assert_eq!(try_load(None, &env).1.expect_err("two mistakes"), expect);
}

#[test]
fn mistakes_in_the_environment_name_the_variable() {
    let env = [
        ("EDGE__LIMITS__COUNT", "many"),
        ("EDGE__LIMITS__CUONT", "5"),
        ("EDGE__LIMITS", "5"),
        ("EDGE____X", "5"),
        ("EDGE__LOG__FORMAT", "json"),
        ("EDGE__SOURCE__A__TOLERANCE", "x"),
    ];
    let expect = [
        "edge.toml:1: log: expected a table",
        "EDGE__LIMITS: limits: expected a table",
        "EDGE__LIMITS__COUNT: limits.count: invalid type: string \"many\", expected u8",
        "EDGE__LIMITS__CUONT: limits.cuont: unknown key, expected one of body, count, deadline, hard, ratio",
        "EDGE__SOURCE__A__TOLERANCE: source.a.tolerance: invalid value: string \"x\", expected a duration such as \"10s\"",
        "EDGE____X: two underscores separate levels, and each level needs a name",
    ];
    check("log = 5", &env, &expect);
}

#[test]
fn broken_syntax_is_told_with_its_lines_and_what_can_still_be_seen() {
    let several = [
        "edge.toml:2: string values must be quoted, expected literal string",
        "edge.toml:3: invalid float, expected nothing",
        "edge.toml:5: log.format: expected one of json, human",
    ];
    check("[limits]\ncount = \nratio = 1.0.0\n[log]\nformat = 1\n", &[], &several);
    check("[limits]\ncount = 1\ncount = 2\n", &[], &["edge.toml:3: duplicate key"]);
    // `hard` is shorter than `deadline`, but the rest of the file may say so.
    check("[limits]\nhard = \"1s\"\n[listen\n", &[], &["edge.toml:3: unclosed table, expected `]`"]);
}

#[test]
fn every_kind_of_value_is_read_as_what_it_is() {
    let text = r#"
yes = true
count = -7
ratio = 0.5
text = "t"
day = 2026-01-02T03:04:05Z
list = [1, [2.5, "x"], { in = false }]
[table.inner]
"a.b" = ""
"#;
    let (node, errors) = super::tree::parse(text, |line| super::tree::Origin::File { line });
    assert!(errors.is_empty(), "{errors:?}");
    let read = serde_json::Value::deserialize(super::de::NodeDeserializer::new(&node, Path::new("/etc"))).unwrap();
    let expect = serde_json::json!({
        "yes": true,
        "count": -7,
        "ratio": 0.5,
        "text": "t",
        "day": "2026-01-02T03:04:05Z",
        "list": [1, [2.5, "x"], { "in": false }],
        "table": { "inner": { "a.b": "" } },
    });
    assert_eq!(read, expect);
}

#[test]
fn what_may_be_absent_is_there_if_it_is_given() {
    #[derive(Debug, Deserialize, PartialEq)]
    struct Config {
        items: Vec<Item>,
    }
    #[derive(Debug, Deserialize, PartialEq)]
    #[serde(deny_unknown_fields)]
    struct Item {
        until: Option<Moment>,
    }
    impl Check for Config {
        fn check(&self, _: &mut Vec<Mistake>) {}
    }
    let spec = Spec { name: "edge", defaults: "items = []", env_prefix: "EDGE" };
    let load = |value: &str| load::<Config>(spec, None, [("EDGE__ITEMS".into(), value.into())].into_iter());
    let items = load("[{ until = 2023-11-14T22:13:20Z }, {}]").unwrap().items;
    assert_eq!(items, [Item { until: Some(Moment::at(1_700_000_000)) }, Item { until: None }]);
    let mistakes = load("[{}, { until = 7 }]").unwrap_err().to_string();
    assert_eq!(mistakes, "EDGE__ITEMS: items[1].until: invalid type: integer `7`, expected a string");
}

#[test]
fn a_choice_is_a_word() {
    for other in ["{ json = 1 }", "{}", "[\"json\"]", "1.5", "true"] {
        check(&format!("log.format = {other}\n"), &[], &["edge.toml:1: log.format: expected one of json, human"]);
    }
}

#[test]
fn one_run_ends_when_there_are_more_mistakes_than_anyone_reads() {
    let wrong = |count: usize| -> String {
        (0..count).map(|number| format!("[source.s{number}]\ntolerance = {number}\n")).collect()
    };
    let told = |count: usize| try_load(Some(&wrong(count)), &[]).1.expect_err("mistakes");
    assert_eq!(told(199).len(), 199);
    let many = told(250);
    assert_eq!(many.len(), 200);
    assert_eq!(many[0], "edge.toml:2: source.s0.tolerance: invalid type: integer `0`, expected a string");
}

#[test]
fn a_default_that_does_not_fit_is_told_and_ends_the_loading() {
    let defaults = DEFAULTS.replace("count = 5", "count = \"unset\"");
    let spec = Spec { name: "edge", defaults: defaults.leak(), env_prefix: "EDGE" };
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("edge.toml");
    let load = |text: &str| {
        std::fs::write(&file, text).unwrap();
        load::<Config>(spec, Some(&file), std::iter::empty())
    };
    assert_eq!(load("limits.count = 7\n").unwrap().limits.count, 7);
    let mistakes = load("limits.count = true\n").unwrap_err().to_string();
    let shown = mistakes.replace(&format!("{}/", dir.path().display()), "");
    // The default can't stand in for what was given.
    assert_eq!(
        shown,
        "edge.toml:1: limits.count: invalid type: boolean `true`, expected u8\n\
         edge.toml: limits.count: invalid type: string \"unset\", expected u8"
    );
}

#[test]
fn a_path_below_a_folder_that_is_no_text_is_a_mistake() {
    use std::os::unix::ffi::OsStrExt;
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path().join(std::ffi::OsStr::from_bytes(b"\xff"));
    std::fs::create_dir(&dir).unwrap();
    let spec = Spec { name: "edge", defaults: DEFAULTS, env_prefix: "EDGE" };
    let load = |text: &str| {
        std::fs::write(dir.join("edge.toml"), text).unwrap();
        load::<Config>(spec, Some(&dir.join("edge.toml")), std::iter::empty())
    };
    assert!(load("[limits]\ncount = 7\n").is_ok());
    let mistakes = load("[listen]\ncertificate = \"server.pem\"\n").unwrap_err();
    let keys: Vec<&str> = mistakes.iter().map(Mistake::key).collect();
    assert_eq!(keys, ["listen.certificate"]);
    assert!(mistakes.to_string().ends_with("the configuration's directory is not UTF-8"), "{mistakes}");
}

#[test]
fn mistakes_found_later_are_an_error_if_there_are_any() {
    assert_eq!(Mistakes::none_in(Vec::new()), Ok(()));
    let found = vec![Mistake::new("listen.certificate", "is expired"), Mistake::new("", "is no file")];
    let mistakes = Mistakes::none_in(found.clone()).unwrap_err();
    assert_eq!(mistakes.to_string(), "listen.certificate: is expired\nis no file");
    assert_eq!(mistakes.iter().cloned().collect::<Vec<_>>(), found);
    assert_eq!(Mistakes::from(found[0].clone()).iter().collect::<Vec<_>>(), [&found[0]]);
}

#[test]
fn the_environment_is_the_process_s_own() {
    let known: BTreeMap<String, String> = environment().collect();
    let path = std::env::var("PATH").unwrap();
    assert_eq!(known.get("PATH"), Some(&path));
    assert_eq!(known.len(), std::env::vars_os().filter(|(name, _)| name.to_str().is_some()).count());
}

#[test]
fn an_absent_file_is_a_mistake_and_the_environment_is_still_judged() {
    let spec = Spec { name: "edge", defaults: DEFAULTS, env_prefix: "EDGE" };
    let env = [("EDGE__LIMITS__COUNT".to_owned(), "-1".to_owned())];
    let mistakes = load::<Config>(spec, Some(Path::new("/nowhere/edge.toml")), env.into_iter()).unwrap_err();
    let expect = "/nowhere/edge.toml: cannot be read: No such file or directory (os error 2)\n\
                  EDGE__LIMITS__COUNT: limits.count: invalid value: integer `-1`, expected u8";
    assert_eq!(mistakes.to_string(), expect);
}

#[test]
fn what_is_missing_is_told_with_the_files_name() {
    check("[log]\nformat = \"human\"\n", &[], &["edge.toml: pipeline.edge_key.id: is required"]);
    let mistakes = try_load(None, &[("EDGE__LOG__FORMAT", "human")]).1.unwrap_err();
    assert_eq!(mistakes, ["edge: pipeline.edge_key.id: is required"]);
}

#[test]
fn a_mistake_in_a_template_is_told_once() {
    let file = "[source.default]\ntolerance = 5\n[source.a]\n[source.b]\n";
    check(file, &[], &["edge.toml:2: source.a.tolerance: invalid type: integer `5`, expected a string"]);
}

#[test]
fn relations_on_mended_values_are_not_told() {
    // The default of `hard`, 30 s, is longer: nobody asked for it here.
    let file = "[limits]\ndeadline = \"60s\"\nhard = \"never\"\n[listen]\ncertificate = 5\n";
    let expect = [
        "edge.toml:3: limits.hard: invalid value: string \"never\", expected a duration such as \"10s\"",
        "edge.toml:5: listen.certificate: invalid type: integer `5`, expected a string",
    ];
    check(file, &[], &expect);
}

#[test]
fn sizes() {
    let read = |json: &str| serde_json::from_str::<ByteSize>(json).map(ByteSize::as_u64);
    for (text, bytes) in [("\"256KiB\"", 262_144), ("\"2 MiB\"", 2_097_152), ("\"1kB\"", 1000), ("\"7\"", 7), ("7", 7)]
    {
        assert_eq!(read(text).unwrap(), bytes, "{text}");
    }
    for bad in ["\"\"", "\"-1\"", "-1", "\"1 parsec\"", "true", "1.5"] {
        assert!(read(bad).is_err(), "{bad}");
    }
    assert_eq!(ByteSize::kib(256).to_string(), "256.0 KiB");
    assert_eq!((ByteSize::kib(1).as_usize(), ByteSize::new(u64::MAX).as_usize()), (1024, usize::MAX));
}

#[test]
fn secrets_are_bytes_or_what_their_prefix_says() {
    let dir = tempfile::tempdir().unwrap();
    let file = |content: &[u8]| {
        let path = dir.path().join("secret");
        std::fs::write(&path, content).unwrap();
        SecretFile::new(path)
    };
    let cases: [(&[u8], &[u8]); 8] = [
        (b"printable text", b"printable text"),
        (b"one newline\n", b"one newline"),
        (b"two newlines\n\n", b"two newlines\n"),
        (b"dos\r\n", b"dos"),
        (b"\x00\xff\r", b"\x00\xff\r"),
        (b"hex:00fFa0\n", b"\x00\xff\xa0"),
        (b"base64:AP+g\n", b"\x00\xff\xa0"),
        (b"Hex:00", b"Hex:00"),
    ];
    for (content, secret) in cases {
        assert_eq!(file(content).load().unwrap().expose(), secret, "{content:?}");
    }
    for empty in [&b""[..], b"\n", b"\r\n", b"hex:", b"base64:\n"] {
        assert!(matches!(file(empty).load(), Err(SecretFileError::Empty { .. })), "{empty:?}");
    }
    for wrong in
        [&b"hex:0"[..], b"hex:canary", b"base64:canary!", b"base64:AP-g", b"base64:AP+", b"hex:00 ", b"base64:AP8=AP8="]
    {
        let error = file(wrong).load().unwrap_err();
        assert!(matches!(error, SecretFileError::Encoding { .. }), "{wrong:?}");
        assert!(!format!("{error} {error:?}").contains("canary"), "{error}");
    }
    assert_eq!(file(&[b'x'; 65_536]).load().unwrap().expose().len(), 65_536);
    assert!(matches!(file(&[b'x'; 65_537]).load(), Err(SecretFileError::TooLarge { .. })));
    let absent = SecretFile::new(dir.path().join("absent"));
    assert!(matches!(absent.load(), Err(SecretFileError::Unreadable { .. })));
}

#[test]
fn a_path_has_no_zero_byte_and_may_be_unset() {
    let expect = ["edge.toml:1: listen.certificate: a path cannot contain a zero byte"];
    check("listen.certificate = \"a\\u0000b\"\n", &[], &expect);
    let config = good(None, &[]);
    assert!(config.pipeline.edge_key.file.is_empty() && config.listen.certificate.is_empty());
    let config = good(Some("[pipeline.edge_key]\nfile = \"/k\"\n"), &[]);
    assert!(!config.pipeline.edge_key.file.is_empty());
    assert_eq!(format!("{:?}", config.pipeline.edge_key.file), "SecretFile(\"/k\")", "the path, and nothing in it");
}

#[test]
fn a_moment_has_an_offset_and_is_a_date_or_a_string() {
    let read = |text: &str| serde_json::from_value::<Moment>(serde_json::json!(text)).map(Moment::unix_s);
    assert_eq!(read("2023-11-14T22:13:20Z").unwrap(), 1_700_000_000);
    assert_eq!(read("2023-11-14T23:13:20+01:00").unwrap(), 1_700_000_000);
    assert_eq!(read("2023-11-14T22:13:20.9Z").unwrap(), 1_700_000_000);
    for bad in ["", "tomorrow", "2023-11-14", "2023-11-14T22:13:20", "1700000000", "2023-02-30T00:00:00Z"] {
        assert!(read(bad).is_err(), "{bad:?}");
    }
}

#[test]
fn a_period_has_both_edges_or_none() {
    let period =
        |from: Option<i64>, to: Option<i64>| Period { not_before: from.map(Moment::at), not_after: to.map(Moment::at) };
    let held = |period: Period| (0..6).filter(|now| period.holds(*now)).collect::<Vec<_>>();
    assert_eq!(held(period(None, None)), [0, 1, 2, 3, 4, 5]);
    assert_eq!(held(period(Some(2), None)), [2, 3, 4, 5]);
    assert_eq!(held(period(None, Some(2))), [0, 1]);
    assert_eq!(held(period(Some(2), Some(4))), [2, 3]);
    assert!(held(period(Some(2), Some(2))).is_empty() && period(Some(2), Some(2)).is_empty());
    assert!(!period(Some(2), Some(3)).is_empty());
    // One hands over to the next in the same second.
    assert_eq!(Period::overlap(&[period(None, Some(3)), period(Some(3), None)]), 1);
    assert_eq!(Period::overlap(&[period(None, Some(4)), period(Some(3), None), period(Some(9), None)]), 2);
    assert_eq!(Period::overlap(&[]), 0);
}

#[test]
fn a_secret_in_a_files_place_is_not_told() {
    let dir = tempfile::tempdir().unwrap();
    let error = |name: &str| SecretFile::new(dir.path().join(name)).load().unwrap_err().to_string();
    for secret in ["canary+of/a+secret/in+base64=", "canary-of-a-secret"] {
        let error = error(secret);
        assert!(!error.contains("canary") && error.contains(dir.path().to_str().unwrap()), "{error}");
    }
    for file in ["acme.hmac.s1", "hmac-s1", "secrets/a-long-name-of-a-file.key"] {
        assert!(error(file).contains(file), "{}", error(file));
    }
    // What is there and cannot be read is told, however it is called.
    let folder = "a-folder-whose-name-is-long";
    std::fs::create_dir(dir.path().join(folder)).unwrap();
    assert!(error(folder).contains(folder), "{}", error(folder));
}

#[test]
fn a_secret_in_the_place_of_a_list_or_a_table_is_not_told() {
    for text in ["secrets = \"canary\"", "secrets = [\"canary\"]", "secrets = [[\"canary\"]]", "rule = \"canary\""] {
        let mistakes = try_load(Some(&format!("[source.a]\n{text}\n")), &[]).1.expect_err("a mistake").join("\n");
        assert!(mistakes.contains("expected a") && !mistakes.contains("canary"), "{mistakes}");
    }
}

#[test]
fn what_belongs_into_a_file_is_refused_as_its_path() {
    for content in ["hex:canary", "base64:canary", "whsec_canary", "whpk_canary", "-----BEGIN PRIVATE KEY-----\ncanary"]
    {
        let text = format!("[source.a]\nsecrets = [{{ id = \"s1\", file = \"\"\"{content}\"\"\" }}]\n");
        let mistakes = try_load(Some(&text), &[]).1.expect_err("a mistake").join("\n");
        assert!(mistakes.contains("write it to one") && !mistakes.contains("canary"), "{mistakes}");
    }
}

//! Configuration: files and environment variables.

use std::collections::BTreeMap;
use std::fmt::Debug;
use std::path::Path;
use std::time::Duration;

use common::config::{self, ByteSize, Check, ConfigPath, Mistake, Mistakes, SecretFile, Spec};
use common::id::{KeyId, SourceId};
use serde::Deserialize;

use super::words::in_a_file;
use super::{Judged, Target};
use crate::plan::Plan;
use crate::sink::Behaviour;

/// A defaults document with everything that one can hold, but small: a case takes microseconds.
const SAMPLE: Spec = Spec {
    name: "sample",
    defaults: "flag = false\ncount = 7\nratio = 0.5\nsize = \"1KiB\"\nwait = \"10s\"\npath = \"\"\nlist = [\"a\"]\n\
               [key]\nid = \"k1\"\nfile = \"\"\n[source.default]\nweight = 1\nkeys = []\n",
    env_prefix: "SAMPLE",
};

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
#[expect(dead_code, reason = "they are compared by what Debug shows")]
struct Sample {
    flag: bool,
    count: u32,
    ratio: f64,
    size: ByteSize,
    #[serde(with = "config::duration")]
    wait: Duration,
    path: ConfigPath,
    list: Vec<String>,
    key: Key,
    source: BTreeMap<SourceId, Source>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
#[expect(dead_code, reason = "they are compared by what Debug shows")]
struct Key {
    id: KeyId,
    file: SecretFile,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
#[expect(dead_code, reason = "they are compared by what Debug shows")]
struct Source {
    weight: u8,
    keys: Vec<Key>,
}

impl Check for Sample {
    fn check(&self, mistakes: &mut Vec<Mistake>) {
        if u64::from(self.count) > self.size.as_u64() {
            mistakes.push(Mistake::new("count", "is more than size"));
        }
    }
}

pub(super) const CONFIGURATION: Target = Target {
    name: "configuration",
    check: |input| check(input, &SAMPLE, |file, variables| config::load::<Sample>(SAMPLE, file, variables)),
    seeds: || {
        let texts = [
            "f",
            "fflag = true\ncount = 1_000\nratio = 1e0\nsize = \"2 MiB\"\nwait = \"1m 30s\"\npath = 'a/b'\nlist = []\n",
            "fkey = { id = \"k2\", file = \"secrets/k2\" }\n[source.acme]\nweight = 0x1f\nkeys = [{ id = \"a\", file = \"b\" }]\n",
            "f[source.default]\nweight = 2\n[source.one]\n[source.two]\nkeys = [\n  { id = \"x\", file = \"y\" }, # so\n]\n",
            "fcount = 2000\n",
            "fsize=9223372036854775808",
            "eSIZE=9223372036854775808",
            "fcount = -1\nflag = \"yes\"\nlist = 7\n[key]\nid = \"\"\n[sources]\n",
            "fsize = 2024-01-01\nwait = inf\n[key\n",
            "f\"count\" = 8\nlist = [\"\"\"\na\"\"\", '''b''', \"\\u00e9\"]",
            "eCOUNT=9",
            "eKEY__ID=k.9",
            "eLIST=[\"x\", \"y\"]",
            "eSOURCE__ACME__KEYS=[{id=\"s1\", file=\"f\"}]",
            "e__COUNT=9",
            "eCOUNT=nine",
        ];
        texts.map(|text| text.as_bytes().to_vec()).into()
    },
    pieces: &[
        "\n",
        " = ",
        "\"",
        "'",
        "[",
        "]",
        "{",
        "}",
        ",",
        "#",
        "true",
        "0",
        "1e9",
        "source.",
        "[source.x]\n",
        "key.id",
        "\\u",
        "__",
        "\"\"\"",
        "2024-01-01",
        "-",
        "count = 1\n",
        "9223372036854775808",
    ],
};

/// `f` and a file, or `e` and a variable.
fn check<T: Debug>(
    input: &[u8],
    spec: &Spec,
    load: impl Fn(Option<&Path>, std::option::IntoIter<(String, String)>) -> Result<T, Mistakes>,
) -> Judged {
    let from_file = |text: &str| in_a_file(text.as_bytes(), |file| load(Some(file.path()), None.into_iter()));
    match input.split_first() {
        Some((b'f', content)) => {
            // Files that are no text are refused before they are parsed.
            let Ok(text) = std::str::from_utf8(content) else { return Judged::Refused };
            let parsed = text.parse::<toml::Table>();
            let loaded = match (from_file(text), &parsed) {
                (Ok(loaded), Ok(_)) => loaded,
                (Ok(loaded), Err(error)) => panic!("{loaded:?} was read from what is not TOML: {error}"),
                (Err(mistakes), _) => {
                    assert!(mistakes.iter().count() > 0);
                    return Judged::Refused;
                }
            };
            let again = toml::to_string(&parsed.expect("it was just seen")).expect("a table can be written");
            let again = from_file(&again).expect("what it says is a configuration again");
            assert_eq!(format!("{again:?}"), format!("{loaded:?}"));
            Judged::Accepted
        }
        Some((b'e', rest)) => {
            let text = String::from_utf8_lossy(rest);
            let (name, value) = text.split_once('=').unwrap_or((&text, ""));
            let variable = (format!("{}__{name}", spec.env_prefix), value.to_owned());
            match load(None, Some(variable).into_iter()) {
                Ok(_) => Judged::Accepted,
                Err(mistakes) => {
                    assert!(mistakes.iter().count() > 0);
                    Judged::Refused
                }
            }
        }
        Some(_) | None => Judged::Refused,
    }
}

fn plan() -> Plan {
    Plan::new("fuzz").source("acme", &["main", "out", "all"]).http("main", Behaviour::good()).output("out").file("all")
}

fn address() -> std::net::SocketAddr {
    ([127, 0, 0, 1], 9100).into()
}

const PIECES: &[&str] =
    &["\n", " = ", "\"", "[", "]", "{ ", " }", "true", "0", "\"1s\"", "\"1MiB\"", "[source.x]\n", "default", "-1", "#"];

pub(super) const INGEST: Target = Target {
    name: "ingest_configuration",
    check: |input| {
        let spec = Spec { name: "ingest", defaults: ingest::config::DEFAULTS, env_prefix: "INGEST" };
        check(input, &spec, ingest::config::Config::load)
    },
    seeds: || {
        let text = plan().ingest_toml("fuzz", "127.0.0.1:9092", address(), address());
        [format!("f{text}"), format!("f{}", ingest::config::DEFAULTS), "eLISTEN__KEY=x".into()]
            .map(String::into_bytes)
            .into()
    },
    pieces: PIECES,
};

pub(super) const PROCESSOR: Target = Target {
    name: "processor_configuration",
    check: |input| {
        let spec = Spec { name: "processor", defaults: processor::config::DEFAULTS, env_prefix: "PROCESSOR" };
        check(input, &spec, processor::config::Config::load)
    },
    seeds: || {
        let text = plan().processor_toml("fuzz", "127.0.0.1:9092", address(), |_| "http://h/".into(), Path::new("out"));
        [format!("f{text}"), format!("f{}", processor::config::DEFAULTS), "eDATA__DIR=x".into()]
            .map(String::into_bytes)
            .into()
    },
    pieces: PIECES,
};

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_number_beyond_those_of_toml_is_refused_in_a_file_as_the_reference_refuses_it() {
        let judged = |input: &str| (CONFIGURATION.check)(input.as_bytes());
        assert_eq!(judged("fsize=9223372036854775807"), Judged::Accepted);
        for number in ["9223372036854775808", "0xffffffffffffffff", "99999999999999999999"] {
            assert_eq!(judged(&format!("fsize={number}")), Judged::Refused);
        }
        assert_eq!(judged("fratio=1e999"), Judged::Refused);
        assert_eq!(judged("flist=[99999999999999999999]"), Judged::Refused);
        assert_eq!(judged("f[source.default]\nweight=99999999999999999999\n[source.a]\nweight=1"), Judged::Refused);
    }
}

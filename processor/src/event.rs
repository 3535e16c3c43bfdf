//! Finding an event's id, type and time in its payload.
//!
//! A JSON pointer (RFC 6901) is followed through the text itself, so that a member given twice is seen: which of the two
//! counts would otherwise be the parser's choice, and two parsers choose differently.

use std::fmt;
use std::str::FromStr;

use serde::de::{DeserializeSeed, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};

/// A JSON pointer. The empty one points at nothing here.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pointer(Box<[String]>);

/// A text that is not a JSON pointer. The operator's fault.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("is not a JSON pointer such as \"/id\" or \"/data/id\"")]
pub struct PointerError;

impl FromStr for Pointer {
    type Err = PointerError;

    fn from_str(text: &str) -> Result<Self, PointerError> {
        if text.is_empty() {
            return Ok(Self(Box::default()));
        }
        let steps = text.strip_prefix('/').ok_or(PointerError)?;
        let unescape = |step: &str| {
            let escapes_are_known = step.split('~').skip(1).all(|rest| rest.starts_with(['0', '1']));
            escapes_are_known.then(|| step.replace("~1", "/").replace("~0", "~")).ok_or(PointerError)
        };
        Ok(Self(steps.split('/').map(unescape).collect::<Result<_, _>>()?))
    }
}

impl Pointer {
    /// Whether it is the empty pointer.
    pub fn is_root(&self) -> bool {
        self.0.is_empty()
    }
}

impl<'de> serde::Deserialize<'de> for Pointer {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

/// What a pointer found.
#[derive(Clone, PartialEq, Eq)]
pub enum Found {
    /// A string.
    Text(String),
    /// An integer, in decimal.
    Integer(String),
    /// Nothing.
    Missing,
    /// Something else: another type, a member given twice, or a payload that is not JSON.
    Unusable,
}

impl fmt::Debug for Found {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Text(_) => "Text",
            Self::Integer(_) => "Integer",
            Self::Missing => "Missing",
            Self::Unusable => "Unusable",
        })
    }
}

/// Follows a pointer through a JSON text. The whole text is read: what follows the value must be JSON too.
pub fn find(json: &[u8], pointer: &Pointer) -> Found {
    if pointer.is_root() {
        return Found::Missing;
    }
    let mut deserializer = serde_json::Deserializer::from_slice(json);
    let found = Step(&pointer.0).deserialize(&mut deserializer);
    match found.and_then(|found| deserializer.end().map(|()| found)) {
        Ok(found) => found,
        Err(_) => Found::Unusable,
    }
}

/// What is left of a pointer.
struct Step<'a>(&'a [String]);

impl<'de> DeserializeSeed<'de> for Step<'_> {
    type Value = Found;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Found, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Step<'_> {
    type Value = Found;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JSON")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Found, A::Error> {
        let step = self.0.split_first();
        let mut found = None;
        while let Some(key) = map.next_key::<std::borrow::Cow<'de, str>>()? {
            match step {
                Some((name, rest)) if *key == **name => {
                    let value = map.next_value_seed(Step(rest))?;
                    found = Some(if found.is_some() { Found::Unusable } else { value });
                }
                Some(_) | None => {
                    map.next_value::<IgnoredAny>()?;
                }
            }
        }
        Ok(match step {
            Some(_) => found.unwrap_or(Found::Missing),
            None => Found::Unusable,
        })
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Found, A::Error> {
        let step = self.0.split_first();
        // RFC 6901: digits without a leading zero.
        let wanted = step.and_then(|(name, _)| {
            let canonical = name == "0" || !name.starts_with(['0', '+']);
            canonical.then(|| name.parse::<usize>().ok()).flatten()
        });
        let mut found = Found::Missing;
        let mut at = 0;
        loop {
            match (step, wanted) {
                (Some((_, rest)), Some(wanted)) if wanted == at => match seq.next_element_seed(Step(rest))? {
                    Some(value) => found = value,
                    None => break,
                },
                _ => {
                    if seq.next_element::<IgnoredAny>()?.is_none() {
                        break;
                    }
                }
            }
            at += 1;
        }
        Ok(if step.is_some() { found } else { Found::Unusable })
    }

    fn visit_str<E>(self, text: &str) -> Result<Found, E> {
        Ok(self.leaf(|| Found::Text(text.to_owned())))
    }

    fn visit_u64<E>(self, number: u64) -> Result<Found, E> {
        Ok(self.leaf(|| Found::Integer(number.to_string())))
    }

    fn visit_i64<E>(self, number: i64) -> Result<Found, E> {
        Ok(self.leaf(|| Found::Integer(number.to_string())))
    }

    fn visit_f64<E>(self, _: f64) -> Result<Found, E> {
        Ok(self.leaf(|| Found::Unusable))
    }

    fn visit_bool<E>(self, _: bool) -> Result<Found, E> {
        Ok(self.leaf(|| Found::Unusable))
    }

    fn visit_unit<E>(self) -> Result<Found, E> {
        Ok(self.leaf(|| Found::Unusable))
    }
}

impl Step<'_> {
    /// A value that has no members: the pointer ends here, or points past it.
    fn leaf(&self, value: impl FnOnce() -> Found) -> Found {
        if self.0.is_empty() { value() } else { Found::Missing }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(json: &str, pointer: &str, expect: &Found) {
        let pointer: Pointer = pointer.parse().unwrap();
        assert!(find(json.as_bytes(), &pointer) == *expect, "{json} {pointer:?}");
    }

    fn text(text: &str) -> Found {
        Found::Text(text.to_owned())
    }

    #[test]
    fn follows_members_and_elements() {
        check(r#"{"id":"e1"}"#, "/id", &text("e1"));
        check(r#"{"a":1,"data":{"id":"e2","x":[1]},"z":null}"#, "/data/id", &text("e2"));
        check(r#"{"list":[{"id":"a"},{"id":"b"}]}"#, "/list/1/id", &text("b"));
        check(r#"["x","y"]"#, "/0", &text("x"));
        check(r#"{"a/b":{"m~n":"v"}}"#, "/a~1b/m~0n", &text("v"));
        check(r#"{"":"v"}"#, "/", &text("v"));
        check(r#"{"i\u0064":"\u00e9"}"#, "/id", &text("é"));
        check(r#"{"id":18446744073709551615}"#, "/id", &Found::Integer("18446744073709551615".to_owned()));
        check(r#"{"id":-9223372036854775808}"#, "/id", &Found::Integer("-9223372036854775808".to_owned()));
    }

    #[test]
    fn says_what_is_missing_and_what_is_unusable() {
        for json in [r#"{}"#, r#"{"ID":"x"}"#, r#"{"id":{}}"#, "7", "\"id\"", "null", r#"[{"id":"x"}]"#] {
            check(json, "/id/x", &Found::Missing);
        }
        check(r#"["x"]"#, "/00", &Found::Missing);
        check(r#"["x"]"#, "/1", &Found::Missing);
        check(r#"{"id":"e"}"#, "", &Found::Missing);
        for value in ["1.5", "1e3", "18446744073709551616", "true", "null", "{}", "[]", r#"{"a":1}"#] {
            check(&format!(r#"{{"id":{value}}}"#), "/id", &Found::Unusable);
        }
    }

    #[test]
    fn a_member_given_twice_is_unusable() {
        check(r#"{"id":"a","id":"b"}"#, "/id", &Found::Unusable);
        check(r#"{"id":"a","i\u0064":"a"}"#, "/id", &Found::Unusable);
        check(r#"{"d":{"id":"a"},"d":{}}"#, "/d/id", &Found::Unusable);
        check(r#"{"x":1,"x":2,"id":"a"}"#, "/id", &text("a"));
    }

    #[test]
    fn a_payload_that_is_not_json_is_unusable() {
        for json in ["", "{", r#"{"id":"a"} x"#, r#"{"id":"a",}"#, "\u{feff}{\"id\":\"a\"}", "plain"] {
            check(json, "/id", &Found::Unusable);
        }
        let pointer: Pointer = "/id".parse().unwrap();
        assert!(find(b"{\"id\":\"\xff\"}", &pointer) == Found::Unusable);
        let deep = format!("{{\"x\":{}{}}}", "[".repeat(10_000), "]".repeat(10_000));
        assert!(find(deep.as_bytes(), &pointer) == Found::Missing, "what is passed over may be nested at will");
        let deep = format!("{}7{}", r#"{"id":"#.repeat(10_000), "}".repeat(10_000));
        assert!(find(deep.as_bytes(), &"/id/id".parse().unwrap()) == Found::Unusable);
    }

    #[test]
    fn pointers_have_a_grammar() {
        for bad in ["id", "a/b", "/~", "/~2", "/a~"] {
            assert!(bad.parse::<Pointer>().is_err(), "{bad}");
        }
    }
}

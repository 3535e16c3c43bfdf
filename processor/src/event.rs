//! Finding an event's id, type and time in its payload.
//!
//! A JSON pointer (RFC 6901) is followed through the text itself, so that a member given twice is seen: which of the two
//! counts would otherwise be the parser's choice, and two parsers choose differently.

use std::fmt;
use std::str::FromStr;

use serde::Deserialize;
use serde::de::{DeserializeSeed, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};

/// A JSON pointer. The empty one points at nothing here.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
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
    find_all(json, [pointer]).map_or(Found::Unusable, |[found]| found)
}

/// Follows several pointers through a JSON text, which is read once. `None` if it is not JSON, or if what one of them points at
/// is text that is not UTF-8, or nested too deep; another one alone may find something then.
pub fn find_all<const N: usize>(json: &[u8], pointers: [&Pointer; N]) -> Option<[Found; N]> {
    let mut found = [const { Found::Missing }; N];
    let left = pointers.map(|pointer| (!pointer.is_root()).then_some(&pointer.0[..]));
    let mut deserializer = serde_json::Deserializer::from_slice(json);
    Steps { left, found: &mut found }.deserialize(&mut deserializer).ok()?;
    deserializer.end().ok()?;
    Some(found)
}

/// What is left of each pointer, if it leads through the value that is read now.
type Left<'a, const N: usize> = [Option<&'a [String]>; N];

/// Follows them through a value. What a pointer finds goes to its place.
struct Steps<'a, 'f, const N: usize> {
    left: Left<'a, N>,
    found: &'f mut [Found; N],
}

impl<'de, const N: usize> DeserializeSeed<'de> for Steps<'_, '_, N> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        if self.left.iter().all(Option::is_none) {
            // Not read more closely than what nobody points at.
            return IgnoredAny::deserialize(deserializer).map(drop);
        }
        deserializer.deserialize_any(self)
    }
}

impl<'de, const N: usize> Visitor<'de> for Steps<'_, '_, N> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JSON")
    }

    fn visit_map<A: MapAccess<'de>>(mut self, mut map: A) -> Result<(), A::Error> {
        self.enter();
        let mut seen = [false; N];
        while let Some(below) = map.next_key_seed(Name(&self.left))? {
            map.next_value_seed(Steps { left: below, found: &mut *self.found })?;
            for at in (0..N).filter(|&at| below[at].is_some()) {
                if seen[at] {
                    self.found[at] = Found::Unusable;
                }
                seen[at] = true;
            }
        }
        Ok(())
    }

    fn visit_seq<A: SeqAccess<'de>>(mut self, mut seq: A) -> Result<(), A::Error> {
        self.enter();
        let mut at = 0;
        loop {
            let below = below(&self.left, |name| element(name) == Some(at));
            if seq.next_element_seed(Steps { left: below, found: &mut *self.found })?.is_none() {
                return Ok(());
            }
            at += 1;
        }
    }

    fn visit_str<E>(self, text: &str) -> Result<(), E> {
        self.leaf(|| Found::Text(text.to_owned()))
    }

    fn visit_u64<E>(self, number: u64) -> Result<(), E> {
        self.leaf(|| Found::Integer(number.to_string()))
    }

    fn visit_i64<E>(self, number: i64) -> Result<(), E> {
        self.leaf(|| Found::Integer(number.to_string()))
    }

    fn visit_f64<E>(self, _: f64) -> Result<(), E> {
        self.leaf(|| Found::Unusable)
    }

    fn visit_bool<E>(self, _: bool) -> Result<(), E> {
        self.leaf(|| Found::Unusable)
    }

    fn visit_unit<E>(self) -> Result<(), E> {
        self.leaf(|| Found::Unusable)
    }
}

impl<const N: usize> Steps<'_, '_, N> {
    /// A value with members or elements: of no use to a pointer that ends here.
    fn enter(&mut self) {
        for (left, found) in self.left.iter().zip(&mut *self.found) {
            if left.is_some_and(<[String]>::is_empty) {
                *found = Found::Unusable;
            }
        }
    }

    /// A value that has no members: a pointer ends here, or points past it.
    fn leaf<E>(self, value: impl Fn() -> Found) -> Result<(), E> {
        for (left, found) in self.left.iter().zip(self.found) {
            if let Some(left) = left {
                *found = if left.is_empty() { value() } else { Found::Missing };
            }
        }
        Ok(())
    }
}

/// Reads a member's name, and answers what is left below it.
struct Name<'l, 'a, const N: usize>(&'l Left<'a, N>);

impl<'de, 'a, const N: usize> DeserializeSeed<'de> for Name<'_, 'a, N> {
    type Value = Left<'a, N>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        deserializer.deserialize_str(self)
    }
}

impl<'a, const N: usize> Visitor<'_> for Name<'_, 'a, N> {
    type Value = Left<'a, N>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a member's name")
    }

    fn visit_str<E>(self, text: &str) -> Result<Self::Value, E> {
        Ok(below(self.0, |name| name == text))
    }
}

/// What is left of those pointers that lead to the member or element of this name.
fn below<'a, const N: usize>(left: &Left<'a, N>, is_it: impl Fn(&str) -> bool) -> Left<'a, N> {
    left.map(|left| {
        let (name, left) = left?.split_first()?;
        is_it(name).then_some(left)
    })
}

/// The place of an element, as RFC 6901 has it: digits without a leading zero.
fn element(name: &str) -> Option<usize> {
    let canonical = name == "0" || !name.starts_with(['0', '+']);
    canonical.then(|| name.parse().ok()).flatten()
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
    fn several_are_followed_in_one_pass() {
        let pointers: Vec<Pointer> = ["/id", "/data/id", "/data/list/1", "/data", "/none", "/id", ""]
            .iter()
            .map(|text| text.parse().unwrap())
            .collect();
        let all = |json: &str| find_all(json.as_bytes(), pointers.iter().collect::<Vec<_>>().try_into().unwrap());
        let json = r#"{"data":{"list":["a",7],"id":"e2"},"id":"e1","x":{"id":"other"}}"#;
        let expect = [
            text("e1"),
            text("e2"),
            Found::Integer("7".to_owned()),
            Found::Unusable,
            Found::Missing,
            text("e1"),
            Found::Missing,
        ];
        assert!(all(json) == Some(expect));
        let json = r#"{"id":"e1","data":{"id":"e2","id":"e2"},"data":{"list":["a","b"]}}"#;
        let [id, data_id, element, data, ..] = all(json).unwrap();
        assert!(id == text("e1") && [data_id, element, data].iter().all(|found| *found == Found::Unusable));
        assert!(all("{").is_none() && all(r#"{"id":"a"} x"#).is_none());
    }

    #[test]
    fn what_cannot_be_read_together_may_be_read_apart() {
        let (id, kind): (Pointer, Pointer) = ("/id".parse().unwrap(), "/type".parse().unwrap());
        let json = b"{\"id\":\"e\",\"type\":\"\xff\"}";
        assert!(find_all(json, [&id, &kind]).is_none());
        assert!(find(json, &id) == text("e") && find(json, &kind) == Found::Unusable);
    }

    #[test]
    fn pointers_have_a_grammar() {
        for bad in ["id", "a/b", "/~", "/~2", "/a~"] {
            assert!(bad.parse::<Pointer>().is_err(), "{bad}");
        }
        let read = |json: &str| serde_json::from_str::<Pointer>(json).map_err(|error| error.to_string());
        assert_eq!(read("\"/id\""), Ok("/id".parse().unwrap()));
        let error = read("\"id\"").unwrap_err();
        assert!(error.starts_with("is not a JSON pointer such as \"/id\""), "{error}");
        assert!("".parse::<Pointer>().unwrap().is_root() && !"/".parse::<Pointer>().unwrap().is_root());
    }

    #[test]
    fn what_was_found_is_not_shown() {
        let found = [r#"{"id":"canary"}"#, r#"{"id":471147114711}"#, "{}", "["];
        let shown = found.map(|json| format!("{:?}", find(json.as_bytes(), &"/id".parse().unwrap())));
        assert_eq!(shown, ["Text", "Integer", "Missing", "Unusable"]);
    }
}

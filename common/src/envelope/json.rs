//! Reading a JSON object without forgiving anything, and without giving up at the first surprise.
//!
//! serde's derived structs take arrays for objects, and `serde_json::Value` keeps the last of two equal members. Here
//! an object is read to its end and handed over as a list, so that the caller can tell "not JSON" from "another
//! shape". Invalid UTF-8, a byte order mark, trailing bytes and more than 128 levels are not JSON.

use std::borrow::Cow;
use std::fmt;

use serde::de::{Deserialize, Deserializer, Error, MapAccess, SeqAccess, Visitor};

/// Most members that an object may have.
const MEMBERS_MAX: usize = 32;

/// A value, as far as anyone here asks.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Value<'a> {
    /// A string; borrowed from the input unless it holds escapes.
    Text(Cow<'a, str>),
    /// An integer from 0 to `u64::MAX`.
    Natural(u64),
    /// Anything else, read over.
    Other,
}

/// What [`document`] found.
#[derive(Debug)]
pub(super) enum Document<'a> {
    /// An object, its members in order.
    Object(Vec<(Cow<'a, str>, Value<'a>)>),
    /// An object with a name twice or with more than 32 members.
    UnfitObject,
    /// JSON that does not begin with an object at its first byte.
    NoObject,
}

/// Reads one JSON document. The error is deliberately without detail: it could repeat the document.
pub(super) fn document(text: &[u8]) -> Result<Document<'_>, NotJson> {
    let document = match text.first() {
        Some(b'{') => serde_json::from_slice(text),
        Some(_) | None => serde_json::from_slice::<Value<'_>>(text).map(|_| Document::NoObject),
    };
    document.map_err(|_| NotJson)
}

/// The text is not one JSON document.
#[derive(Debug)]
pub(super) struct NotJson;

impl<'de> Deserialize<'de> for Document<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(ObjectVisitor)
    }
}

struct ObjectVisitor;

impl<'de> Visitor<'de> for ObjectVisitor {
    type Value = Document<'de>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Document<'de>, A::Error> {
        let mut members: Vec<(Cow<'de, str>, Value<'de>)> = Vec::new();
        let mut unfit = false;
        while let Some((name, value)) = map.next_entry::<Value<'de>, Value<'de>>()? {
            let Value::Text(name) = name else { return Err(A::Error::custom("a name is a string")) };
            unfit |= members.len() == MEMBERS_MAX || members.iter().any(|(earlier, _)| *earlier == name);
            if !unfit {
                members.push((name, value));
            }
        }
        Ok(if unfit { Document::UnfitObject } else { Document::Object(members) })
    }
}

impl<'de> Deserialize<'de> for Value<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(ValueVisitor)
    }
}

struct ValueVisitor;

impl<'de> Visitor<'de> for ValueVisitor {
    type Value = Value<'de>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a value")
    }

    fn visit_borrowed_str<E: Error>(self, text: &'de str) -> Result<Value<'de>, E> {
        Ok(Value::Text(Cow::Borrowed(text)))
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<Value<'de>, E> {
        Ok(Value::Text(Cow::Owned(text.to_owned())))
    }

    fn visit_u64<E: Error>(self, number: u64) -> Result<Value<'de>, E> {
        Ok(Value::Natural(number))
    }

    fn visit_i64<E: Error>(self, _: i64) -> Result<Value<'de>, E> {
        Ok(Value::Other)
    }

    fn visit_f64<E: Error>(self, _: f64) -> Result<Value<'de>, E> {
        Ok(Value::Other)
    }

    fn visit_bool<E: Error>(self, _: bool) -> Result<Value<'de>, E> {
        Ok(Value::Other)
    }

    fn visit_unit<E: Error>(self) -> Result<Value<'de>, E> {
        Ok(Value::Other)
    }

    // Nested values are read by this visitor too and not by `IgnoredAny`, which serde_json reads over without counting
    // levels.
    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Value<'de>, A::Error> {
        while seq.next_element::<Value<'de>>()?.is_some() {}
        Ok(Value::Other)
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Value<'de>, A::Error> {
        while map.next_entry::<Value<'de>, Value<'de>>()?.is_some() {}
        Ok(Value::Other)
    }
}

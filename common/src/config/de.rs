//! Reads a type from a configuration tree. Paths are resolved on the way, see [`PATH_TOKEN`].

use std::path::Path;

use serde::de::value::{Error, MapDeserializer, SeqDeserializer};
use serde::de::{Deserializer, Error as _, IntoDeserializer, Visitor};
use serde::forward_to_deserialize_any;

use super::tree::{Node, Value};

/// The name by which [`super::ConfigPath`] asks for its text as a path relative to the configuration's directory.
pub(super) const PATH_TOKEN: &str = "$common::config::ConfigPath";

/// A node that serde can read from.
#[derive(Clone, Copy)]
pub(super) struct NodeDeserializer<'a> {
    node: &'a Node,
    dir: &'a Path,
}

impl<'a> NodeDeserializer<'a> {
    /// Reads from `node`; paths in it start at `dir`.
    pub(super) fn new(node: &'a Node, dir: &'a Path) -> Self {
        Self { node, dir }
    }
}

impl<'de> IntoDeserializer<'de, Error> for NodeDeserializer<'_> {
    type Deserializer = Self;

    fn into_deserializer(self) -> Self {
        self
    }
}

impl<'de> Deserializer<'de> for NodeDeserializer<'_> {
    type Error = Error;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        let dir = self.dir;
        match &self.node.value {
            Value::Bool(value) => visitor.visit_bool(*value),
            Value::Integer(value) => visitor.visit_i64(*value),
            Value::Float(value) => visitor.visit_f64(*value),
            Value::String(value) => visitor.visit_str(value),
            Value::Array(elements) => visitor
                .visit_seq(SeqDeserializer::new(elements.iter().map(|element| Self { node: &element.node, dir }))),
            Value::Table(entries) => visitor.visit_map(MapDeserializer::new(
                entries.iter().map(|(key, node)| (key.as_str(), NodeDeserializer { node, dir })),
            )),
        }
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        // TOML has no null: a value that is there is there.
        visitor.visit_some(self)
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(self, name: &'static str, visitor: V) -> Result<V::Value, Error> {
        match &self.node.value {
            Value::String(text) if name == PATH_TOKEN && !text.is_empty() => {
                let path = self.dir.join(text);
                let path = path.to_str().ok_or_else(|| Error::custom("the configuration's directory is not UTF-8"))?;
                visitor.visit_newtype_struct(path.into_deserializer())
            }
            _ => visitor.visit_newtype_struct(self),
        }
    }

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        _name: &'static str,
        _fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Error> {
        match &self.node.value {
            Value::Table(_) => self.deserialize_any(visitor),
            // Without this, serde would read a list into a struct by position.
            Value::Array(_) | Value::Bool(_) | Value::Integer(_) | Value::Float(_) | Value::String(_) => {
                Err(Error::custom("expected a table"))
            }
        }
    }

    fn deserialize_seq<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        match &self.node.value {
            Value::Array(_) => self.deserialize_any(visitor),
            // serde would repeat the value, and lists of secrets' files are where a secret is most likely put by mistake.
            Value::Table(_) | Value::Bool(_) | Value::Integer(_) | Value::Float(_) | Value::String(_) => {
                Err(Error::custom("expected a list"))
            }
        }
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        _name: &'static str,
        variants: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Error> {
        match &self.node.value {
            Value::String(text) => visitor.visit_enum(text.as_str().into_deserializer()),
            // A choice is a word: none of them has values of its own.
            Value::Table(_) | Value::Bool(_) | Value::Integer(_) | Value::Float(_) | Value::Array(_) => {
                Err(Error::custom(format!("expected one of {}", variants.join(", "))))
            }
        }
    }

    forward_to_deserialize_any! {
        bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char str string bytes byte_buf unit unit_struct tuple
        tuple_struct map identifier ignored_any
    }
}

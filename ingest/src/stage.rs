//! A request's stages, each a type that only the one before it can make: [`raw`] → [`admitted`] → [`authenticated`] →
//! [`fresh`] → [`record`] → [`charged`]. So no check can be skipped or done in another order.
//!
//! Each stage lives in a module of its own, with private fields, and its constructor takes the stage before it by value.

pub(crate) mod admitted;
pub(crate) mod authenticated;
mod body;
pub(crate) mod charged;
pub(crate) mod fresh;
pub(crate) mod raw;
pub(crate) mod record;

#[cfg(test)]
mod tests;

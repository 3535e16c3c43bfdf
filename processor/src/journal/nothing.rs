//! The journal of a build that keeps none.

use common::id::KeyedId;
use common::kafka::consumer::Commit;
use common::record::Head;

use super::Point;
use crate::engine::{Lane, Turn};
use crate::sink::Refusal;

pub(crate) fn pass(_: Point) {}

pub(crate) fn started(_: &Turn) {}

pub(crate) fn answered(_: &Turn, _: &Head, _: KeyedId, _: &Result<(), Refusal>) {}

pub(crate) fn committed(_: &Lane, _: &[Commit]) {}

pub(crate) fn assigned(_: &Lane, _: usize) {}

pub(crate) fn revoked(_: &Lane, _: usize) {}

//! The fault suite: what we promise, held against what processes, brokers and disks do to it.
//!
//! A [`session`] runs real binaries on three real brokers, sends events while a [fault](injections) is
//! done to them again and again, waits until everything is committed, and hands everything that was seen to the
//! [`checker`]: what was acknowledged to senders, what each sink saw, what lies in `dead`, and the [`journal`]s that the
//! processors wrote and that survive `kill -9`. A [control](controls) is the same session with one rule of the processor
//! broken on purpose; its own invariant must notice.

pub mod checker;
pub mod controls;
pub mod injections;
pub mod journal;
pub mod proxy;
pub mod recorder;
pub mod recreation;
pub mod report;
pub mod sending;
pub mod session;
pub mod suite;

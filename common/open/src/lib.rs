//! Sealing and opening: the half of the crypto that reads payloads.
//!
//! The edge does not depend on this crate, so that no build of it can open what it forwards. The AEAD library is named
//! in [`aead`] only. The formats and their parsers are `common::envelope`.

pub mod aead;
mod keyring;
mod opening;
mod sealing;

pub use aead::{Key, KeyError, Nonce};
pub use keyring::{Keyring, KeyringError};
pub use opening::{OpenError, Opened, open};
pub use sealing::{SealError, SealedNative, seal_jwe, seal_jwe_with, seal_native, seal_native_with};

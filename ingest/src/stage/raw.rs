//! A request as the HTTP library parsed it: nothing about it is known yet.

use std::net::IpAddr;
use std::sync::Arc;

use common::pin::Pin;
use http::request::Parts;

use crate::settings::Settings;

/// The connection that a request came on.
#[derive(Debug)]
pub(crate) struct Client {
    address: IpAddr,
    key: Option<Pin>,
}

impl Client {
    /// A client at this address, with the key of its certificate if it has shown one.
    pub(crate) fn new(address: IpAddr, key: Option<Pin>) -> Self {
        Self { address, key }
    }

    /// Whom the connection is for.
    pub(crate) fn address(&self) -> IpAddr {
        self.address
    }

    /// The key of its certificate, which was valid in the handshake.
    pub(crate) fn key(&self) -> Option<Pin> {
        self.key
    }
}

/// The first stage.
pub(crate) struct RawRequest<'a> {
    pub(crate) head: Parts,
    /// How long its body is at least, as far as the head says.
    pub(crate) body_len_min: u64,
    pub(crate) client: &'a Client,
    /// What holds for it until its body is complete.
    pub(crate) settings: Arc<Settings>,
}

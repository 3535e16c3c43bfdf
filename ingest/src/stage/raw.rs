//! A request as the HTTP library parsed it: nothing about it is known yet.

use std::net::IpAddr;
use std::sync::atomic::{AtomicBool, Ordering};

use http::Request;
use http::request::Parts;

/// The connection that a request came on.
#[derive(Debug)]
pub(crate) struct Client {
    address: IpAddr,
    unread: AtomicBool,
}

impl Client {
    /// A client at this address.
    pub(crate) fn new(address: IpAddr) -> Self {
        Self { address, unread: AtomicBool::new(false) }
    }

    /// Whom the connection is for.
    pub(crate) fn address(&self) -> IpAddr {
        self.address
    }

    /// Notes whether a part of the latest body was left unread: then closing must not cut off our answer.
    pub(crate) fn set_unread(&self, unread: bool) {
        self.unread.store(unread, Ordering::Relaxed);
    }

    /// Whether a part of the latest body was left unread.
    pub(crate) fn unread(&self) -> bool {
        self.unread.load(Ordering::Relaxed)
    }
}

/// The first stage.
#[derive(Debug)]
pub(crate) struct RawRequest<'a, B> {
    pub(crate) head: Parts,
    pub(crate) body: B,
    pub(crate) client: &'a Client,
}

impl<'a, B> RawRequest<'a, B> {
    /// Any request may begin.
    pub(crate) fn new(request: Request<B>, client: &'a Client) -> Self {
        let (head, body) = request.into_parts();
        Self { head, body, client }
    }
}

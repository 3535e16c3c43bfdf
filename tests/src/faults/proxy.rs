//! Proxies between one processor and the brokers, of which single ones can be cut.
//!
//! The brokers have a second way in and tell clients of it that they are where the proxies are; so a client that begins at
//! a proxy reaches every broker through the proxies only.

use std::net::SocketAddr;
use std::sync::Arc;

use anyhow::Result;
use common::shutdown::Group;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

/// See the module: one proxy of each broker, in their order.
#[derive(Debug, Clone)]
pub struct Proxies {
    addresses: Vec<SocketAddr>,
    cuts: Vec<Arc<watch::Sender<bool>>>,
}

impl Proxies {
    /// Starts them, as tasks of `group`: of each broker, where it listens, and where it tells clients that it is.
    pub async fn start(group: &Group, brokers: &[(SocketAddr, SocketAddr)]) -> Result<Self> {
        let mut proxies = Self { addresses: Vec::new(), cuts: Vec::new() };
        for (listens, tells) in brokers {
            let listener = TcpListener::bind(tells).await?;
            let (cut, is_cut) = watch::channel(false);
            group.spawn("proxy", accept(group.clone(), listener, *listens, is_cut));
            proxies.addresses.push(*tells);
            proxies.cuts.push(Arc::new(cut));
        }
        Ok(proxies)
    }

    /// What a client begins with.
    pub fn bootstrap(&self) -> String {
        self.addresses.iter().map(SocketAddr::to_string).collect::<Vec<_>>().join(",")
    }

    /// Cuts the connections to the broker of a number, from 1, and lets none begin; or lets them again.
    pub fn cut(&self, number: usize, cut: bool) {
        self.cuts[number - 1].send_replace(cut);
    }

    /// Cuts none.
    pub fn mend(&self) {
        (1..=self.cuts.len()).for_each(|number| self.cut(number, false));
    }
}

async fn accept(group: Group, listener: TcpListener, broker: SocketAddr, is_cut: watch::Receiver<bool>) {
    let token = group.token();
    while let Some(Ok((mut client, _))) = token.run_until_cancelled(listener.accept()).await {
        let (token, mut is_cut) = (token.clone(), is_cut.clone());
        if *is_cut.borrow_and_update() {
            continue;
        }
        group.spawn("proxied", async move {
            let Ok(mut server) = TcpStream::connect(broker).await else { return };
            client.set_nodelay(true).ok();
            server.set_nodelay(true).ok();
            tokio::select! {
                // However they end: both sides are closed then.
                _ = tokio::io::copy_bidirectional(&mut client, &mut server) => {}
                _ = is_cut.wait_for(|cut| *cut) => {}
                () = token.cancelled() => {}
            }
        });
    }
}

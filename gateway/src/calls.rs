//! The gateway's side of the VIP: a few sockets, so that neither one socket's lock nor one receive
//! task becomes the limit.

use warmpath_sdk::{Call, CallError, Client, ClientConfig, ConnectError, Response};

use crate::config::Config;

/// Clients of one VIP.
#[derive(Debug)]
pub(crate) struct Calls {
    clients: Box<[Client]>,
}

impl Calls {
    pub(crate) fn connect(config: &Config) -> Result<Self, ConnectError> {
        let clients: Result<_, _> = (0..config.sockets)
            .map(|_| Client::connect(config.vip, ClientConfig::default()))
            .collect();
        Ok(Self { clients: clients? })
    }

    /// Calls on the session's own socket, which knows the session's route cookie.
    pub(crate) async fn call(&self, call: Call) -> Result<Response, CallError> {
        let session = call.session.unwrap_or_else(rand::random);
        let count = self.clients.len() as u64;
        let index = usize::try_from(session % count).unwrap_or(0);
        match self.clients.get(index) {
            Some(client) => client.call(call).await,
            // The configuration asks for at least one socket, and the index is below their number.
            None => Err(CallError::TooManyInFlight { limit: 0 }),
        }
    }
}

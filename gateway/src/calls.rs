//! The gateway's side of the VIP: a few sockets, so that neither one socket's lock nor one receive
//! task becomes the limit.

use warmpath_sdk::{
    Call, CallError, Client, ClientConfig, ConnectError, Response,
    stream::{Reply, RequestBody},
};

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

    /// Calls, and waits for the whole reply.
    pub(crate) async fn call(&self, call: Call) -> Result<Response, CallError> {
        self.client_of(&call)?.call(call).await
    }

    /// Calls, and takes what comes, bit by bit if need be.
    pub(crate) async fn stream(
        &self,
        call: Call,
        body: Option<RequestBody>,
    ) -> Result<Reply, CallError> {
        self.client_of(&call)?.stream(call, body).await
    }

    /// The session's own socket, which knows the session's route cookie.
    fn client_of(&self, call: &Call) -> Result<&Client, CallError> {
        let session = call.session.unwrap_or_else(rand::random);
        let count = self.clients.len() as u64;
        let index = usize::try_from(session % count).unwrap_or(0);
        // The configuration asks for at least one socket, and the index is below their number.
        let client = self.clients.get(index);
        client.ok_or(CallError::TooManyInFlight { limit: 0 })
    }
}

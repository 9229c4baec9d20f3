//! The client's ends of flows: a socket each, with a port of its own.

use std::{
    collections::{HashMap, hash_map::Entry},
    net::{Ipv4Addr, UdpSocket},
};

use anyhow::{Context as _, Result};
use testbed::topology::VIP;

use super::kinds::{FLOW_PORT, FLOWS, source_port};

/// Opens a flow's socket with its first packet, and closes it when the flow that comes after it begins.
pub(super) struct Flows {
    client: Ipv4Addr,
    /// By place among the [`FLOWS`] at a time: which flow has it.
    open: HashMap<u64, (u64, UdpSocket)>,
}

impl Flows {
    pub(super) fn of(client: Ipv4Addr) -> Self {
        Self {
            client,
            open: HashMap::new(),
        }
    }

    /// Where `flow` sends from. To be called in the client's network namespace.
    pub(super) fn socket(&mut self, flow: u64) -> Result<&UdpSocket> {
        let client = self.client;
        let entry = match self.open.entry(flow % FLOWS) {
            Entry::Occupied(entry) if entry.get().0 == flow => entry,
            entry => entry.insert_entry((flow, open(client, flow)?)),
        };
        Ok(&entry.into_mut().1)
    }
}

fn open(client: Ipv4Addr, flow: u64) -> Result<UdpSocket> {
    let port = source_port(flow)
        .with_context(|| format!("flow {flow} has no port: fewer changes, or a lower rate"))?;
    let socket = UdpSocket::bind((client, port))
        .with_context(|| format!("opening port {port} for flow {flow}"))?;
    socket.connect((VIP, FLOW_PORT))?;
    Ok(socket)
}

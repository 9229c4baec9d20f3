//! The way out: by which interface, to which MAC address.

use ebpf_common::maps::WorkerInfo;

use crate::{DropReason, Packet, Tables};

/// How a packet leaves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Exit {
    /// MAC addresses of receiver and sender, as they lie in the frame.
    pub(super) macs: [[u8; 6]; 2],
    /// The interface to redirect to; `None` is the one it came in by.
    pub(super) redirect: Option<u32>,
}

impl Exit {
    /// The one that the worker's row names.
    ///
    /// # Errors
    /// Its interface is no port.
    #[inline(always)]
    pub(super) fn configured<P: Packet, T: Tables>(
        packet: &P,
        info: &WorkerInfo,
        tables: &T,
    ) -> Result<Self, DropReason> {
        // Receiver and sender lie in the row as they lie in the frame.
        let macs = [info.dst_mac, info.src_mac];
        Self::by(packet, info.ifindex, macs, tables)
    }

    /// The one by interface `ifindex`; 0 is the one of arrival.
    #[inline(always)]
    pub(super) fn by<P: Packet, T: Tables>(
        packet: &P,
        ifindex: u32,
        macs: [[u8; 6]; 2],
        tables: &T,
    ) -> Result<Self, DropReason> {
        let redirect = (ifindex != 0 && ifindex != packet.ingress_ifindex()).then_some(ifindex);
        if redirect.is_some_and(|ifindex| !tables.redirect(ifindex)) {
            return Err(DropReason::NoPort);
        }
        Ok(Self { macs, redirect })
    }
}

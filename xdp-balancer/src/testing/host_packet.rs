//! A frame in plain bytes.

use std::cell::RefCell;

use ebpf_common::{event::CAPTURE_LEN, schema::SCAN_MAX};
use zerocopy::{FromBytes, Immutable, IntoBytes};

use crate::{CutError, FibParams, FibQuery, NextHop, Packet, parse::ethernet};

/// Room in front of a frame, as a driver has it (XDP_PACKET_HEADROOM, linux/bpf.h).
pub const HEAD_ROOM: u32 = 256;

/// What the room in front of a frame is filled with here, so that bytes that nobody writes are seen.
const HEAD_ROOM_BYTE: u8 = 0xa5;

/// A frame as the host sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HostPacket {
    /// The frame.
    pub bytes: Vec<u8>,
    /// The interface it came in by.
    pub ingress_ifindex: u32,
    /// Bytes of room in front of the frame.
    pub head_room: u32,
    /// What the FIB says of every next hop.
    pub next_hop: NextHop,
    /// What the FIB was asked.
    pub queries: RefCell<Vec<FibParams>>,
    /// Makes [`Packet::cut`] fail, as a driver may.
    pub refuses_cut: bool,
}

impl HostPacket {
    /// A frame that came in by interface 1, as BPF_PROG_TEST_RUN has it.
    #[must_use]
    pub fn new(bytes: Vec<u8>) -> Self {
        Self {
            bytes,
            ingress_ifindex: 1,
            head_room: HEAD_ROOM,
            next_hop: NextHop::NoRoute,
            queries: RefCell::default(),
            refuses_cut: false,
        }
    }
}

impl Packet for HostPacket {
    fn len(&self) -> u32 {
        u32::try_from(self.bytes.len()).expect("a frame is short")
    }

    fn ingress_ifindex(&self) -> u32 {
        self.ingress_ifindex
    }

    fn read<T: FromBytes>(&self, offset: u32) -> Option<T> {
        let tail = self.bytes.get(offset as usize..)?;
        T::read_from_prefix(tail).ok().map(|(value, _)| value)
    }

    fn write<T: IntoBytes + Immutable>(&mut self, offset: u32, value: T) -> Option<()> {
        let tail = self.bytes.get_mut(offset as usize..)?;
        value.write_to_prefix(tail).ok()
    }

    fn copy_out(&self, offset: u32, len: u32, buffer: &mut [u8; SCAN_MAX]) -> Option<()> {
        let bytes = self.bytes.get(offset as usize..)?.get(..len as usize)?;
        buffer.get_mut(..bytes.len())?.copy_from_slice(bytes);
        Some(())
    }

    fn cut(&mut self, len: u32) -> Result<(), CutError> {
        if self.refuses_cut || len > self.len() {
            return Err(CutError);
        }
        self.bytes.truncate(len as usize);
        Ok(())
    }

    fn grow(&mut self, bytes: u32) -> Result<(), CutError> {
        self.head_room = self.head_room.checked_sub(bytes).ok_or(CutError)?;
        let room = std::iter::repeat_n(HEAD_ROOM_BYTE, bytes as usize);
        self.bytes.splice(..0, room);
        Ok(())
    }

    fn strip(&mut self, bytes: u32) -> Result<(), CutError> {
        if bytes + ethernet::HEADER_LEN > self.len() {
            return Err(CutError);
        }
        self.bytes.drain(..bytes as usize);
        self.head_room += bytes;
        Ok(())
    }

    fn capture(&self, into: &mut [u8; CAPTURE_LEN]) -> (u32, u16) {
        let captured = self.bytes.len().min(CAPTURE_LEN);
        for (to, from) in into.iter_mut().zip(&self.bytes) {
            *to = *from;
        }
        let captured = u16::try_from(captured).expect("a capture is short");
        (self.len(), captured)
    }

    fn next_hop(&self, query: &FibQuery<'_>) -> NextHop {
        let params = FibParams::new(query, self.ingress_ifindex);
        self.queries.borrow_mut().push(params);
        self.next_hop
    }
}

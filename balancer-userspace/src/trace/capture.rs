//! Frames as a pcapng file (draft-ietf-opsawg-pcapng): each packet as it came in and, if it left, as it left, with the
//! direction in its flags and what became of it in its comment, which Wireshark shows.

use std::{
    collections::BTreeMap,
    io::{self, Write},
};

use ebpf_common::event::{CAPTURE_LEN, TraceEvent};

use super::seen::{name, outcome, wall_clock};

/// Block types.
const SECTION_HEADER: u32 = 0x0a0d_0d0a;
const INTERFACE: u32 = 1;
const ENHANCED_PACKET: u32 = 6;
/// Tells the reader our byte order.
const BYTE_ORDER: u32 = 0x1a2b_3c4d;
/// Options.
const COMMENT: u16 = 1;
const IF_NAME: u16 = 2;
const IF_TSRESOL: u16 = 9;
const EPB_FLAGS: u16 = 2;
/// Directions, in the lowest bits of `epb_flags`.
const INBOUND: u32 = 1;
const OUTBOUND: u32 = 2;
/// LINKTYPE_ETHERNET.
const ETHERNET: u16 = 1;
/// Time stamps are in 10^-9 seconds.
const NANOSECONDS: u8 = 9;

/// A pcapng file that is being written.
#[derive(Debug)]
pub struct Capture<W: Write> {
    out: W,
    /// Number in the file, by the kernel's index.
    interfaces: BTreeMap<u32, u32>,
}

impl<W: Write> Capture<W> {
    /// Begins the file.
    ///
    /// # Errors
    /// Writing fails.
    pub fn new(out: W) -> io::Result<Self> {
        let mut capture = Self {
            out,
            interfaces: BTreeMap::new(),
        };
        let mut body = Vec::new();
        body.extend(BYTE_ORDER.to_le_bytes());
        body.extend(1_u16.to_le_bytes()); // version 1.0
        body.extend(0_u16.to_le_bytes());
        body.extend(u64::MAX.to_le_bytes()); // of a length that is not known yet
        capture.block(SECTION_HEADER, &body)?;
        Ok(capture)
    }

    /// Writes the frames of `event`.
    ///
    /// # Errors
    /// Writing fails.
    pub fn write(&mut self, event: &TraceEvent) -> io::Result<()> {
        let head = &event.head;
        let comment = outcome(head).map_or_else(String::new, name);
        let came_ns = u64::try_from(wall_clock(head.time_ns).as_nanos()).unwrap_or(u64::MAX);
        let came_in = Frame {
            ifindex: head.ifindex,
            time_ns: came_ns,
            bytes: captured(&event.frame, head.captured),
            len: head.frame_len,
            direction: INBOUND,
            comment: &comment,
        };
        self.frame(&came_in)?;
        if head.out_ifindex == 0 {
            return Ok(());
        }
        self.frame(&Frame {
            ifindex: head.out_ifindex,
            time_ns: came_ns.saturating_add(head.duration_ns),
            bytes: captured(&event.sent, head.captured_sent),
            len: head.sent_len,
            direction: OUTBOUND,
            comment: &comment,
        })
    }

    /// Hands out what is buffered.
    ///
    /// # Errors
    /// Writing fails.
    pub fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }

    fn frame(&mut self, frame: &Frame<'_>) -> io::Result<()> {
        let interface = self.interface(frame.ifindex)?;
        let mut body = Vec::with_capacity(CAPTURE_LEN + 64);
        body.extend(interface.to_le_bytes());
        body.extend(((frame.time_ns >> 32) as u32).to_le_bytes());
        body.extend((frame.time_ns as u32).to_le_bytes());
        body.extend((frame.bytes.len() as u32).to_le_bytes());
        body.extend(frame.len.to_le_bytes());
        padded(&mut body, frame.bytes);
        option(&mut body, EPB_FLAGS, &frame.direction.to_le_bytes());
        option(&mut body, COMMENT, frame.comment.as_bytes());
        option(&mut body, 0, &[]);
        self.block(ENHANCED_PACKET, &body)
    }

    fn interface(&mut self, ifindex: u32) -> io::Result<u32> {
        if let Some(number) = self.interfaces.get(&ifindex) {
            return Ok(*number);
        }
        let name = nix::net::if_::if_indextoname(ifindex)
            .ok()
            .and_then(|name| name.into_string().ok())
            .filter(|name| !name.is_empty())
            .unwrap_or_else(|| format!("ifindex {ifindex}"));
        let mut body = Vec::new();
        body.extend(ETHERNET.to_le_bytes());
        body.extend(0_u16.to_le_bytes());
        body.extend((CAPTURE_LEN as u32).to_le_bytes());
        option(&mut body, IF_NAME, name.as_bytes());
        option(&mut body, IF_TSRESOL, &[NANOSECONDS]);
        option(&mut body, 0, &[]);
        self.block(INTERFACE, &body)?;
        let number = self.interfaces.len() as u32;
        self.interfaces.insert(ifindex, number);
        Ok(number)
    }

    /// A block: type, length, body, length.
    fn block(&mut self, kind: u32, body: &[u8]) -> io::Result<()> {
        let len = (body.len() as u32 + 12).to_le_bytes();
        for part in [&kind.to_le_bytes(), &len, body, &len] {
            self.out.write_all(part)?;
        }
        Ok(())
    }
}

struct Frame<'e> {
    ifindex: u32,
    time_ns: u64,
    bytes: &'e [u8],
    len: u32,
    direction: u32,
    comment: &'e str,
}

fn captured(bytes: &[u8; CAPTURE_LEN], len: u16) -> &[u8] {
    bytes.get(..usize::from(len)).unwrap_or(bytes)
}

fn option(body: &mut Vec<u8>, code: u16, value: &[u8]) {
    body.extend(code.to_le_bytes());
    body.extend((value.len() as u16).to_le_bytes());
    padded(body, value);
}

/// `bytes`, and zeros up to the next multiple of four.
fn padded(body: &mut Vec<u8>, bytes: &[u8]) {
    body.extend(bytes);
    body.resize(body.len().next_multiple_of(4), 0);
}

#[cfg(test)]
mod tests {
    use ebpf_common::maps::Counter;

    use super::*;

    /// Type and body of each block; both lengths of each are checked.
    fn blocks(mut bytes: &[u8]) -> Vec<(u32, Vec<u8>)> {
        let word =
            |bytes: &[u8], at: usize| u32::from_le_bytes(bytes[at..at + 4].try_into().unwrap());
        let mut blocks = Vec::new();
        while !bytes.is_empty() {
            let len = word(bytes, 4) as usize;
            assert_eq!(len % 4, 0);
            assert_eq!(word(bytes, len - 4) as usize, len);
            blocks.push((word(bytes, 0), bytes[8..len - 4].to_vec()));
            bytes = &bytes[len..];
        }
        blocks
    }

    #[test]
    fn both_frames_are_written_with_direction_and_comment() {
        let mut event = TraceEvent::EMPTY;
        event.head.ifindex = 4_000_000;
        event.head.out_ifindex = 4_000_000;
        event.head.duration_ns = 100;
        event.head.frame_len = 300;
        event.head.captured = 3;
        event.head.sent_len = 301;
        event.head.captured_sent = 5;
        event.frame[..3].copy_from_slice(b"abc");
        event.sent[..5].copy_from_slice(b"defgh");
        event.head.mark(Counter::RouteWarm as u32);
        let mut capture = Capture::new(Vec::new()).unwrap();
        capture.write(&event).unwrap();
        let blocks = blocks(&capture.out);
        let kinds: Vec<u32> = blocks.iter().map(|(kind, _)| *kind).collect();
        assert_eq!(kinds, [0x0a0d_0d0a, 1, 6, 6]);
        assert_eq!(
            blocks[0].1,
            [&b"\x4d\x3c\x2b\x1a\x01\0\0\0"[..], &[0xff; 8]].concat()
        );
        assert_eq!(
            blocks[1].1,
            [
                &b"\x01\0\0\0\xc0\0\0\0"[..],
                b"\x02\0\x0f\0ifindex 4000000\0",
                b"\x09\0\x01\0\x09\0\0\0",
                b"\0\0\0\0",
            ]
            .concat()
        );
        let tail = |direction: u8, bytes: &[u8]| {
            [
                bytes,
                &[2, 0, 4, 0, direction, 0, 0, 0],
                b"\x01\0\x0a\0route/warm\0\0",
                b"\0\0\0\0",
            ]
            .concat()
        };
        assert_eq!(blocks[2].1[..4], [0; 4], "interface 0");
        assert_eq!(blocks[2].1[12..], tail(1, b"\x03\0\0\0\x2c\x01\0\0abc\0"));
        assert_eq!(
            blocks[3].1[12..],
            tail(2, b"\x05\0\0\0\x2d\x01\0\0defgh\0\0\0")
        );
    }

    #[test]
    fn a_packet_that_did_not_leave_is_written_once() {
        let mut event = TraceEvent::EMPTY;
        event.head.ifindex = 4_000_000;
        let mut capture = Capture::new(Vec::new()).unwrap();
        for _ in 0..2 {
            capture.write(&event).unwrap();
        }
        let kinds: Vec<u32> = blocks(&capture.out).iter().map(|(kind, _)| *kind).collect();
        assert_eq!(kinds, [0x0a0d_0d0a, 1, 6, 6], "one interface, two packets");
    }
}

//! A pcapng file as an implementation that is not ours reads it.

use std::path::Path;

use pcap_parser::{Block, Linktype, OptionCode, PcapBlockOwned, PcapNGOption, PcapNGSlice};

/// `epb_flags`.
const FLAGS: OptionCode = OptionCode(2);

/// What such a file holds.
#[derive(Debug, Default)]
pub(crate) struct Capture {
    /// Names of its interfaces.
    pub(crate) interfaces: Vec<String>,
    pub(crate) frames: Vec<Frame>,
}

#[derive(Debug)]
pub(crate) struct Frame {
    /// Its place in [`Capture::interfaces`].
    pub(crate) interface: u32,
    /// Since 1970.
    pub(crate) time_ns: u64,
    pub(crate) is_outbound: bool,
    pub(crate) comment: String,
    /// Bytes on the wire.
    pub(crate) len: usize,
    /// Those of them that were kept.
    pub(crate) bytes: Vec<u8>,
}

impl Capture {
    /// Reads `path`, which must hold nothing that is not understood.
    pub(crate) fn read(path: &Path) -> Self {
        let bytes = std::fs::read(path).unwrap();
        let mut capture = Self::default();
        for block in PcapNGSlice::from_slice(&bytes).unwrap() {
            match block.unwrap() {
                PcapBlockOwned::NG(Block::SectionHeader(_)) => {}
                PcapBlockOwned::NG(Block::InterfaceDescription(interface)) => {
                    assert_eq!(interface.linktype, Linktype::ETHERNET);
                    assert_eq!(interface.ts_resolution(), Some(1_000_000_000));
                    let name = interface.if_name().unwrap().unwrap();
                    capture.interfaces.push(name.to_owned());
                }
                PcapBlockOwned::NG(Block::EnhancedPacket(packet)) => {
                    let options = &packet.options;
                    capture.frames.push(Frame {
                        interface: packet.if_id,
                        time_ns: u64::from(packet.ts_high) << 32 | u64::from(packet.ts_low),
                        is_outbound: option(options, FLAGS).as_u32_le().unwrap() & 3 == 2,
                        comment: option(options, OptionCode::Comment)
                            .as_str()
                            .unwrap()
                            .to_owned(),
                        len: packet.origlen as usize,
                        bytes: packet.data[..packet.caplen as usize].to_vec(),
                    });
                }
                _ => panic!("a block that we do not write"),
            }
        }
        capture
    }
}

fn option<'o>(options: &'o [PcapNGOption<'o>], code: OptionCode) -> &'o PcapNGOption<'o> {
    options.iter().find(|option| option.code == code).unwrap()
}

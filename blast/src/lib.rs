//! Traffic at the speed of the kernel: a generator of RPC packets out of recycled frames, and a sink that counts them by
//! receiver. Both are XDP programs; nothing of a packet is made in userspace.
//!
//! # Layout
//! - [`scene`]: a packet, and how it differs from flow to flow
//! - [`stream`]: requests as an operator describes them
//! - [`interface`]: MAC addresses and indices
//! - [`generator`]: sends scenes, mixed and paced
//! - [`sink`]: counts and drops what arrives
//! - [`object`](mod@object): the eBPF object with the programs, embedded
//!
//! Deliberately absent: answers. What comes back is for the sink to count; a client that waits for replies is the SDK.

pub mod generator;
pub mod interface;
pub mod object;
pub mod scene;
pub mod sink;
pub mod stream;

use aya::{
    EbpfError,
    maps::MapError,
    programs::{ProgramError, Xdp},
};
pub use generator::{Generator, Limits, Summary};
pub use interface::Interface;
pub use scene::{Destination, Ip, Scene};
pub use sink::{Mode, Receiver, Sink};
pub use stream::Stream;
use thiserror::Error;

/// Why there is no traffic.
#[derive(Debug, Error)]
pub enum BlastError {
    /// The binary was built before the eBPF object was.
    #[error("this binary was built without the traffic programs; run `cargo xtask build`")]
    NotBuilt,
    /// The object has no such program or map.
    #[error("the object with the traffic programs has no `{0}`")]
    Missing(&'static str),
    /// There is no such interface.
    #[error("no network interface `{0}`")]
    NoInterface(String),
    /// Not a MAC address.
    #[error("`{0}` is no MAC address")]
    Mac(String),
    /// There is no such CPU, or it is not ours.
    #[error("cannot stay on CPU {0}")]
    Cpu(usize),
    /// More streams than the programs mix, or none, or shares that add up to nothing.
    #[error("1 to {max} streams, with shares from 1 on, can be mixed", max = ebpf_common::traffic::MAX_STREAMS)]
    Streams,
    /// The kernel refuses the object.
    #[error("loading the traffic programs; root is needed")]
    Load(#[from] EbpfError),
    /// The kernel refuses a program, to attach it, or to run it.
    #[error("a traffic program")]
    Program(#[from] ProgramError),
    /// A map cannot be read or written.
    #[error("a map of the traffic programs")]
    Map(#[from] MapError),
}

/// The program `name` of `ebpf`.
fn program<'a>(ebpf: &'a mut aya::Ebpf, name: &'static str) -> Result<&'a mut Xdp, BlastError> {
    let program = ebpf.program_mut(name).ok_or(BlastError::Missing(name))?;
    Ok(program.try_into()?)
}

//! The object's `pass` program, attached to the switch ports that face the balancer.
//!
//! veth delivers what an XDP program sends back (XDP_TX) or redirects only if the receiving peer has an XDP
//! program too; otherwise frames vanish with all counters at zero.

use anyhow::{Context as _, Result};
use aya::{
    Ebpf, EbpfLoader,
    programs::{Xdp, XdpMode},
};
use ebpf_common::maps::name;

use crate::netns::Netns;

/// Keeps `pass` attached as long as it lives (and no longer than the process).
#[derive(Debug)]
pub struct PassProgram {
    _ebpf: Ebpf,
}

impl PassProgram {
    /// Attaches it natively to `interfaces` of `netns`.
    ///
    /// # Errors
    /// The object is not built (`cargo xtask build`), or the kernel refuses it.
    pub fn attach(netns: &Netns, interfaces: &[&str]) -> Result<Self> {
        // The object's maps come with it; `pass` uses none, so the big ones are made small.
        let mut ebpf = EbpfLoader::new()
            .map_max_entries(name::SESSIONS, 1)
            .map_max_entries(name::FUNCTIONS, 1)
            .load(prog_tests::object())
            .context("loading the eBPF object for its program `pass`")?;
        let program: &mut Xdp = ebpf
            .program_mut("pass")
            .context("the eBPF object has no program `pass`")?
            .try_into()?;
        program.load().context("loading the program `pass`")?;
        netns.enter(|| {
            for interface in interfaces {
                program
                    .attach(interface, XdpMode::Driver)
                    .with_context(|| format!("attaching `pass` to {interface}"))?;
            }
            anyhow::Ok(())
        })??;
        Ok(Self { _ebpf: ebpf })
    }
}

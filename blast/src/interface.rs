//! What traffic must know of a network interface.

use std::{fs, num::ParseIntError};

use nix::{
    net::if_::if_nametoindex,
    sched::{CpuSet, sched_setaffinity},
    unistd::Pid,
};

use crate::BlastError;

/// An interface of the caller's network namespace.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Interface {
    /// Its index.
    pub index: u32,
    /// Its MAC address.
    pub mac: [u8; 6],
}

impl Interface {
    /// The interface called `name`.
    ///
    /// # Errors
    /// There is none, or it has no MAC address.
    pub fn find(name: &str) -> Result<Self, BlastError> {
        let unknown = |_error| BlastError::NoInterface(name.to_owned());
        let index = if_nametoindex(name).map_err(unknown)?;
        let text = fs::read_to_string(format!("/sys/class/net/{name}/address"));
        let mac = text.ok().and_then(|text| mac(text.trim()).ok());
        let mac = mac.ok_or_else(|| BlastError::NoInterface(name.to_owned()))?;
        Ok(Self { index, mac })
    }
}

/// A MAC address as people write it.
///
/// # Errors
/// What is not six hexadecimal bytes with colons.
pub fn mac(text: &str) -> Result<[u8; 6], BlastError> {
    let bytes: Result<Vec<u8>, ParseIntError> = text
        .split(':')
        .map(|byte| u8::from_str_radix(byte, 16))
        .collect();
    let bytes = bytes.ok().and_then(|bytes| bytes.try_into().ok());
    bytes.ok_or_else(|| BlastError::Mac(text.to_owned()))
}

/// Keeps the calling thread on `cpu`.
///
/// # Errors
/// There is no such CPU.
pub fn pin(cpu: usize) -> Result<(), BlastError> {
    let mut cpus = CpuSet::new();
    let set = cpus.set(cpu);
    set.and_then(|()| sched_setaffinity(Pid::from_raw(0), &cpus))
        .map_err(|_error| BlastError::Cpu(cpu))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mac_address_is_six_bytes() {
        let good = mac("02:00:5e:00:00:ff");
        assert!(matches!(good, Ok([2, 0, 0x5e, 0, 0, 0xff])));
        for bad in ["", "02:00", "02:00:5e:00:00:fg", "02:00:5e:00:00:ff:01"] {
            assert!(matches!(mac(bad), Err(BlastError::Mac(_))), "{bad}");
        }
    }
}

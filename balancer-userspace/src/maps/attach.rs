//! Attaching the program to interfaces through pinned BPF links.
//!
//! A link's pin is named by interface index and mode, so that a later process knows both without
//! asking; whether the link still holds its interface is read from its `fdinfo`.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use aya::{
    pin::PinError,
    programs::{
        ProgramError, Xdp,
        links::{FdLink, LinkError, PinnedLink},
        xdp::{XdpError, XdpLink, XdpMode as AyaMode},
    },
};
use nix::errno::Errno;
use thiserror::Error;
use tracing::{info, warn};

use super::LINK_PIN;
use crate::{config::AttachMode, ports::Port};

/// How the program runs on an interface.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum XdpMode {
    /// In the driver.
    Native,
    /// In the kernel's generic path.
    Generic,
}

impl XdpMode {
    /// Its name in pins, JSON and metrics.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Native => "native",
            Self::Generic => "generic",
        }
    }

    const fn aya(self) -> AyaMode {
        match self {
            Self::Native => AyaMode::Driver,
            Self::Generic => AyaMode::Skb,
        }
    }

    const fn satisfies(self, wanted: AttachMode) -> bool {
        match wanted {
            AttachMode::Native => matches!(self, Self::Native),
            AttachMode::Generic => matches!(self, Self::Generic),
            AttachMode::Auto => true,
        }
    }
}

/// Why the program is not attached to an interface.
#[derive(Debug, Error)]
pub enum AttachError {
    /// The interface is not there.
    #[error("there is no interface `{interface}`; is this the right network namespace?")]
    NoInterface {
        /// Its name.
        interface: String,
    },
    /// Something else is attached.
    #[error(
        "another XDP program is attached to `{interface}`: take it off by `ip link set dev {interface} xdp off`, or by the program that owns it"
    )]
    Busy {
        /// The interface.
        interface: String,
        /// The cause.
        #[source]
        source: Box<ProgramError>,
    },
    /// The driver cannot.
    #[error(
        "the driver of `{interface}` cannot run XDP natively; set mode = \"generic\" (slow), or \"auto\", to accept that"
    )]
    NotNative {
        /// The interface.
        interface: String,
        /// The cause.
        #[source]
        source: Box<ProgramError>,
    },
    /// Attaching failed for another reason.
    #[error("cannot attach the program to `{interface}` in {mode} mode")]
    Attach {
        /// The interface.
        interface: String,
        /// The mode tried.
        mode: &'static str,
        /// The cause.
        #[source]
        source: Box<ProgramError>,
    },
    /// The kernel only knows the old way, which ends with the process.
    #[error(
        "this kernel has no BPF links for XDP: Linux 5.9 or later is needed, 6.1 or later tested"
    )]
    NoLinks,
    /// The link cannot be looked at or replaced.
    #[error("cannot use the link {path}")]
    Link {
        /// The pin.
        path: PathBuf,
        /// The cause.
        #[source]
        source: LinkError,
    },
    /// The link cannot be pinned.
    #[error("cannot pin the link {path}")]
    Pin {
        /// The pin.
        path: PathBuf,
        /// The cause.
        #[source]
        source: Box<PinError>,
    },
    /// The pin directory cannot be read or a stale pin not removed.
    #[error("cannot tidy the links in {path}")]
    Tidy {
        /// The directory or pin.
        path: PathBuf,
        /// The cause.
        #[source]
        source: io::Error,
    },
}

/// The program on one interface.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Attachment {
    /// The interface's name.
    pub interface: String,
    /// Its index.
    pub ifindex: u32,
    /// How the program runs there.
    pub mode: XdpMode,
}

/// A link that is pinned.
#[derive(Debug)]
pub(super) struct LinkPin {
    pub(super) path: PathBuf,
    pub(super) ifindex: u32,
    mode: XdpMode,
}

/// The links pinned under `pin_path`.
pub(super) fn pinned(pin_path: &Path) -> Result<Vec<LinkPin>, AttachError> {
    let entries = fs::read_dir(pin_path).map_err(|source| AttachError::Tidy {
        path: pin_path.to_owned(),
        source,
    })?;
    let link = |path: PathBuf| {
        let name = path.file_name()?.to_str()?.strip_prefix(LINK_PIN)?;
        let (ifindex, mode) = name.split_once('_')?;
        let mode = match mode {
            "native" => XdpMode::Native,
            "generic" => XdpMode::Generic,
            _ => return None,
        };
        Some(LinkPin {
            ifindex: ifindex.parse().ok()?,
            mode,
            path,
        })
    };
    Ok(entries
        .flatten()
        .filter_map(|entry| link(entry.path()))
        .collect())
}

/// Makes sure that `program` runs on `port`: by the link that is there, brought to this program in one
/// step if it has another one, or by a new link.
pub(super) fn ensure(
    program: &mut Xdp,
    program_id: u32,
    pin_path: &Path,
    port: &Port,
    wanted: AttachMode,
) -> Result<Attachment, AttachError> {
    for pin in pinned(pin_path)? {
        if pin.ifindex != port.ifindex {
            continue;
        }
        let link = open(&pin.path)?;
        if !holds(&link, port.ifindex)? {
            remove(&pin.path)?;
        } else if !pin.mode.satisfies(wanted) {
            warn!(
                interface = port.name,
                "attached anew because its mode changed"
            );
            remove(&pin.path)?;
        } else {
            bring_to(program, program_id, link, port, &pin)?;
            return Ok(attachment(port, pin.mode));
        }
    }
    let (link, mode) = attach(program, port, wanted)?;
    pin(link, pin_path, port, mode)?;
    info!(
        interface = port.name,
        ifindex = port.ifindex,
        mode = mode.name(),
        "program attached"
    );
    Ok(attachment(port, mode))
}

fn attachment(port: &Port, mode: XdpMode) -> Attachment {
    Attachment {
        interface: port.name.clone(),
        ifindex: port.ifindex,
        mode,
    }
}

/// Removes every pinned link whose interface is not in `keep`: that takes the program off it.
pub(super) fn remove_others(pin_path: &Path, keep: &[u32]) -> Result<(), AttachError> {
    for pin in pinned(pin_path)? {
        if !keep.contains(&pin.ifindex) {
            info!(ifindex = pin.ifindex, "link removed");
            remove(&pin.path)?;
        }
    }
    Ok(())
}

fn bring_to(
    program: &mut Xdp,
    program_id: u32,
    link: FdLink,
    port: &Port,
    pin: &LinkPin,
) -> Result<(), AttachError> {
    let link_error = |source| AttachError::Link {
        path: pin.path.clone(),
        source,
    };
    if link.info().map_err(link_error)?.program_id() == program_id {
        return Ok(());
    }
    let link = XdpLink::try_from(link).map_err(link_error)?;
    let attach_error = |source| AttachError::Attach {
        interface: port.name.clone(),
        mode: pin.mode.name(),
        source: Box::new(source),
    };
    let id = program.attach_to_link(link).map_err(attach_error)?;
    // Ours no longer: the pin keeps the link when this handle is dropped.
    drop(program.take_link(id).map_err(attach_error)?);
    info!(interface = port.name, "program replaced by this version's");
    Ok(())
}

/// Attaches natively, and generically only if that is wanted or allowed. The program is off again when the link is closed.
pub(super) fn attach(
    program: &mut Xdp,
    port: &Port,
    wanted: AttachMode,
) -> Result<(FdLink, XdpMode), AttachError> {
    if wanted == AttachMode::Generic {
        let link = attach_as(program, port, XdpMode::Generic)?;
        return Ok((link, XdpMode::Generic));
    }
    match attach_as(program, port, XdpMode::Native) {
        Err(AttachError::NotNative { source, .. }) if wanted == AttachMode::Auto => {
            warn!(
                interface = port.name,
                error = &*source as &dyn std::error::Error,
                "NATIVE XDP IS NOT POSSIBLE HERE: running in generic mode, several times slower, because mode = \"auto\""
            );
            let link = attach_as(program, port, XdpMode::Generic)?;
            Ok((link, XdpMode::Generic))
        }
        result => result.map(|link| (link, XdpMode::Native)),
    }
}

fn attach_as(program: &mut Xdp, port: &Port, mode: XdpMode) -> Result<FdLink, AttachError> {
    let failed = |source| attach_error(port, mode, source);
    let id = program
        .attach_to_if_index(port.ifindex, mode.aya())
        .map_err(failed)?;
    let link = program.take_link(id).map_err(failed)?;
    // aya falls back to netlink on kernels without links; dropping `link` then undoes it.
    FdLink::try_from(link).map_err(|_netlink| AttachError::NoLinks)
}

fn pin(link: FdLink, pin_path: &Path, port: &Port, mode: XdpMode) -> Result<(), AttachError> {
    let path = pin_path.join(format!("{LINK_PIN}{}_{}", port.ifindex, mode.name()));
    link.pin(&path).map_err(|source| AttachError::Pin {
        path,
        source: Box::new(source),
    })?;
    Ok(())
}

fn attach_error(port: &Port, mode: XdpMode, source: ProgramError) -> AttachError {
    let interface = port.name.clone();
    let errno = match &source {
        ProgramError::SyscallError(error) => error.io_error.raw_os_error(),
        _ => None,
    };
    let is_refused_natively = match errno.map(Errno::from_raw) {
        Some(Errno::EOPNOTSUPP | Errno::ERANGE | Errno::E2BIG | Errno::ENOSPC) => true,
        Some(_) => false,
        // EINVAL made aya try netlink, and the driver said no there too.
        None => matches!(source, ProgramError::XdpError(XdpError::NetlinkError(_))),
    };
    let source = Box::new(source);
    match errno.map(Errno::from_raw) {
        Some(Errno::ENODEV) => AttachError::NoInterface { interface },
        Some(Errno::EBUSY | Errno::EEXIST) => AttachError::Busy { interface, source },
        _ if mode == XdpMode::Native && is_refused_natively => {
            AttachError::NotNative { interface, source }
        }
        _ => AttachError::Attach {
            interface,
            mode: mode.name(),
            source,
        },
    }
}

pub(super) fn open(path: &Path) -> Result<FdLink, AttachError> {
    PinnedLink::from_pin(path)
        .map(FdLink::from)
        .map_err(|source| AttachError::Link {
            path: path.to_owned(),
            source,
        })
}

fn remove(path: &Path) -> Result<(), AttachError> {
    fs::remove_file(path).map_err(|source| AttachError::Tidy {
        path: path.to_owned(),
        source,
    })
}

/// Whether the link still holds the interface: when the interface goes, its link stays, holding nothing.
fn holds(link: &FdLink, ifindex: u32) -> Result<bool, AttachError> {
    let unreadable = |source| AttachError::Tidy {
        path: PathBuf::from("/proc/self/fdinfo"),
        source,
    };
    let id = link
        .info()
        .map_err(|source| AttachError::Link {
            path: PathBuf::from("/proc/self/fdinfo"),
            source,
        })?
        .id();
    // aya does not hand out a link's descriptor, so it is looked up by the link's id.
    for entry in fs::read_dir("/proc/self/fdinfo").map_err(unreadable)? {
        let path = entry.map_err(unreadable)?.path();
        let Ok(text) = fs::read_to_string(&path) else {
            continue; // closed in between
        };
        if field(&text, "link_id") == Some(id) {
            return Ok(field(&text, "ifindex") == Some(ifindex));
        }
    }
    Ok(false)
}

fn field(fdinfo: &str, name: &str) -> Option<u32> {
    fdinfo.lines().find_map(|line| {
        let (key, value) = line.split_once(':')?;
        (key == name).then(|| value.trim().parse().ok()).flatten()
    })
}

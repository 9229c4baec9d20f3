//! Loading and verifying the object: afresh, or over maps that are pinned already.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use aya::{
    Ebpf, EbpfError, EbpfLoader,
    maps::{Array, MapError},
    pin::PinError,
    programs::{ProgramError, Xdp},
};
use ebpf_common::{LAYOUT_VERSION, maps::name, verify};
use thiserror::Error;

use super::{BpffsError, LINK_PIN, OpenError, PROGRAM, PROGRAM_PIN, program_pin};
use crate::{config::Limits, object::ObjectError};

/// Why the program is not in the kernel.
#[derive(Debug, Error)]
pub enum LoadError {
    /// There is no object in this binary.
    #[error(transparent)]
    Object(#[from] ObjectError),
    /// There is no place to pin to.
    #[error(transparent)]
    Bpffs(#[from] BpffsError),
    /// A pinned map cannot be used.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// Another version's maps are pinned.
    #[error(
        "the maps pinned at {pin_path} have layout {found} and this version has layout {LAYOUT_VERSION}: start the version that made them, or take its data plane down by `warmpath balancer detach`"
    )]
    Layout {
        /// Where they are.
        pin_path: PathBuf,
        /// Their `LAYOUT`.
        found: u32,
    },
    /// We may not.
    #[error(
        "not allowed to load BPF programs: run as root, or with CAP_BPF, CAP_NET_ADMIN and CAP_SYS_ADMIN (for the mount)"
    )]
    Permission(#[source] Box<EbpfError>),
    /// The kernel has no BPF.
    #[error(
        "this kernel has no BPF (CONFIG_BPF_SYSCALL); Linux 6.1 or later, as distributions build it, is needed"
    )]
    NoBpf(#[source] Box<EbpfError>),
    /// The object is not accepted as it is.
    #[error("cannot prepare the XDP program's maps; if memory is short, lower [limits]")]
    Prepare(#[source] Box<EbpfError>),
    /// The verifier said no; its log is in the source.
    #[error(
        "the kernel's verifier refused the XDP program; Linux 6.1 or later is needed, and if it is, please report the log"
    )]
    Verifier(#[source] Box<ProgramError>),
    /// The object lacks something.
    #[error("the XDP object of this binary has no {what}; build it again by `cargo xtask build`")]
    Incomplete {
        /// What is missing.
        what: String,
    },
    /// A value cannot be written at load.
    #[error("cannot write map {map} of the new program")]
    Write {
        /// The map.
        map: &'static str,
        /// The cause.
        #[source]
        source: Box<MapError>,
    },
    /// Pinning failed.
    #[error("cannot pin {path}")]
    Pin {
        /// The pin.
        path: PathBuf,
        /// The cause.
        #[source]
        source: Box<PinError>,
    },
    /// A pin cannot be replaced or removed.
    #[error("cannot replace the pin {path}")]
    Replace {
        /// The pin.
        path: PathBuf,
        /// The cause.
        #[source]
        source: io::Error,
    },
    /// The pinned program cannot be looked at.
    #[error("cannot use the pinned program {path}")]
    Program {
        /// The pin.
        path: PathBuf,
        /// The cause.
        #[source]
        source: Box<ProgramError>,
    },
}

/// Loads `object` with new maps and pins all of it. Whatever an unfinished load left is removed first.
pub(super) fn fresh(object: &[u8], pin_path: &Path, limits: &Limits) -> Result<(), LoadError> {
    remove_leftovers(pin_path)?;
    let mut loader = EbpfLoader::new();
    for (map, rows) in limits.map_sizes() {
        loader.map_max_entries(map, rows);
    }
    let mut ebpf = loader.load(object).map_err(prepare_error)?;
    write_layout(&mut ebpf)?;
    verified(&mut ebpf, PROGRAM)?
        .pin(program_pin(pin_path))
        .map_err(|source| LoadError::Pin {
            path: program_pin(pin_path),
            source: Box::new(source),
        })?;
    let rest = name::ALL.iter().filter(|name| **name != name::LAYOUT);
    // LAYOUT last: it says that all the others are there.
    for name in rest.copied().chain([name::LAYOUT]) {
        let map = ebpf.map(name).ok_or_else(|| LoadError::Incomplete {
            what: format!("map {name}"),
        })?;
        let path = pin_path.join(name);
        map.pin(&path).map_err(|source| LoadError::Pin {
            path,
            source: Box::new(source),
        })?;
    }
    Ok(())
}

/// Loads `object` over the maps that are pinned. If its code differs from the pinned program's, it
/// takes that one's pin (its links are another matter). Returns whether it did.
pub(super) fn over_pinned_maps(object: &[u8], pin_path: &Path) -> Result<bool, LoadError> {
    let mut loader = EbpfLoader::new();
    for name in name::ALL {
        loader.map_pin_path(name, pin_path.join(name));
    }
    let mut ebpf = loader.load(object).map_err(prepare_error)?;
    let program = verified(&mut ebpf, PROGRAM)?;

    let pin = program_pin(pin_path);
    let unusable = |source| LoadError::Program {
        path: pin.clone(),
        source: Box::new(source),
    };
    let new_tag = program.info().map_err(unusable)?.tag();
    if pin.exists() {
        let pinned = aya::programs::ProgramInfo::from_pin(&pin).map_err(unusable)?;
        if pinned.tag() == new_tag {
            return Ok(false);
        }
    }
    // Pinned beside and renamed over, so that at any moment there is a program to find.
    let beside = pin_path.join(format!("{PROGRAM_PIN}_new"));
    remove(&beside)?;
    program.pin(&beside).map_err(|source| LoadError::Pin {
        path: beside.clone(),
        source: Box::new(source),
    })?;
    fs::rename(&beside, &pin).map_err(|source| LoadError::Replace { path: pin, source })?;
    Ok(true)
}

/// The program `name` of the object, in the kernel.
pub(super) fn verified<'a>(ebpf: &'a mut Ebpf, name: &str) -> Result<&'a mut Xdp, LoadError> {
    let missing = || LoadError::Incomplete {
        what: format!("program `{name}`"),
    };
    let program = ebpf.program_mut(name).ok_or_else(missing)?;
    let program: &mut Xdp = program
        .try_into()
        .map_err(|_not_xdp: ProgramError| missing())?;
    verify::load(program).map_err(|source| LoadError::Verifier(Box::new(source)))?;
    Ok(program)
}

pub(super) fn write_layout(ebpf: &mut Ebpf) -> Result<(), LoadError> {
    let map = ebpf
        .map_mut(name::LAYOUT)
        .ok_or_else(|| LoadError::Incomplete {
            what: format!("map {}", name::LAYOUT),
        })?;
    Array::<_, u32>::try_from(map)
        .and_then(|mut layout| layout.set(0, LAYOUT_VERSION, 0))
        .map_err(|source| LoadError::Write {
            map: name::LAYOUT,
            source: Box::new(source),
        })
}

/// Removes the pins of a load that did not get to its end: without `LAYOUT` they mean nothing.
fn remove_leftovers(pin_path: &Path) -> Result<(), LoadError> {
    let entries = fs::read_dir(pin_path).map_err(|source| LoadError::Replace {
        path: pin_path.to_owned(),
        source,
    })?;
    for entry in entries.flatten() {
        let file = entry.file_name();
        let file = file.to_string_lossy();
        let is_ours = name::ALL.contains(&&*file)
            || file.starts_with(PROGRAM_PIN)
            || file.starts_with(LINK_PIN);
        if is_ours {
            remove(&entry.path())?;
        }
    }
    Ok(())
}

fn remove(path: &Path) -> Result<(), LoadError> {
    match fs::remove_file(path) {
        Err(source) if source.kind() != io::ErrorKind::NotFound => Err(LoadError::Replace {
            path: path.to_owned(),
            source,
        }),
        _ => Ok(()),
    }
}

pub(super) fn prepare_error(error: EbpfError) -> LoadError {
    let errno = match &error {
        EbpfError::MapError(MapError::CreateError { io_error, .. }) => io_error.raw_os_error(),
        EbpfError::MapError(MapError::SyscallError(error)) => error.io_error.raw_os_error(),
        _ => None,
    };
    let error = Box::new(error);
    match errno.map(nix::errno::Errno::from_raw) {
        Some(nix::errno::Errno::EPERM | nix::errno::Errno::EACCES) => LoadError::Permission(error),
        Some(nix::errno::Errno::ENOSYS) => LoadError::NoBpf(error),
        _ => LoadError::Prepare(error),
    }
}

//! The data plane as a whole: found where an earlier process pinned it, or made; and taken down.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use aya::programs::Xdp;
use aya_obj::programs::XdpAttachType;
use ebpf_common::{LAYOUT_VERSION, maps::name};
use serde::Serialize;
use thiserror::Error;
use tracing::{info, warn};

use super::{
    AttachError, Attachment, BpffsError, KernelMaps, LINK_PIN, LoadError, LoupeError, PROGRAM_PIN,
    attach, bpffs, give_back_orphans, load, open, program_pin,
};
use crate::{
    config::{InterfaceConfig, Limits},
    ports::Ports,
};

/// The program in the kernel, pinned.
#[derive(Debug)]
pub struct DataPlane {
    pin_path: PathBuf,
    program: Xdp,
    program_id: u32,
    program_tag: u64,
    adopted: bool,
}

impl DataPlane {
    /// Takes over what is pinned at `pin_path`, or loads `object` there.
    ///
    /// # Errors
    /// [`LoadError`]; nothing of a data plane that is running is changed then.
    pub fn open(object: &[u8], pin_path: &Path, limits: &Limits) -> Result<Self, LoadError> {
        let mounted = bpffs::ensure(pin_path)?;
        if mounted {
            info!(pin_path = %pin_path.display(), "BPF file system mounted");
        }
        let adopted = match layout(pin_path)? {
            None => {
                load::fresh(object, pin_path, limits)?;
                info!(pin_path = %pin_path.display(), "program loaded");
                false
            }
            Some(LAYOUT_VERSION) => {
                let replaced = load::over_pinned_maps(object, pin_path)?;
                info!(pin_path = %pin_path.display(), replaced, "program and maps adopted");
                warn_of_other_limits(pin_path, limits)?;
                true
            }
            Some(found) => {
                return Err(LoadError::Layout {
                    pin_path: pin_path.to_owned(),
                    found,
                });
            }
        };
        let pin = program_pin(pin_path);
        let unusable = |source| LoadError::Program {
            path: pin.clone(),
            source: Box::new(source),
        };
        let program = Xdp::from_pin(&pin, XdpAttachType::Interface).map_err(unusable)?;
        let info = program.info().map_err(unusable)?;
        Ok(Self {
            pin_path: pin_path.to_owned(),
            program,
            program_id: info.id(),
            program_tag: info.tag(),
            adopted,
        })
    }

    /// Attaches the program to every interface of `interfaces` that is among `ports`, and takes it off
    /// all others. Interfaces to which it cannot be attached are reported one by one.
    ///
    /// # Errors
    /// [`AttachError::Tidy`] if the pinned links cannot be listed.
    pub fn attach(
        &mut self,
        interfaces: &[InterfaceConfig],
        ports: &Ports,
    ) -> Result<Vec<Result<Attachment, AttachError>>, AttachError> {
        let keep: Vec<u32> = ports.0.iter().map(|port| port.ifindex).collect();
        attach::remove_others(&self.pin_path, &keep)?;
        Ok(interfaces
            .iter()
            .map(|interface| {
                let port =
                    ports
                        .named(&interface.name)
                        .ok_or_else(|| AttachError::NoInterface {
                            interface: interface.name.clone(),
                        })?;
                attach::ensure(
                    &mut self.program,
                    self.program_id,
                    &self.pin_path,
                    port,
                    interface.mode,
                )
            })
            .collect())
    }

    /// Gives links back that a tracer had when it was killed.
    ///
    /// # Errors
    /// [`LoupeError`].
    pub fn give_back_orphans(&self) -> Result<(), LoupeError> {
        give_back_orphans(&self.pin_path).map(drop)
    }

    /// The maps, opened for writing.
    ///
    /// # Errors
    /// [`LoadError::Open`].
    pub fn maps(&self) -> Result<KernelMaps, LoadError> {
        Ok(KernelMaps::open(&self.pin_path)?)
    }

    /// Whether an earlier process had pinned it.
    #[must_use]
    pub const fn is_adopted(&self) -> bool {
        self.adopted
    }

    /// The program's id in the kernel.
    #[must_use]
    pub const fn program_id(&self) -> u32 {
        self.program_id
    }

    /// The program's tag: the same for the same code.
    #[must_use]
    pub fn program_tag(&self) -> String {
        format!("{:016x}", self.program_tag.swap_bytes())
    }
}

/// The layout version of the maps pinned at `pin_path`; none if none are.
fn layout(pin_path: &Path) -> Result<Option<u32>, LoadError> {
    if !pin_path.join(name::LAYOUT).exists() {
        return Ok(None);
    }
    let map = open::array::<u32>(pin_path, name::LAYOUT)?;
    let version = map.get(&0, 0).map_err(|source| LoadError::Write {
        map: name::LAYOUT,
        source: Box::new(source),
    })?;
    Ok(Some(version))
}

fn warn_of_other_limits(pin_path: &Path, limits: &Limits) -> Result<(), LoadError> {
    for (map, wanted) in limits.map_sizes() {
        let found = open::max_entries(pin_path, map)?;
        if found != wanted {
            warn!(
                map,
                found, wanted, "[limits] take effect only when the data plane is loaded anew"
            );
        }
    }
    Ok(())
}

/// Why the data plane could not be taken down.
#[derive(Debug, Error)]
pub enum DetachError {
    /// There is nothing at the pin path.
    #[error("there is no data plane at {pin_path}")]
    Nothing {
        /// Where it was looked for.
        pin_path: PathBuf,
    },
    /// A pin could not be removed.
    #[error("cannot remove the pin {path}; are you root?")]
    Remove {
        /// The pin.
        path: PathBuf,
        /// The cause.
        #[source]
        source: io::Error,
    },
    /// The file system could not be looked at or unmounted.
    #[error(transparent)]
    Bpffs(#[from] BpffsError),
}

/// What [`detach`] removed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Detached {
    /// Interfaces that the program was taken off.
    pub links: usize,
    /// Maps and programs that were unpinned.
    pub objects: usize,
    /// Whether the BPF file system was ours and has been unmounted.
    pub unmounted: bool,
}

/// Takes the data plane at `pin_path` down: the program off its interfaces, all pins removed, and the
/// BPF file system unmounted if we had mounted it.
///
/// # Errors
/// [`DetachError`]; what was removed until then stays removed.
pub fn detach(pin_path: &Path) -> Result<Detached, DetachError> {
    let nothing = || DetachError::Nothing {
        pin_path: pin_path.to_owned(),
    };
    if !pin_path.exists() || !bpffs::is_bpffs(pin_path)? {
        return Err(nothing());
    }
    let remove_error = |path: &Path, source| DetachError::Remove {
        path: path.to_owned(),
        source,
    };
    let mut detached = Detached {
        links: 0,
        objects: 0,
        unmounted: false,
    };
    // Links first: from then on no packet needs the maps.
    let mut rest = Vec::new();
    let entries = fs::read_dir(pin_path).map_err(|source| remove_error(pin_path, source))?;
    for entry in entries {
        let path = entry
            .map_err(|source| remove_error(pin_path, source))?
            .path();
        let file = path
            .file_name()
            .map(|name| name.to_string_lossy().into_owned());
        match file.as_deref() {
            Some(file) if file.starts_with(LINK_PIN) => {
                fs::remove_file(&path).map_err(|source| remove_error(&path, source))?;
                detached.links += 1;
            }
            Some(file) if file.starts_with(PROGRAM_PIN) || name::ALL.contains(&file) => {
                rest.push(path);
            }
            _ => warn!(path = %path.display(), "not one of our pins: left where it is"),
        }
    }
    for path in rest {
        fs::remove_file(&path).map_err(|source| remove_error(&path, source))?;
        detached.objects += 1;
    }
    detached.unmounted = bpffs::unmount_if_ours(pin_path)?;
    match fs::remove_dir(pin_path) {
        // Somebody else's mount, or somebody else's pins in it.
        Err(error)
            if !matches!(
                error.kind(),
                io::ErrorKind::DirectoryNotEmpty | io::ErrorKind::ResourceBusy
            ) =>
        {
            return Err(remove_error(pin_path, error));
        }
        _ => {}
    }
    Ok(detached)
}

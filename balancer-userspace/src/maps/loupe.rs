//! The program `traced` in the place of `balancer`, for as long as a tracer looks.
//!
//! It is loaded over the pinned maps and put into the pinned links as a newer program would be. Whoever holds the lock on
//! the pin directory is the tracer; when the lock is free, links that still have its program are anybody's to give back:
//! the next tracer does it, and the control plane within a second.

use std::{
    fmt,
    fs::File,
    io,
    path::{Path, PathBuf},
    thread::sleep,
    time::Duration,
};

use aya::{
    Ebpf, EbpfError, EbpfLoader,
    maps::{Array, MapData, MapError, RingBuf},
    programs::{
        ProgramError, ProgramInfo, Xdp,
        links::{FdLink, LinkError},
        xdp::XdpLink,
    },
};
use aya_obj::programs::XdpAttachType;
use ebpf_common::{
    LAYOUT_VERSION,
    event::{TraceEvent, TraceFilter},
    maps::{Counter, name},
    verify,
};
use nix::{
    errno::Errno,
    fcntl::{Flock, FlockArg},
};
use thiserror::Error;
use zerocopy::FromBytes as _;

use super::{AttachError, Counters, OpenError, PROGRAM, ReadError, attach, open, program_pin};

/// Name of the program in the object.
const TRACED: &str = "traced";

/// How often, and how long apart, the lock is tried for before it counts as another tracer's.
const LOCK_TRIES: u32 = 20;
const LOCK_PAUSE: Duration = Duration::from_millis(20);

/// Why nothing can be traced.
#[derive(Debug, Error)]
pub enum LoupeError {
    /// There is no data plane, or we may not use it.
    #[error("cannot open {path}: is there a data plane with this pin_path, and are you root?")]
    PinPath {
        /// The pin path.
        path: PathBuf,
        /// The cause.
        #[source]
        source: io::Error,
    },
    /// Somebody else looks.
    #[error("another `warmpath trace` looks at {path}: only one can at a time")]
    Busy {
        /// The pin path.
        path: PathBuf,
    },
    /// A pinned map cannot be used.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// A counter cannot be read.
    #[error(transparent)]
    Read(#[from] ReadError),
    /// The data plane is another version's.
    #[error(
        "the data plane at {path} runs another program than this version's, whose packets would then be treated differently: use the `warmpath` that started it, or start `warmpath balancer` again with this one"
    )]
    OtherVersion {
        /// The pin path.
        path: PathBuf,
    },
    /// The object cannot be loaded.
    #[error("cannot load the object of the program `traced`")]
    Load(#[source] Box<EbpfError>),
    /// A program is missing or refused.
    #[error("cannot load or use the program `{program}`")]
    Program {
        /// Its name.
        program: &'static str,
        /// The cause.
        #[source]
        source: Box<ProgramError>,
    },
    /// The object lacks something.
    #[error("the XDP object of this binary has no {what}; build it again by `cargo xtask build`")]
    Incomplete {
        /// What is missing.
        what: &'static str,
    },
    /// A map of the tracer refuses us.
    #[error("cannot use map {map}")]
    Map {
        /// The map.
        map: &'static str,
        /// The cause.
        #[source]
        source: Box<MapError>,
    },
    /// The links cannot be listed or opened.
    #[error(transparent)]
    Attach(#[from] AttachError),
    /// A link cannot be looked at.
    #[error("cannot use the link {path}")]
    Link {
        /// The pin.
        path: PathBuf,
        /// The cause.
        #[source]
        source: LinkError,
    },
    /// The data plane is attached nowhere.
    #[error("the program is attached to no interface: there is nothing to see")]
    NoLinks,
}

/// The loupe on all interfaces of a data plane. Dropping it takes it off.
pub struct Loupe {
    pin_path: PathBuf,
    ebpf: Ebpf,
    ring: RingBuf<MapData>,
    filter: TraceFilter,
    counters: Counters,
    lost_before: u64,
    /// Id of the program `balancer` that the loupe stands in for.
    balancer_id: u32,
    _lock: Flock<File>,
}

// aya's maps have no Debug of their own.
impl fmt::Debug for Loupe {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Loupe")
            .field("pin_path", &self.pin_path)
            .field("filter", &self.filter)
            .finish_non_exhaustive()
    }
}

impl Loupe {
    /// Loads the program and puts it into every pinned link; `filter` says what is told of.
    ///
    /// # Errors
    /// [`LoupeError`]; the links are then as they were.
    pub fn put(object: &[u8], pin_path: &Path, filter: TraceFilter) -> Result<Self, LoupeError> {
        let lock = lock_patiently(pin_path)?;
        let layout = open::array::<u32>(pin_path, name::LAYOUT)?.get(&0, 0);
        if layout.map_err(map_error(name::LAYOUT))? != LAYOUT_VERSION {
            return Err(other_version(pin_path));
        }
        let mut loader = EbpfLoader::new();
        for name in name::ALL {
            loader.map_pin_path(name, pin_path.join(name));
        }
        let load_error = |error| LoupeError::Load(Box::new(error));
        let mut ebpf = loader.load(object).map_err(load_error)?;
        let pinned =
            ProgramInfo::from_pin(program_pin(pin_path)).map_err(program_error(PROGRAM))?;
        let ours = loaded(&mut ebpf, PROGRAM)?;
        if ours.info().map_err(program_error(PROGRAM))?.tag() != pinned.tag() {
            return Err(other_version(pin_path));
        }
        ours.unload().map_err(program_error(PROGRAM))?;
        loaded(&mut ebpf, TRACED)?;
        let events = ebpf
            .take_map(name::EVENTS)
            .ok_or(LoupeError::Incomplete { what: "map EVENTS" })?;
        let counters = Counters::open(pin_path)?;
        let mut loupe = Self {
            pin_path: pin_path.to_owned(),
            ring: RingBuf::try_from(events).map_err(map_error(name::EVENTS))?,
            lost_before: counters.sum(Counter::TraceLost)?,
            counters,
            filter,
            balancer_id: pinned.id(),
            ebpf,
            _lock: lock,
        };
        loupe.beat()?;
        Ok(loupe)
    }

    /// Says that we live, and makes sure that the links still have our program: a control plane that starts meanwhile puts
    /// its own there. To be called each second.
    ///
    /// # Errors
    /// [`LoupeError::OtherVersion`] if the data plane has been given another program: that is to be left alone.
    pub fn beat(&mut self) -> Result<(), LoupeError> {
        let pinned = ProgramInfo::from_pin(program_pin(&self.pin_path));
        if pinned.map_err(program_error(PROGRAM))?.id() != self.balancer_id {
            return Err(other_version(&self.pin_path));
        }
        self.filter.beat += 1;
        self.write_filter()?;
        let traced = xdp(&mut self.ebpf, TRACED)?;
        match bring_links_to(traced, &self.pin_path)?.all {
            0 => Err(LoupeError::NoLinks),
            _ => Ok(()),
        }
    }

    /// The next event, if one waits.
    pub fn event(&mut self) -> Option<TraceEvent> {
        loop {
            // An entry of another length cannot be: the program is ours.
            if let Ok(event) = TraceEvent::read_from_bytes(&self.ring.next()?) {
                return Some(event);
            }
        }
    }

    /// Events that found the ring buffer full.
    ///
    /// # Errors
    /// The counter cannot be read.
    pub fn lost(&self) -> Result<u64, LoupeError> {
        Ok(self.counters.sum(Counter::TraceLost)? - self.lost_before)
    }

    fn write_filter(&mut self) -> Result<(), LoupeError> {
        let map = self
            .ebpf
            .map_mut(name::TRACE)
            .ok_or(LoupeError::Incomplete { what: "map TRACE" })?;
        Array::<_, TraceFilter>::try_from(map)
            .and_then(|mut map| map.set(0, self.filter, 0))
            .map_err(map_error(name::TRACE))
    }
}

impl Drop for Loupe {
    fn drop(&mut self) {
        self.filter.beat = 0;
        // What cannot be given back now, the control plane gives back when it finds the lock free.
        let given_back = self.write_filter().and_then(|()| give_back(&self.pin_path));
        if let Err(error) = given_back {
            tracing::warn!(
                error = &error as &dyn std::error::Error,
                "the links still have the tracer's program, which balances like the other; `warmpath balancer` gives them back"
            );
        }
    }
}

/// What became of the links that a tracer may have left behind.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Orphans {
    /// A tracer lives and keeps them.
    Kept,
    /// So many have the balancer's program again; the others had it.
    GivenBack(usize),
}

/// Gives links back that a tracer had when it was killed.
///
/// # Errors
/// [`LoupeError`].
pub fn give_back_orphans(pin_path: &Path) -> Result<Orphans, LoupeError> {
    match lock(pin_path) {
        Ok(_lock) => give_back(pin_path).map(Orphans::GivenBack),
        Err(LoupeError::Busy { .. }) => Ok(Orphans::Kept),
        Err(error) => Err(error),
    }
}

/// Returns how many links had another program.
fn give_back(pin_path: &Path) -> Result<usize, LoupeError> {
    let pinned = Xdp::from_pin(program_pin(pin_path), XdpAttachType::Interface);
    let mut balancer = pinned.map_err(program_error(PROGRAM))?;
    Ok(bring_links_to(&mut balancer, pin_path)?.moved)
}

/// How many links there are, and how many of them had another program.
struct Links {
    all: usize,
    moved: usize,
}

/// Puts `program` into every link that has another one.
fn bring_links_to(program: &mut Xdp, pin_path: &Path) -> Result<Links, LoupeError> {
    let id = program.info().map_err(program_error(TRACED))?.id();
    let pins = attach::pinned(pin_path)?;
    let mut moved = 0;
    for pin in &pins {
        let link_error = |source| LoupeError::Link {
            path: pin.path.clone(),
            source,
        };
        let link: FdLink = attach::open(&pin.path)?;
        if link.info().map_err(link_error)?.program_id() == id {
            continue;
        }
        let link = XdpLink::try_from(link).map_err(link_error)?;
        let id = program
            .attach_to_link(link)
            .map_err(program_error(TRACED))?;
        // The pin keeps the link when this handle is dropped.
        drop(program.take_link(id).map_err(program_error(TRACED))?);
        moved += 1;
    }
    Ok(Links {
        all: pins.len(),
        moved,
    })
}

/// The control plane holds the lock for a moment each time it looks for orphans.
fn lock_patiently(pin_path: &Path) -> Result<Flock<File>, LoupeError> {
    for _ in 0..LOCK_TRIES {
        match lock(pin_path) {
            Err(LoupeError::Busy { .. }) => sleep(LOCK_PAUSE),
            result => return result,
        }
    }
    lock(pin_path)
}

fn lock(pin_path: &Path) -> Result<Flock<File>, LoupeError> {
    let directory = File::open(pin_path).map_err(|source| LoupeError::PinPath {
        path: pin_path.to_owned(),
        source,
    })?;
    Flock::lock(directory, FlockArg::LockExclusiveNonblock).map_err(|(_, errno)| match errno {
        Errno::EWOULDBLOCK => LoupeError::Busy {
            path: pin_path.to_owned(),
        },
        errno => LoupeError::PinPath {
            path: pin_path.to_owned(),
            source: errno.into(),
        },
    })
}

fn loaded<'e>(ebpf: &'e mut Ebpf, program: &'static str) -> Result<&'e mut Xdp, LoupeError> {
    let xdp = xdp(ebpf, program)?;
    verify::load(xdp).map_err(program_error(program))?;
    Ok(xdp)
}

fn xdp<'e>(ebpf: &'e mut Ebpf, program: &'static str) -> Result<&'e mut Xdp, LoupeError> {
    let found = ebpf
        .program_mut(program)
        .ok_or(LoupeError::Incomplete { what: program })?;
    found.try_into().map_err(program_error(program))
}

fn other_version(pin_path: &Path) -> LoupeError {
    LoupeError::OtherVersion {
        path: pin_path.to_owned(),
    }
}

fn program_error(program: &'static str) -> impl Fn(ProgramError) -> LoupeError {
    move |source| LoupeError::Program {
        program,
        source: Box::new(source),
    }
}

fn map_error(map: &'static str) -> impl Fn(MapError) -> LoupeError {
    move |source| LoupeError::Map {
        map,
        source: Box::new(source),
    }
}

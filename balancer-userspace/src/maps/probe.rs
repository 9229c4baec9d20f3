//! What the kernel can do for the data plane, found by trying: nothing here is deduced from a version. Nothing is
//! pinned, and only [`try_native`] touches an interface.

use std::collections::BTreeSet;

use aya::{
    EbpfLoader,
    maps::MapType,
    programs::{ProgramType, Xdp, xdp::XdpMode},
    sys::{BpfHelper, is_helper_supported, is_map_supported, is_program_supported},
};
use aya_obj::generated::bpf_map_type;
use ebpf_common::verify;

/// The program of the object that lets every packet pass.
const PASS: &str = "pass";
/// Entries of a map in a trial load, where the map's type lets us choose.
const TRIAL_ENTRIES: u32 = 64;

/// The helpers whose presence depends on the kernel; the names are bpf-helpers(7)'s.
const HELPERS: [(&str, BpfHelper); 6] = [
    ("bpf_xdp_adjust_head", BpfHelper::BPF_FUNC_xdp_adjust_head),
    ("bpf_xdp_adjust_tail", BpfHelper::BPF_FUNC_xdp_adjust_tail),
    ("bpf_redirect_map", BpfHelper::BPF_FUNC_redirect_map),
    ("bpf_fib_lookup", BpfHelper::BPF_FUNC_fib_lookup),
    ("bpf_ringbuf_output", BpfHelper::BPF_FUNC_ringbuf_output),
    ("bpf_loop", BpfHelper::BPF_FUNC_loop),
];

/// Whether the kernel has a thing; or why that could not be found out.
pub type Probe = Result<bool, String>;

/// One map of the object, as it would be made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MapShape {
    /// Its name.
    pub name: String,
    /// `enum bpf_map_type`.
    pub map_type: u32,
    /// Bytes of a key.
    pub key_size: u32,
    /// Bytes of a value.
    pub value_size: u32,
    /// Entries.
    pub max_entries: u32,
    /// `BPF_F_*`.
    pub flags: u32,
}

/// What was found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BpfProbes {
    /// XDP programs.
    pub xdp: Probe,
    /// Each type of map that the object uses.
    pub map_types: Vec<(String, Probe)>,
    /// Each helper that the data plane calls or may call.
    pub helpers: Vec<(String, Probe)>,
    /// Each program of the object, or the end of what the verifier said.
    pub programs: Vec<(String, Result<Loaded, String>)>,
}

/// A program that the kernel has taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Loaded {
    /// Instructions that the verifier walked.
    pub verified: u32,
    /// Whether it was compiled; interpreted otherwise.
    pub is_compiled: bool,
}

/// The maps of `object`.
///
/// # Errors
/// It is no eBPF object.
pub fn map_shapes(object: &[u8]) -> Result<Vec<MapShape>, String> {
    let object = aya_obj::Object::parse(object).map_err(|error| error.to_string())?;
    let mut shapes: Vec<_> = object
        .maps
        .iter()
        .map(|(name, map)| MapShape {
            name: name.clone(),
            map_type: map.map_type(),
            key_size: map.key_size(),
            value_size: map.value_size(),
            max_entries: map.max_entries(),
            flags: map.map_flags(),
        })
        .collect();
    shapes.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(shapes)
}

/// Asks the kernel for everything that `object`, whose maps are `shapes`, needs.
#[must_use]
pub fn bpf(object: &[u8], shapes: &[MapShape]) -> BpfProbes {
    let types: BTreeSet<u32> = shapes.iter().map(|shape| shape.map_type).collect();
    BpfProbes {
        xdp: is_program_supported(ProgramType::Xdp).map_err(|error| error.to_string()),
        map_types: types.into_iter().map(map_type).collect(),
        helpers: HELPERS
            .into_iter()
            .map(|(name, helper)| {
                let probe = is_helper_supported(ProgramType::Xdp, helper);
                (name.to_owned(), probe.map_err(|error| error.to_string()))
            })
            .collect(),
        programs: load_all(object, shapes),
    }
}

fn map_type(number: u32) -> (String, Probe) {
    let known = bpf_map_type::try_from(number).ok();
    match known.and_then(|known| MapType::try_from(known).ok()) {
        Some(map_type) => (
            format!("{map_type:?}"),
            is_map_supported(map_type).map_err(|error| error.to_string()),
        ),
        None => (
            format!("type {number}"),
            Err("this version knows no probe for it".to_owned()),
        ),
    }
}

fn load_all(object: &[u8], shapes: &[MapShape]) -> Vec<(String, Result<Loaded, String>)> {
    let mut loader = EbpfLoader::new();
    for shape in shapes.iter().filter(|shape| may_shrink(shape)) {
        loader.map_max_entries(&shape.name, shape.max_entries.min(TRIAL_ENTRIES));
    }
    let mut ebpf = match loader.load(object) {
        Ok(ebpf) => ebpf,
        Err(error) => return vec![("maps".to_owned(), Err(chain(&error)))],
    };
    let mut results: Vec<_> = ebpf
        .programs_mut()
        .map(|(name, program)| {
            let loaded = <&mut Xdp>::try_from(program).and_then(|xdp| {
                verify::load(xdp)?;
                xdp.info()
            });
            let loaded = loaded.map(|info| Loaded {
                verified: info.verified_instruction_count().unwrap_or(0),
                is_compiled: info.size_jitted() > 0,
            });
            (name.to_owned(), loaded.map_err(|error| chain(&error)))
        })
        .collect();
    results.sort_by(|a, b| a.0.cmp(&b.0));
    results
}

/// The size of a ring buffer is a matter of pages, not of entries.
pub(super) const fn may_shrink(shape: &MapShape) -> bool {
    const RINGBUF: u32 = bpf_map_type::BPF_MAP_TYPE_RINGBUF as u32;
    shape.map_type != RINGBUF
}

/// Attaches a program that passes everything to `interface` in its driver, and takes it off again.
/// The caller has made sure that the interface has no program; some drivers restart their queues for it.
///
/// # Errors
/// What the kernel says.
pub fn try_native(object: &[u8], interface: &str) -> Result<(), String> {
    let mut loader = EbpfLoader::new();
    let shapes = map_shapes(object)?;
    for shape in shapes.iter().filter(|shape| may_shrink(shape)) {
        loader.map_max_entries(&shape.name, shape.max_entries.min(TRIAL_ENTRIES));
    }
    let mut ebpf = loader.load(object).map_err(|error| chain(&error))?;
    let program = ebpf
        .program_mut(PASS)
        .ok_or_else(|| format!("the object has no program `{PASS}`"))?;
    let attached = <&mut Xdp>::try_from(program).and_then(|program| {
        verify::load(program)?;
        let link = program.attach(interface, XdpMode::Driver)?;
        program.detach(link)
    });
    attached.map_err(|error| chain(&error))
}

/// The error with its causes, on one line; of a verifier's log the last lines.
fn chain<E: std::error::Error>(error: &E) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(next) = cause {
        text = format!("{text}: {next}");
        cause = next.source();
    }
    let lines: Vec<_> = text
        .lines()
        .map(str::trim)
        .filter(|line| !line.is_empty())
        .collect();
    let from = lines.len().saturating_sub(4);
    lines.get(from..).unwrap_or_default().join("; ")
}

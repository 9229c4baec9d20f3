//! The eBPF object that `build.rs` embedded. The loader reads the ELF in place, so the bytes are aligned to eight.

use crate::BlastError;

/// Gives `bytes` the alignment of its first field, which is empty.
#[repr(C)]
struct Aligned<Bytes: ?Sized> {
    alignment: [u64; 0],
    bytes: Bytes,
}

static OBJECT: &Aligned<[u8]> = &Aligned {
    alignment: [],
    bytes: *include_bytes!(concat!(env!("OUT_DIR"), "/bench.o")),
};

/// The ELF object with the programs of benchmarks and traffic.
///
/// # Errors
/// [`BlastError::NotBuilt`] says how to build it.
pub fn object() -> Result<&'static [u8], BlastError> {
    if OBJECT.bytes.is_empty() {
        return Err(BlastError::NotBuilt);
    }
    Ok(&OBJECT.bytes)
}

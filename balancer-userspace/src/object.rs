//! The eBPF object that `build.rs` embedded.
//!
//! The loader reads the ELF in place, so the bytes are aligned to eight here.

use thiserror::Error;

/// Why there is no object to load.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum ObjectError {
    /// The binary was built before the eBPF object was.
    #[error(
        "this binary was built without the XDP program; run `cargo xtask build`, which builds the eBPF object first"
    )]
    NotBuilt,
}

/// Gives `bytes` the alignment of its first field, which is empty.
#[repr(C)]
struct Aligned<Bytes: ?Sized> {
    alignment: [u64; 0],
    bytes: Bytes,
}

static OBJECT: &Aligned<[u8]> = &Aligned {
    alignment: [],
    bytes: *include_bytes!(concat!(env!("OUT_DIR"), "/balancer.o")),
};

/// The ELF object with the programs `balancer` and `pass`.
///
/// # Errors
/// [`ObjectError::NotBuilt`] says how to build it.
pub fn object() -> Result<&'static [u8], ObjectError> {
    if OBJECT.bytes.is_empty() {
        return Err(ObjectError::NotBuilt);
    }
    Ok(&OBJECT.bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_object_is_an_aligned_elf_or_says_how_to_build_it() {
        match object() {
            Ok(bytes) => {
                assert_eq!(&bytes[..4], b"\x7fELF");
                assert_eq!(bytes.as_ptr().align_offset(8), 0);
            }
            Err(err) => assert!(err.to_string().contains("cargo xtask build")),
        }
    }
}

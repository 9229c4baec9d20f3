//! The one macro that registers a type as a map value or key, and the crate's only `unsafe`.
//!
//! zerocopy's derives prove at compile time that the type has no padding and no invalid bit
//! patterns; the macro pins the size and, in userspace, says so to aya.

/// Declares a `#[repr(C)]` map type of exactly `$size` bytes without padding.
macro_rules! map_type {
    ($(#[$meta:meta])* $name:ident, $size:literal { $($(#[$field_meta:meta])* $field:ident: $type:ty,)+ }) => {
        $(#[$meta])*
        #[derive(
            Debug, Clone, Copy, PartialEq, Eq, Hash,
            zerocopy::FromBytes, zerocopy::IntoBytes, zerocopy::Immutable
        )]
        #[repr(C)]
        pub struct $name { $($(#[$field_meta])* pub $field: $type,)+ }

        const _: () = assert!(core::mem::size_of::<$name>() == $size);

        #[cfg(feature = "user")]
        #[expect(unsafe_code, reason = "aya::Pod is an unsafe trait")]
        // SAFETY: Pod requires that the type can be copied to and from bytes. `FromBytes` and `IntoBytes`,
        // derived above, are proofs by the compiler that it has no padding and no invalid bit pattern.
        unsafe impl aya::Pod for $name {}
    };
}

pub(crate) use map_type;

//! Names of functions, and of what is named as they are.

use super::ManifestError;

/// Longest function name: one DNS label, so that a name can be a host name as well.
pub const NAME_LEN_MAX: usize = 63;

/// Checks a function's name.
///
/// # Errors
/// [`ManifestError::Name`] when it is not `[a-z0-9][a-z0-9-]{0,62}`.
pub fn check_name(name: &str) -> Result<(), ManifestError> {
    let is_plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    let fits = (1..=NAME_LEN_MAX).contains(&name.len())
        && name.bytes().next().is_some_and(is_plain)
        && name.bytes().all(|byte| is_plain(byte) || byte == b'-');
    if fits {
        Ok(())
    } else {
        Err(ManifestError::Name {
            given: name.chars().take(NAME_LEN_MAX + 1).collect(),
        })
    }
}

//! Session ids from strings.

use sha2::{Digest, Sha256};

/// The session id of a name: the first eight bytes, big-endian, of the SHA-256 of its UTF-8 bytes.
///
/// Every client in every language that does the same meets the same instance.
#[must_use]
pub fn session_id(name: &str) -> u64 {
    let digest: [u8; 32] = Sha256::digest(name.as_bytes()).into();
    let mut head = [0; 8];
    for (byte, from) in head.iter_mut().zip(digest) {
        *byte = from;
    }
    u64::from_be_bytes(head)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn session_id_is_the_head_of_the_sha256() {
        // printf %s abc | sha256sum
        assert_eq!(session_id("abc"), 0xba78_16bf_8f01_cfea);
    }
}

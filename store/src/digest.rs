//! The name of a bundle: `sha256:` and the 64 lower-case hexadecimal digits of its SHA-256.
//!
//! A [`Digest`] is well formed by construction, so it is safe in a path and in a URL.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Deserializer, Serialize, de};
use sha2::{Digest as _, Sha256};

/// What every digest starts with; other algorithms would have another one.
const PREFIX: &str = "sha256:";
/// Hexadecimal digits of a SHA-256.
const HEX_LEN: usize = 64;

/// The SHA-256 of a bundle, in its one spelling.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(transparent)]
pub struct Digest(String);

/// Why a text is no digest.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{given}` is no digest: expected `sha256:` and 64 lower-case hexadecimal digits")]
pub struct DigestError {
    /// The refused text, cut to a length fit for a log line.
    pub given: String,
}

impl Digest {
    /// The digest of `bytes`.
    #[must_use]
    pub fn of(bytes: &[u8]) -> Self {
        let mut text = String::with_capacity(PREFIX.len() + HEX_LEN);
        text.push_str(PREFIX);
        for byte in Sha256::digest(bytes) {
            for nibble in [byte >> 4, byte & 0x0f] {
                let digit = char::from_digit(u32::from(nibble), 16);
                text.push(digit.expect("a nibble is below 16"));
            }
        }
        Self(text)
    }

    /// Whether `bytes` are what this digest names.
    #[must_use]
    pub fn is_of(&self, bytes: &[u8]) -> bool {
        Self::of(bytes) == *self
    }

    /// The 64 digits alone, fit for a file name.
    #[must_use]
    pub fn hex(&self) -> &str {
        self.0.strip_prefix(PREFIX).unwrap_or(&self.0)
    }

    /// The whole text, `sha256:…`.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for Digest {
    type Err = DigestError;

    fn from_str(text: &str) -> Result<Self, DigestError> {
        let is_hex = |byte: u8| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte);
        match text.strip_prefix(PREFIX) {
            Some(hex) if hex.len() == HEX_LEN && hex.bytes().all(is_hex) => {
                Ok(Self(text.to_owned()))
            }
            _ => Err(DigestError {
                given: text.chars().take(PREFIX.len() + HEX_LEN + 8).collect(),
            }),
        }
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl<'de> Deserialize<'de> for Digest {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?
            .parse()
            .map_err(de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    // printf '' | sha256sum
    const OF_NOTHING: &str =
        "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

    #[test]
    fn digest_is_the_sha256_of_the_bytes() {
        assert_eq!(Digest::of(b"").as_str(), OF_NOTHING);
        assert!(Digest::of(b"a").is_of(b"a"));
        assert!(!Digest::of(b"a").is_of(b"b"));
    }

    #[test]
    fn a_digest_has_one_spelling() {
        assert_eq!(OF_NOTHING.parse(), Ok(Digest::of(b"")));
        for bad in [
            "",
            "sha256:",
            "sha256:../../../../etc/passwd",
            &OF_NOTHING.to_uppercase(),
            &OF_NOTHING[..70],
            &format!("{OF_NOTHING}0"),
            &OF_NOTHING.replace("sha256", "sha512"),
        ] {
            assert!(bad.parse::<Digest>().is_err(), "{bad}");
        }
    }

    #[test]
    fn a_digest_is_checked_when_it_is_deserialised() {
        assert!(serde_json::from_str::<Digest>(&format!("\"{OF_NOTHING}\"")).is_ok());
        assert!(serde_json::from_str::<Digest>("\"sha256:00\"").is_err());
    }
}

//! Keys that several balancers have in common without a word to each other: made of one secret and the time.
//!
//! Behind ECMP a packet may reach any of the balancers, at the next change of routes another than before. A route cookie, which
//! stands in for a table of sessions (the idea of Cheetah, Barbette et al., NSDI '20), helps only if each of them opens what was sealed for
//! any. So the keys of an epoch are HKDF-SHA256 (RFC 5869) of the secret, and the epoch is the time in units of `rotate_s`.

use std::{fmt, time::Duration};

use hkdf::Hkdf;
use sha2::Sha256;
use thiserror::Error;

use crate::reconcile::tables::Keys;

/// Bytes that a secret has at least: as many as the hash's output.
pub const MIN_SECRET: usize = 32;
/// Keeps these keys apart from others that somebody may make of the same secret.
const SALT: &[u8] = b"warmpath keys 1";

/// Why a text is no secret.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("has {len} bytes, and a secret has {MIN_SECRET} or more: `openssl rand -hex 32` makes one")]
pub struct SecretError {
    /// Bytes, without white space around them.
    pub len: usize,
}

/// What all balancers of one address know.
#[derive(Clone)]
pub struct KeySecret(Hkdf<Sha256>);

/// Says nothing of the secret.
impl fmt::Debug for KeySecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("KeySecret")
    }
}

impl KeySecret {
    /// The secret `text`, without white space around it.
    ///
    /// # Errors
    /// [`SecretError`] if it is too short.
    pub fn parse(text: &str) -> Result<Self, SecretError> {
        // A final newline is the editor's.
        let secret = text.trim().as_bytes();
        if secret.len() < MIN_SECRET {
            return Err(SecretError { len: secret.len() });
        }
        Ok(Self(Hkdf::new(Some(SALT), secret)))
    }

    /// The keys of `epoch` and of the one before it. [`Keys::epoch`] is its lowest byte.
    #[must_use]
    pub fn keys(&self, epoch: u64) -> Keys {
        let pair = |label| {
            let mut pair = [[0; 2]; 2];
            for epoch in [epoch.wrapping_sub(1), epoch] {
                pair[(epoch & 1) as usize] = self.key(label, epoch);
            }
            pair
        };
        Keys {
            epoch: epoch as u8,
            cookie: pair("cookie"),
            token: pair("token"),
            load: pair("load"),
        }
    }

    fn key(&self, label: &str, epoch: u64) -> [u64; 2] {
        let mut bytes = [0; 16];
        let info = [label.as_bytes(), &epoch.to_be_bytes()];
        self.0
            .expand_multi_info(&info, &mut bytes)
            .expect("16 bytes are fewer than 255 blocks");
        let [k0, k1] = [0, 8].map(|at| {
            let word: [u8; 8] = std::array::from_fn(|byte| bytes[at + byte]);
            u64::from_le_bytes(word)
        });
        [k0, k1]
    }
}

/// Epochs of `rotate_s` seconds each, since 1970; the same at whoever has the time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Epochs {
    rotate_s: u32,
}

impl Epochs {
    /// One without end for 0.
    #[must_use]
    pub const fn of(rotate_s: u32) -> Self {
        Self { rotate_s }
    }

    /// The epoch at `now` since 1970.
    #[must_use]
    pub fn at(self, now: Duration) -> u64 {
        now.as_secs().checked_div(self.rotate_s.into()).unwrap_or(0)
    }

    /// How long until the next one.
    #[must_use]
    pub fn left(self, now: Duration) -> Option<Duration> {
        let length = (self.rotate_s > 0).then(|| u64::from(self.rotate_s))?;
        let next = Duration::from_secs((self.at(now) + 1) * length);
        Some(next.saturating_sub(now))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECRET: &str = "0123456789abcdef0123456789abcdef";

    fn secret() -> KeySecret {
        KeySecret::parse(SECRET).unwrap()
    }

    /// Made with Python's `hmac`: HKDF-SHA256, 16 bytes, info = label + epoch.to_bytes(8, "big"), as two little-endian words.
    #[test]
    fn golden_keys() {
        assert_eq!(
            secret().key("cookie", 7),
            [0xf811_f81a_4985_779e, 0x3e02_46c3_a41c_09ee]
        );
        assert_eq!(
            secret().key("load", u64::MAX),
            [0xd75c_f503_ef7b_57ad, 0x6921_0880_acd5_9176]
        );
    }

    #[test]
    fn an_epoch_keeps_the_keys_of_the_one_before() {
        for epoch in [1, 2, 255, 256, 257] {
            let (before, after) = (secret().keys(epoch - 1), secret().keys(epoch));
            assert_eq!(u64::from(after.epoch), epoch & 0xff);
            let (old, new) = ((epoch - 1) as usize & 1, epoch as usize & 1);
            for (before, after) in [
                (before.cookie, after.cookie),
                (before.token, after.token),
                (before.load, after.load),
            ] {
                assert_eq!(before[old], after[old]);
                assert_ne!(before[new], after[new], "two epochs ago");
            }
        }
        let keys = secret().keys(300);
        let mut all = [keys.cookie, keys.token, keys.load].concat();
        all.sort_unstable();
        all.dedup();
        assert_eq!(all.len(), 6, "no key serves twice");
        assert_ne!(keys.cookie, secret().keys(300 - 256).cookie);
    }

    #[test]
    fn another_secret_has_other_keys_and_white_space_is_none_of_it() {
        let other = KeySecret::parse(&SECRET.replace('0', "1")).unwrap();
        assert_ne!(other.keys(1), secret().keys(1));
        let spaced = KeySecret::parse(&format!(" {SECRET}\n")).unwrap();
        assert_eq!(spaced.keys(1), secret().keys(1));
        let short = &SECRET[1..];
        assert_eq!(KeySecret::parse(short).unwrap_err().len, 31);
        assert!(!format!("{:?}", secret()).contains('0'));
    }

    #[test]
    fn epochs_are_counted_from_1970_in_seconds_of_the_rotation() {
        let day = Epochs::of(86_400);
        let at = |s: u64| Duration::from_millis(s * 1000 + 250);
        assert_eq!(day.at(at(86_399)), 0);
        assert_eq!(day.left(at(86_399)), Some(Duration::from_millis(750)));
        assert_eq!(day.at(at(86_400)), 1);
        assert_eq!(
            day.left(Duration::from_secs(86_400)),
            Some(Duration::from_secs(86_400))
        );
        let never = Epochs::of(0);
        assert_eq!((never.at(at(86_400)), never.left(at(86_400))), (0, None));
    }
}

//! New keys, when the clock or an operator asks for them.

use std::time::{Duration, Instant};

use tracing::info;

use super::{CommandError, Controller};
use crate::{
    clock::since_1970,
    key_secret::Epochs,
    maps::MapStore,
    reconcile::tables::{Keys, MapWrite},
};

impl<S: MapStore> Controller<S> {
    /// The keys of now, if others make the same.
    pub(super) fn shared_keys(&self) -> Option<Keys> {
        let secret = self.key_secret.as_ref()?;
        Some(secret.keys(self.epochs().at(since_1970())))
    }

    /// Keys that an earlier control plane made are as old as it says; those of a shared secret change when they do
    /// everywhere.
    pub(super) fn schedule_keys(&mut self) {
        let now = since_1970();
        if self.keys_made_s == 0 {
            self.keys_made_s = now.as_secs();
        }
        let left = if self.key_secret.is_some() {
            self.epochs().left(now)
        } else {
            let rotate_s = u64::from(self.config.keys.rotate_s);
            let age_s = now.as_secs().saturating_sub(self.keys_made_s);
            (rotate_s > 0).then(|| Duration::from_secs(rotate_s.saturating_sub(age_s)))
        };
        self.keys_at = left.map(|left| Instant::now() + left);
    }

    const fn epochs(&self) -> Epochs {
        Epochs::of(self.config.keys.rotate_s)
    }

    pub(super) fn rotate_keys_if_due(&mut self) {
        if self.keys_at.is_some_and(|at| Instant::now() >= at) {
            self.rotate_keys();
        }
    }

    /// New keys because an operator wants them.
    pub(super) fn rotate_keys_now(&mut self) -> Result<u32, CommandError> {
        if self.key_secret.is_some() {
            return Err(CommandError::KeysShared);
        }
        self.rotate_keys();
        Ok(self.applier.actual().config.key_epoch)
    }

    /// A new epoch. The program gets the keys first, in one write: nothing is sealed with them before the workers have
    /// them too, and what was sealed in the epoch that ends stays valid for as long as the new one lasts.
    pub(super) fn rotate_keys(&mut self) {
        let held = Keys::of(&self.applier.actual().config);
        let fresh = || held.rotated([rand::random(), rand::random(), rand::random()]);
        let keys = self.shared_keys().unwrap_or_else(fresh);
        // The clock that woke us may be ahead of the one that says the epoch.
        if keys != held {
            self.applier.write_now(&[MapWrite::Keys(keys)]);
            self.keys_made_s = since_1970().as_secs();
            self.share();
            self.save();
            info!(epoch = keys.epoch, "keys made anew");
        }
        self.schedule_keys();
    }
}

//! New keys, when the clock or an operator asks for them.

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use tracing::info;

use super::Controller;
use crate::{
    maps::MapStore,
    reconcile::tables::{Keys, MapWrite},
};

impl<S: MapStore> Controller<S> {
    /// Keys that an earlier control plane made are as old as it says.
    pub(super) fn schedule_keys(&mut self) {
        if self.keys_made_s == 0 {
            self.keys_made_s = unix_s();
        }
        let age_s = unix_s().saturating_sub(self.keys_made_s);
        let rotate_s = u64::from(self.config.keys.rotate_s);
        self.keys_at = (rotate_s > 0)
            .then(|| Instant::now() + Duration::from_secs(rotate_s.saturating_sub(age_s)));
    }

    pub(super) fn rotate_keys_if_due(&mut self) {
        if self.keys_at.is_some_and(|at| Instant::now() >= at) {
            self.rotate_keys();
        }
    }

    /// A new epoch. The program gets the keys first, in one write: nothing is sealed with them before the workers have
    /// them too, and what was sealed in the epoch that ends stays valid for as long as the new one lasts.
    pub(super) fn rotate_keys(&mut self) {
        let keys = Keys::of(&self.applier.actual().config);
        let fresh = [rand::random(), rand::random(), rand::random()];
        self.applier
            .write_now(&[MapWrite::Keys(keys.rotated(fresh))]);
        self.keys_made_s = unix_s();
        self.schedule_keys();
        self.share();
        self.save();
        let epoch = self.applier.actual().config.key_epoch;
        info!(epoch, "keys made anew");
    }
}

fn unix_s() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.unwrap_or_default().as_secs()
}

//! Profiles of what this pool's functions do, for as long as somebody asks.

use std::{
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use ebpf_common::ids::FunctionId;
use store::Runtime;

use super::{Pool, function::FunctionPool};
use crate::profile::{ProfileReport, ProfileRequest, Stacks};

/// Why there is no profile. What it says is for whoever asked.
#[derive(Debug, thiserror::Error)]
pub enum ProfileError {
    /// It would be too long or too fine.
    #[error(
        "a profile takes 1 to {} seconds with 1 to {} samples a second",
        ProfileRequest::SECONDS_MAX,
        ProfileRequest::HZ_MAX
    )]
    Range,
    /// Nobody called it here.
    #[error(
        "worker {worker} knows no function {function}: no request for it came here. Call it first (`warmpath fn invoke {function}`), or ask the worker that serves it (`--worker`); `warmpath worker pool` lists what is here"
    )]
    Unknown {
        /// This worker.
        worker: String,
        /// What was asked for.
        function: String,
    },
    /// Nobody samples in there.
    #[error(
        "{function} has the runtime {runtime}, and only the stacks of python3 functions can be sampled. For this one use the runtime's own profiler where you develop it"
    )]
    Runtime {
        /// What was asked for.
        function: String,
        /// What runs it.
        runtime: &'static str,
    },
    /// Somebody else is at it.
    #[error("a profile of {function} is being taken already: try again when that is over")]
    Busy {
        /// What was asked for.
        function: String,
    },
}

impl Pool {
    /// Samples the calls of a function that begin from now on, for as long as was asked. Dropping the future ends the
    /// sampling.
    ///
    /// # Errors
    /// [`ProfileError`].
    pub async fn profile(&self, request: &ProfileRequest) -> Result<ProfileReport, ProfileError> {
        if !request.is_in_range() {
            return Err(ProfileError::Range);
        }
        let functions = self.meant(&request.function)?;
        let sessions = functions.iter().map(|pool| pool.profile.open(request.hz));
        let sessions = sessions.collect::<Option<Vec<_>>>();
        let sessions = sessions.ok_or_else(|| ProfileError::Busy {
            function: request.function.clone(),
        })?;
        tokio::time::sleep(Duration::from_secs(request.seconds.into())).await;
        let (mut requests, mut stacks) = (0, Stacks::default());
        for session in &sessions {
            let (began, sampled) = session.so_far();
            requests += began;
            stacks.merge(&sampled);
        }
        let samples = stacks.samples();
        self.counters
            .profile_samples
            .fetch_add(samples, Ordering::Relaxed);
        Ok(ProfileReport {
            worker: self.config.worker.clone(),
            function: request.function.clone(),
            seconds: request.seconds,
            hz: request.hz,
            requests,
            samples,
            stacks,
        })
    }

    /// All versions of a name, or the one that a qualified name leads to.
    fn meant(&self, function: &str) -> Result<Vec<Arc<FunctionPool>>, ProfileError> {
        let mut pools = self.functions.all();
        if function.contains('@') {
            let id = FunctionId::of(function);
            pools.retain(|pool| pool.ids().contains(&id));
        } else {
            pools.retain(|pool| pool.entry.name == function);
        }
        if pools.is_empty() {
            return Err(ProfileError::Unknown {
                worker: self.config.worker.clone(),
                function: function.to_owned(),
            });
        }
        for pool in &pools {
            let runtime = match pool.entry.manifest.runtime {
                Runtime::Python3 => continue,
                Runtime::Node => "node",
                Runtime::Native => "native",
            };
            return Err(ProfileError::Runtime {
                function: function.to_owned(),
                runtime,
            });
        }
        Ok(pools)
    }
}

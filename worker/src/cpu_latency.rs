//! A request to the kernel that idle processors stay easy to wake while requests come.
//!
//! A processor with nothing to do is halted, and waking it takes time: a virtual machine's host must run it again (35 to
//! 40 µs on the reference machine), bare metal leaves a sleep (1 to 100 µs, by its depth). A request that goes through four
//! processes pays that several times. For as long as a descriptor of `/dev/cpu_dma_latency` is open that a limit was written
//! to, no idle processor sleeps so deeply that waking it takes longer; at 0 it does not sleep, but polls
//! (Documentation/power/pm_qos_interface.rst, Linux 6.1). That holds for the whole machine and costs power, or a host's time,
//! so it is asked for only by an operator who says so, and by default of that only while requests come. The kernel forgets
//! it with the descriptor, also when the worker is killed.

use std::{
    fs::{File, OpenOptions},
    io::{self, Write as _},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use serde::{Deserialize, Serialize};
use tokio::sync::Notify;

/// Where the kernel takes such requests.
const DEVICE: &str = "/dev/cpu_dma_latency";

/// `PM_QOS_DEFAULT_VALUE` of linux/pm_qos.h: no limit of ours.
const NO_LIMIT: i32 = -1;

/// `[cpu_latency]`: how long waking an idle processor may take.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct CpuLatencyConfig {
    /// When the limit is asked for.
    pub hold: Hold,
    /// The limit in microseconds; at 0, idle processors poll.
    pub limit_us: u32,
    /// With [`Hold::Busy`], the limit is given up once no request has come for so many milliseconds.
    pub linger_ms: u64,
}

impl Default for CpuLatencyConfig {
    fn default() -> Self {
        Self {
            hold: Hold::Never,
            limit_us: 0,
            linger_ms: 20,
        }
    }
}

/// When a limit is asked for.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Hold {
    /// Never: idle processors sleep as the machine is set up.
    #[default]
    Never,
    /// From a request until none has come for a while.
    Busy,
    /// As long as the worker runs.
    Always,
}

/// The kernel does not take the request.
#[derive(Debug, thiserror::Error)]
#[error(
    "cannot ask for a CPU latency of at most {limit_us} us by {DEVICE}: run as root on a kernel with CONFIG_CPU_IDLE, or set \
     `cpu_latency.hold = \"never\"`"
)]
pub struct CpuLatencyError {
    limit_us: i32,
    #[source]
    source: io::Error,
}

/// The limit, held or not.
#[derive(Debug)]
pub struct CpuLatency {
    linger: Duration,
    hold: Hold,
    limit_us: i32,
    /// Requests that came, ever.
    requests: AtomicU64,
    /// Whether the limit is held; changed with `request` locked.
    is_held: AtomicBool,
    request: Mutex<Request>,
    began: Notify,
}

#[derive(Debug)]
struct Request {
    /// None if the limit is never held.
    device: Option<File>,
    since: Option<Instant>,
    held: Duration,
}

/// What is asked for, for people.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct CpuLatencyStanding {
    /// When the limit is asked for.
    pub hold: Hold,
    /// The limit in microseconds.
    pub limit_us: u32,
    /// Whether it is held now.
    pub is_held: bool,
    /// For how long it has been held, in seconds.
    pub held_seconds: f64,
}

impl CpuLatency {
    /// Opens the device if `config` needs it, and with [`Hold::Always`] asks for the limit.
    ///
    /// # Errors
    /// [`CpuLatencyError`] when the kernel does not take it: what was configured is not silently left out.
    pub fn new(config: &CpuLatencyConfig) -> Result<Self, CpuLatencyError> {
        Self::at(DEVICE, config)
    }

    fn at(device: &str, config: &CpuLatencyConfig) -> Result<Self, CpuLatencyError> {
        let limit_us = i32::try_from(config.limit_us).unwrap_or(i32::MAX);
        let refused = |source| CpuLatencyError { limit_us, source };
        let device = match config.hold {
            Hold::Never => None,
            Hold::Busy | Hold::Always => {
                let opened = OpenOptions::new().write(true).open(device);
                let device = opened.map_err(refused)?;
                // Opening has asked for the default already; this shows at once whether it takes a limit.
                ask(&device, NO_LIMIT).map_err(refused)?;
                Some(device)
            }
        };
        let latency = Self {
            linger: Duration::from_millis(config.linger_ms),
            hold: config.hold,
            limit_us,
            requests: AtomicU64::new(0),
            is_held: AtomicBool::new(false),
            request: Mutex::new(Request {
                device,
                since: None,
                held: Duration::ZERO,
            }),
            began: Notify::new(),
        };
        if config.hold == Hold::Always {
            latency.hold();
        }
        Ok(latency)
    }

    /// A request came. Cheap, except for the first one after a pause.
    pub fn request_came(&self) {
        if self.hold != Hold::Busy {
            return;
        }
        self.requests.fetch_add(1, Ordering::Relaxed);
        if !self.is_held.load(Ordering::Acquire) {
            self.hold();
            self.began.notify_one();
        }
    }

    /// Gives the limit up whenever no request has come for a while. Never returns.
    pub async fn tend(self: Arc<Self>) {
        loop {
            self.began.notified().await;
            let mut before = self.requests.load(Ordering::Relaxed);
            loop {
                tokio::time::sleep(self.linger).await;
                let now = self.requests.load(Ordering::Relaxed);
                if now == before {
                    break;
                }
                before = now;
            }
            self.release();
        }
    }

    /// How it stands.
    #[must_use]
    pub fn standing(&self) -> CpuLatencyStanding {
        let request = self.lock();
        let current = request
            .since
            .map_or(Duration::ZERO, |since| since.elapsed());
        CpuLatencyStanding {
            hold: self.hold,
            limit_us: self.limit_us.unsigned_abs(),
            is_held: request.since.is_some(),
            held_seconds: (request.held + current).as_secs_f64(),
        }
    }

    fn hold(&self) {
        let mut request = self.lock();
        if request.since.is_none() && request.ask(self.limit_us) {
            request.since = Some(Instant::now());
            self.is_held.store(true, Ordering::Release);
        }
    }

    fn release(&self) {
        let mut request = self.lock();
        if let Some(since) = request.since.take() {
            // Before the limit goes: a request that comes now waits for the lock and asks for it again.
            self.is_held.store(false, Ordering::Release);
            request.ask(NO_LIMIT);
            request.held += since.elapsed();
        }
    }

    fn lock(&self) -> MutexGuard<'_, Request> {
        self.request.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Request {
    /// Whether the kernel took it. That it does not is told once: it did when the worker started.
    fn ask(&mut self, limit_us: i32) -> bool {
        let Some(device) = &self.device else {
            return false;
        };
        if let Err(error) = ask(device, limit_us) {
            tracing::warn!(%error, limit_us, "{DEVICE} takes no limit any more: idle processors sleep from now on");
            self.device = None;
        }
        self.device.is_some()
    }
}

/// Four bytes in the machine's order are taken as the number itself.
fn ask(mut device: &File, limit_us: i32) -> io::Result<()> {
    device.write_all(&limit_us.to_ne_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn busy(linger_ms: u64) -> CpuLatencyConfig {
        CpuLatencyConfig {
            hold: Hold::Busy,
            linger_ms,
            ..CpuLatencyConfig::default()
        }
    }

    /// What was written to `path`, as numbers.
    fn written(path: &std::path::Path) -> Vec<i32> {
        let bytes = std::fs::read(path).unwrap();
        let (numbers, rest) = bytes.as_chunks();
        assert!(rest.is_empty());
        numbers.iter().map(|it| i32::from_ne_bytes(*it)).collect()
    }

    #[tokio::test]
    async fn the_limit_is_held_from_a_request_until_none_has_come_for_a_while() {
        const LINGER: Duration = Duration::from_secs(1);
        let file = tempfile::NamedTempFile::new().unwrap();
        let path = file.path();
        let latency = CpuLatency::at(path.to_str().unwrap(), &busy(1_000)).unwrap();
        let latency = Arc::new(latency);
        let tending = tokio::spawn(Arc::clone(&latency).tend());
        assert_eq!(
            (written(path), latency.standing().is_held),
            (vec![-1], false)
        );

        latency.request_came();
        // Let the other task begin to count the time, and ask in the midst of it.
        tokio::time::sleep(LINGER / 2).await;
        let last = Instant::now();
        (0..10).for_each(|_| latency.request_came());
        assert_eq!(written(path), [-1, 0], "asked for once");
        while latency.standing().is_held {
            tokio::time::sleep(LINGER / 20).await;
        }
        assert!(
            last.elapsed() >= LINGER,
            "given up {:?} after a request",
            last.elapsed()
        );
        assert_eq!(written(path), [-1, 0, -1]);
        assert!(latency.standing().held_seconds >= LINGER.as_secs_f64());

        latency.request_came();
        assert_eq!(written(path), [-1, 0, -1, 0], "and again");
        tending.abort();
    }

    #[test]
    fn always_is_from_the_start_and_never_is_not_at_all() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let path = file.path().to_str().unwrap();
        let config = CpuLatencyConfig {
            hold: Hold::Always,
            limit_us: 7,
            ..CpuLatencyConfig::default()
        };
        let latency = CpuLatency::at(path, &config).unwrap();
        latency.request_came();
        assert_eq!(written(file.path()), [-1, 7]);
        assert!(latency.standing().is_held);

        let never = CpuLatency::at("/dev/null/nothing", &CpuLatencyConfig::default()).unwrap();
        never.request_came();
        assert!(!never.standing().is_held);
    }

    #[test]
    fn a_kernel_that_takes_no_limit_is_an_error_that_says_what_to_do() {
        for device in ["/dev/full", "/no/such/device"] {
            let error = CpuLatency::at(device, &busy(20)).unwrap_err().to_string();
            assert!(error.contains("cpu_latency.hold"), "{error}");
        }
    }

    #[test]
    fn the_kernel_takes_a_limit_and_forgets_it_with_the_descriptor() {
        let latency = CpuLatency::new(&busy(20)).unwrap();
        latency.request_came();
        assert!(latency.standing().is_held);
        assert_eq!(limit_of_the_kernel(), 0);
        drop(latency);
        assert_ne!(limit_of_the_kernel(), 0);
    }

    /// What the device tells: the smallest limit that anybody holds.
    fn limit_of_the_kernel() -> i32 {
        use std::io::Read as _;
        let mut bytes = [0; 4];
        File::open(DEVICE).unwrap().read_exact(&mut bytes).unwrap();
        i32::from_ne_bytes(bytes)
    }
}

//! The generator: scenes, mixed by their shares, sent out of an interface as fast as one CPU can or at a rate.

use std::{
    thread,
    time::{Duration, Instant},
};

use aya::{
    Ebpf, EbpfLoader, Pod,
    maps::{Array, MapData},
    programs::{TestRun as _, TestRunAttrs, TestRunOptions},
};
use ebpf_common::{
    traffic::{MAX_STREAMS, MIX_LEN, Template},
    verify,
};
use serde::Serialize;

use crate::{BlastError, Scene, object::object, program};

/// Frames that the kernel runs through at a time: what a driver's poll takes in one go.
const BATCH: u32 = 64;
/// Packets of one system call without a rate: long enough that its set-up costs nothing, short enough to be stopped.
const BURST: u64 = 1 << 16;
/// With a rate, packets are due this often.
const BEAT: Duration = Duration::from_millis(1);
/// How often progress is told.
const TOLD_EVERY: Duration = Duration::from_secs(1);

/// When to stop, and how fast to go.
#[derive(Debug, Clone, Copy, Default)]
pub struct Limits {
    /// Packets a second; as many as can be without.
    pub rate: Option<u64>,
    /// Packets in all.
    pub count: Option<u64>,
    /// Time in all.
    pub duration: Option<Duration>,
}

/// What was sent.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Summary {
    /// Packets.
    pub packets: u64,
    /// Bytes of their frames.
    pub bytes: u64,
    /// Time.
    pub seconds: f64,
    /// Packets a second.
    pub packets_per_second: f64,
}

/// The loaded generator.
#[derive(Debug)]
pub struct Generator {
    ebpf: Ebpf,
    /// The longest frame: the programs write the shorter ones' headers over it.
    frame: Vec<u8>,
    sent: u64,
}

impl Generator {
    /// Loads the generator for the interface of index `ifindex` in the caller's network namespace, with `streams` and
    /// their shares.
    ///
    /// # Errors
    /// No or too many streams, or the kernel refuses the programs.
    pub fn load(ifindex: u32, streams: &[(Scene, u32)]) -> Result<Self, BlastError> {
        let mix = mix(&streams.iter().map(|(_, share)| *share).collect::<Vec<_>>())?;
        let mut loader = EbpfLoader::new();
        // Maps of measurements that the generator does not touch.
        for map in ["OP_LINES", "OP_HASH", "OP_HASH_LAZY", "OP_HASH16", "OP_LRU"] {
            loader.map_max_entries(map, 64);
        }
        let mut ebpf = loader.load(object()?)?;
        verify::load(program(&mut ebpf, "generate")?)?;
        let frames = streams.iter().map(|(scene, _)| scene.frame.clone());
        let frame = frames.max_by_key(Vec::len);
        let mut generator = Self {
            ebpf,
            frame: frame.unwrap_or_default(),
            sent: 0,
        };
        generator.array::<u32>("OUT")?.set(0, ifindex, 0)?;
        let mut templates = generator.array::<Template>("TEMPLATE")?;
        for (index, (scene, _share)) in (0..).zip(streams) {
            templates.set(index, scene.template, 0)?;
        }
        let mut entries = generator.array::<u32>("MIX")?;
        for (index, stream) in (0..).zip(&mix) {
            entries.set(index, stream, 0)?;
        }
        Ok(generator)
    }

    /// Sets the route cookies, by flow, of streams that carry one.
    ///
    /// # Errors
    /// The map refuses them.
    pub fn set_cookies(&mut self, cookies: &[u64]) -> Result<(), BlastError> {
        let mut map = self.array::<u64>("COOKIES")?;
        for (flow, cookie) in (0..).zip(cookies) {
            map.set(flow, cookie, 0)?;
        }
        Ok(())
    }

    /// Sends `count` packets, on the caller's CPU and in its network namespace.
    ///
    /// # Errors
    /// The kernel refuses.
    pub fn send(&mut self, count: u32) -> Result<(), BlastError> {
        program(&mut self.ebpf, "generate")?.test_run(TestRunOptions {
            data_in: Some(&self.frame),
            repeat: count,
            attrs: TestRunAttrs::new().xdp_live_frames(BATCH),
            ..TestRunOptions::new()
        })?;
        self.sent += u64::from(count);
        Ok(())
    }

    /// Sends until a limit is reached, and tells `progress` every second; `progress` returns whether to go on.
    ///
    /// # Errors
    /// The kernel refuses.
    pub fn run(
        &mut self,
        limits: &Limits,
        mut progress: impl FnMut(&Summary) -> bool,
    ) -> Result<Summary, BlastError> {
        let start = Instant::now();
        let sent_before = self.sent;
        let mut told = start;
        loop {
            let sent = self.sent - sent_before;
            let elapsed = start.elapsed();
            let is_over = limits.duration.is_some_and(|duration| elapsed >= duration)
                || limits.count.is_some_and(|count| sent >= count);
            if is_over {
                return Ok(self.summary(sent, elapsed));
            }
            if told.elapsed() >= TOLD_EVERY {
                told = Instant::now();
                if !progress(&self.summary(sent, elapsed)) {
                    return Ok(self.summary(sent, elapsed));
                }
            }
            let due = limits.due(sent, elapsed);
            if due == 0 {
                thread::sleep(BEAT);
            } else {
                self.send(due)?;
            }
        }
    }

    fn summary(&self, packets: u64, elapsed: Duration) -> Summary {
        let seconds = elapsed.as_secs_f64();
        Summary {
            packets,
            bytes: packets * self.frame.len() as u64,
            seconds,
            packets_per_second: packets as f64 / seconds.max(1e-9),
        }
    }

    fn array<V: Pod>(&mut self, name: &'static str) -> Result<Array<&mut MapData, V>, BlastError> {
        let map = self.ebpf.map_mut(name).ok_or(BlastError::Missing(name))?;
        Ok(map.try_into()?)
    }
}

impl Limits {
    /// Packets to send now, `elapsed` after the start, when `sent` have been.
    fn due(&self, sent: u64, elapsed: Duration) -> u32 {
        let by_rate = self.rate.map_or(BURST, |rate| {
            let by_now = (elapsed + BEAT).as_secs_f64() * rate as f64;
            (by_now as u64).saturating_sub(sent)
        });
        let by_count = self.count.map_or(BURST, |count| count.saturating_sub(sent));
        by_rate.min(by_count).min(BURST) as u32
    }
}

/// Which stream's turn it is, for [`MIX_LEN`] turns, so that each has its share and turns are spread evenly.
fn mix(shares: &[u32]) -> Result<Vec<u32>, BlastError> {
    let whole: u64 = shares.iter().copied().map(u64::from).sum();
    if shares.is_empty() || shares.len() > MAX_STREAMS as usize || shares.contains(&0) {
        return Err(BlastError::Streams);
    }
    // Each turn goes to the stream that is furthest behind its share.
    let mut had = vec![0_u64; shares.len()];
    let mut turns = Vec::with_capacity(MIX_LEN as usize);
    for turn in 1..=u64::from(MIX_LEN) {
        let behind = |index: usize, share: u32| {
            (turn * u64::from(share)).cast_signed() - (had[index] * whole).cast_signed()
        };
        let next = (0..shares.len()).max_by_key(|index| behind(*index, shares[*index]));
        let next = next.ok_or(BlastError::Streams)?;
        had[next] += 1;
        turns.push(next as u32);
    }
    Ok(turns)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_stream_has_its_share_of_turns() {
        let turns = mix(&[3, 1]).expect("two streams can be mixed");
        let of = |stream| turns.iter().filter(|turn| **turn == stream).count();
        assert_eq!((of(0), of(1)), (48, 16));
        // Spread evenly: one in any four.
        assert!(turns.chunks(4).all(|four| four.contains(&1)));
    }

    #[test]
    fn a_mix_of_nothing_is_refused() {
        assert!(matches!(mix(&[]), Err(BlastError::Streams)));
        assert!(matches!(mix(&[1, 0]), Err(BlastError::Streams)));
        assert!(matches!(mix(&[1; 17]), Err(BlastError::Streams)));
    }

    #[test]
    fn packets_are_due_by_the_rate_and_never_more_than_the_count() {
        let limits = Limits {
            rate: Some(10_000),
            count: Some(15),
            duration: None,
        };
        assert_eq!(limits.due(0, Duration::ZERO), 10);
        assert_eq!(limits.due(10, Duration::ZERO), 0);
        assert_eq!(limits.due(10, BEAT), 5);
        assert_eq!(Limits::default().due(0, Duration::ZERO), BURST as u32);
    }
}

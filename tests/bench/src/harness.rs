//! The harness of `xdp-balancer/src/bench`, loaded, and its measurements.

use std::{fs, path::PathBuf};

use anyhow::{Context as _, Result, ensure};
use aya::{
    Ebpf, EbpfLoader, Pod,
    maps::{Array, MapData, ProgramArray},
    programs::{ProgramFd, TestRun as _, TestRunOptions, Xdp},
};
use blast::Scene;
use ebpf_common::{traffic::Template, verify};

/// Names another object than the one that `cargo xtask bench` made.
const OBJECT_VARIABLE: &str = "WARMPATH_BENCH_OBJECT";
/// Where it leaves it, from this package.
const DEFAULT_OBJECT: &str = concat!(
    env!("CARGO_MANIFEST_DIR"),
    "/../../target/ebpf/bpfel-unknown-none/release/bench"
);

/// XDP_DROP, XDP_PASS and XDP_TX of `enum xdp_action`, linux/bpf.h.
pub(crate) const DROP: u32 = 1;
pub(crate) const PASS: u32 = 2;
pub(crate) const TX: u32 = 3;

/// The programs of the object `bench`.
pub(crate) struct Harness {
    ebpf: Ebpf,
}

impl Harness {
    /// Loads it.
    pub(crate) fn load() -> Result<Self> {
        let path =
            std::env::var_os(OBJECT_VARIABLE).map_or_else(|| DEFAULT_OBJECT.into(), PathBuf::from);
        let object = fs::read(&path).with_context(|| format!("reading {}", path.display()))?;
        let mut ebpf = EbpfLoader::new()
            .load(&object)
            .context("loading the object `bench`")?;
        verify::load(program(&mut ebpf, "harness")?)?;
        Ok(Self { ebpf })
    }

    /// Loads the program `name` of the object.
    pub(crate) fn target(&mut self, name: &str) -> Result<ProgramFd> {
        let program = program(&mut self.ebpf, name)?;
        if program.fd().is_err() {
            verify::load(program).with_context(|| format!("loading the program `{name}`"))?;
        }
        Ok(program.fd()?.try_clone()?)
    }

    /// The program `name` of the object, to be attached.
    pub(crate) fn program(&mut self, name: &str) -> Result<&mut Xdp> {
        program(&mut self.ebpf, name)
    }

    /// Makes `target` the program under test.
    pub(crate) fn aim(&mut self, target: &ProgramFd) -> Result<()> {
        let map = self.ebpf.map_mut("TARGET").context("TARGET")?;
        Ok(ProgramArray::try_from(map)?.set(0, target, 0)?)
    }

    /// Sets what is presented.
    pub(crate) fn show(&mut self, scene: &Scene) -> Result<()> {
        self.array::<Template>("TEMPLATE")?
            .set(0, scene.template, 0)?;
        Ok(())
    }

    /// Sets the route cookies, by flow.
    pub(crate) fn set_cookies(&mut self, cookies: &[u64]) -> Result<()> {
        let mut map = self.array::<u64>("COOKIES")?;
        for (flow, cookie) in (0..).zip(cookies) {
            map.set(flow, cookie, 0)?;
        }
        Ok(())
    }

    /// The number of the next packet: how many were presented so far.
    pub(crate) fn next_number(&mut self) -> Result<u64> {
        Ok(self.array::<u64>("NEXT")?.get(&0, 0)?)
    }

    /// Presents `packets` packets of `scene`; nanoseconds a packet. The last one must end as `verdict`.
    pub(crate) fn run(&mut self, scene: &Scene, packets: u32, verdict: u32) -> Result<f64> {
        let before = self.next_number()?;
        let harness = program(&mut self.ebpf, "harness")?;
        let result = harness.test_run(TestRunOptions {
            data_in: Some(&scene.frame),
            repeat: packets,
            ..TestRunOptions::new()
        })?;
        ensure!(
            result.return_value == verdict,
            "the last packet ended as {} and not as {verdict}",
            result.return_value
        );
        let presented = self.next_number()? - before;
        ensure!(
            presented == u64::from(packets),
            "{presented} of {packets} packets were presented"
        );
        Ok(result.duration.as_nanos() as f64)
    }

    /// A map of the object.
    pub(crate) fn map_mut(&mut self, name: &str) -> Result<&mut aya::maps::Map> {
        self.ebpf
            .map_mut(name)
            .with_context(|| format!("the object has no map `{name}`"))
    }

    fn array<V: Pod>(&mut self, name: &str) -> Result<Array<&mut MapData, V>> {
        Ok(self.map_mut(name)?.try_into()?)
    }
}

#[cfg(all(test, feature = "privileged"))]
impl Harness {
    /// Sets the number of the next packet.
    pub(crate) fn start_at(&mut self, number: u64) -> Result<()> {
        Ok(self.array::<u64>("NEXT")?.set(0, number, 0)?)
    }

    /// The frame that packet `number` of `scene` is presented as.
    pub(crate) fn presented(&mut self, scene: &Scene, number: u64) -> Result<Vec<u8>> {
        let target = self.target("tx")?;
        self.aim(&target)?;
        self.show(scene)?;
        self.start_at(number)?;
        let mut out = vec![0; scene.frame.len() + 64];
        let harness = program(&mut self.ebpf, "harness")?;
        let result = harness.test_run(TestRunOptions {
            data_in: Some(&scene.frame),
            data_out: Some(&mut out),
            ..TestRunOptions::new()
        })?;
        out.truncate(result.data_size_out as usize);
        Ok(out)
    }
}

fn program<'a>(ebpf: &'a mut Ebpf, name: &str) -> Result<&'a mut Xdp> {
    let program = ebpf
        .program_mut(name)
        .with_context(|| format!("the object has no program `{name}`"))?;
    Ok(program.try_into()?)
}

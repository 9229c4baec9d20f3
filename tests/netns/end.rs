//! The worker's XDP program with the real worker around it: refused whole, attached, gone with its worker however that ends.

use std::{path::PathBuf, process::Output};

use balancer_userspace::api::types::DecapStatus;
use tests::{
    process::{Process, Spec},
    topology::{Host, Layout},
    wait,
};

use crate::bed::{Hosts, PATIENCE, warmpath};

const METRICS_PORT: u16 = 9_101;

struct Worker<'a> {
    hosts: &'a Hosts,
    host: &'a Host,
}

impl Worker<'_> {
    fn pin_path(&self) -> PathBuf {
        self.hosts.dir().join("decap-w0")
    }

    /// Starts the worker with `decap` as the lines of its section.
    fn start(&self, decap: &str) -> Process {
        let dir = self.hosts.dir().display();
        let (run, address) = (self.hosts.topology.run.id(), self.host.address());
        let pin_path = self.pin_path();
        let text = format!(
            r#"
            name = "w0"
            interface = "eth0"
            address = "{address}"
            direct_listen = "{address}:9000"
            store_url = "http://{address}:1"
            state_dir = "{dir}/w0"
            metrics_listen = "{address}:{METRICS_PORT}"
            [sandbox]
            cgroup_parent = "{run}"
            [decap]
            pin_path = "{}"
            {decap}
            "#,
            pin_path.display()
        );
        let path = self.hosts.dir().join("worker.toml");
        std::fs::write(&path, text).unwrap();
        let spec = Spec {
            name: "worker",
            netns: &self.host.netns,
            program: &warmpath(),
            args: &["worker", "--config", path.to_str().unwrap()],
            piped: false,
        };
        Process::start(&self.hosts.topology.run, &spec).unwrap()
    }

    fn is_attached(&self) -> bool {
        let text = self.host.netns.ip("link show dev eth0").unwrap();
        text.contains("prog/xdp")
    }

    fn wait_attached(&self, wanted: bool) {
        let what = if wanted { "attached" } else { "taken off" };
        wait::until(&format!("the program {what}"), PATIENCE, || {
            Ok((self.is_attached() == wanted).then_some(()))
        })
        .unwrap();
    }

    /// `warmpath worker decap` with these words behind it.
    fn decap(&self, words: &[&str]) -> Output {
        let mut command = self.host.netns.command(warmpath());
        command.args(["worker", "decap", "--pin-path"]);
        command.arg(self.pin_path()).args(words).output().unwrap()
    }

    fn metrics(&self) -> Option<String> {
        let url = format!("http://{}:{METRICS_PORT}/metrics", self.host.address());
        let get = || {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .unwrap();
            runtime.block_on(async {
                let client = reqwest::Client::builder().no_proxy().build().unwrap();
                client.get(url).send().await.ok()?.text().await.ok()
            })
        };
        self.host.netns.enter(get).unwrap()
    }
}

#[test]
fn a_worker_whose_tunnel_makes_no_sense_does_not_start_and_attaches_nothing() {
    let hosts = Hosts::new(Layout::OneArm, 1);
    let worker = Worker {
        hosts: &hosts,
        host: &hosts.topology.workers[0],
    };
    for (decap, says) in [
        (
            "interface = \"eth0\"\nsources = [\"172.16.0.0/16\", \"0.0.0.0/0\"]",
            "decap.sources",
        ),
        (
            "interface = \"eth9\"\nsources = [\"172.16.0.0/16\"]",
            "no interface `eth9`",
        ),
        // This host has no IPv6.
        (
            "interface = \"eth0\"\nsources = [\"172.16.0.0/16\", \"fd16::/96\"]",
            "IPv6",
        ),
        (
            "interface = \"lo\"\nsources = [\"172.16.0.0/16\"]\nmode = \"native\"",
            "cannot run XDP natively",
        ),
    ] {
        let mut process = worker.start(decap);
        assert!(!process.wait_end(PATIENCE).unwrap().success(), "{decap}");
        let log = process.log_tail();
        assert!(log.contains(says), "{decap}: {log}");
        assert!(!worker.is_attached());
        assert!(!worker.pin_path().exists(), "{decap}");
    }
}

#[test]
fn the_program_comes_and_goes_with_its_worker_even_with_one_that_is_killed() {
    let hosts = Hosts::new(Layout::OneArm, 1);
    let worker = Worker {
        hosts: &hosts,
        host: &hosts.topology.workers[0],
    };
    let decap = "interface = \"eth0\"\nsources = [\"172.16.0.0/16\"]\nmode = \"native\"";
    let mut process = worker.start(decap);
    worker.wait_attached(true);
    let output = worker.decap(&["--json"]);
    assert!(output.status.success(), "{output:?}");
    let status: DecapStatus = serde_json::from_slice(&output.stdout).unwrap();
    assert!(status.attached);
    assert_eq!(status.interface.as_deref(), Some("eth0"));
    assert_eq!(status.mode, "native");
    assert_eq!(status.addresses, [worker.host.address().to_string()]);
    assert_eq!(status.sources, ["172.16.0.0/16"]);
    let metrics = wait::until("the worker's metrics", PATIENCE, || Ok(worker.metrics())).unwrap();
    for line in [
        "worker_xdp_mode{interface=\"eth0\",mode=\"native\"} 1",
        "worker_decap_packets_total{class=\"drop\",label=\"decap_source\"} 0",
    ] {
        assert!(metrics.contains(line), "{line} is not in\n{metrics}");
    }

    process.kill().unwrap();
    worker.wait_attached(false);
    let output = worker.decap(&[]);
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(text.contains("not attached"), "{text}");

    let mut process = worker.start(decap);
    worker.wait_attached(true);
    // It is told to stop once it serves.
    wait::until("the worker's metrics", PATIENCE, || Ok(worker.metrics())).unwrap();
    process.stop(PATIENCE).unwrap();
    worker.wait_attached(false);
    assert!(!worker.pin_path().exists());
    let output = worker.decap(&[]);
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    let text = String::from_utf8(output.stderr).unwrap();
    assert!(text.contains("is it running?"), "{text}");
}

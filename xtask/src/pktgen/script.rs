//! What is written to pktgen's files (Documentation/networking/pktgen.rst), in order.

use std::net::IpAddr;

use anyhow::{Result, bail, ensure};

/// Source ports of the flows begin here.
const FIRST_PORT: u16 = 1_024;
/// Source ports that flows may take of one address.
const PORTS: u32 = 60_000;
/// Ethernet, IPv4 or IPv6, UDP, and pktgen's own header.
const LEN_MIN_V4: u32 = 14 + 20 + 8 + 16;
const LEN_MIN_V6: u32 = 14 + 40 + 8 + 16;

/// What to send, and how.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct Load {
    /// The interface to send by.
    pub(crate) interface: String,
    /// MAC address of the balancer, or of the router to it.
    #[arg(long, value_name = "MAC")]
    pub(crate) mac: String,
    /// The VIP: IPv4 or IPv6.
    #[arg(long, value_name = "ADDRESS")]
    pub(crate) ip: IpAddr,
    /// The VIP's UDP port.
    #[arg(long, default_value_t = 9_000)]
    pub(crate) port: u16,
    /// First source address; more than 60,000 flows count up from it (IPv4 only) [default: the interface's own].
    #[arg(long, value_name = "ADDRESS")]
    pub(crate) source: Option<IpAddr>,
    /// Flows: source ports, and beyond 60,000 source addresses too.
    #[arg(long, value_name = "N", default_value_t = 1)]
    pub(crate) flows: u32,
    /// Packets a second, of all queues together; 0 is as fast as it goes.
    #[arg(long, value_name = "PPS", default_value_t = 0)]
    pub(crate) rate: u64,
    /// Bytes of a packet from Ethernet header to payload, without checksum.
    #[arg(long, value_name = "BYTES", default_value_t = 128)]
    pub(crate) size: u32,
    /// TX queues, each with a kernel thread of its own.
    #[arg(long, value_name = "N", default_value_t = 1)]
    pub(crate) queues: u32,
    /// Packets of each queue; 0 is until interrupted.
    #[arg(long, value_name = "N", default_value_t = 1_000_000)]
    pub(crate) count: u64,
    /// Packets handed to the driver at once. They are copies of one: the same flow and sequence number.
    #[arg(long, value_name = "N", default_value_t = 1)]
    pub(crate) burst: u32,
    /// How often a packet is sent again before the next is made. Hardware only: a veth refuses it.
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub(crate) clone_skb: u32,
}

/// One line for one file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Write {
    /// Below `/proc/net/pktgen`.
    pub(crate) file: String,
    pub(crate) line: String,
}

/// All of it.
#[derive(Debug, Clone)]
pub(crate) struct Script {
    pub(crate) writes: Vec<Write>,
    /// The devices whose results are to be read.
    pub(crate) devices: Vec<String>,
}

impl Script {
    /// The script for `load`, checked.
    pub(crate) fn new(load: &Load) -> Result<Self> {
        check(load)?;
        let mut script = Self {
            writes: Vec::new(),
            devices: Vec::new(),
        };
        for queue in 0..load.queues {
            let thread = format!("kpktgend_{queue}");
            let device = format!("{}@{queue}", load.interface);
            script.write(&thread, "rem_device_all");
            script.write(&thread, format!("add_device {device}"));
            for line in device_lines(load, queue) {
                script.write(&device, line);
            }
            script.devices.push(device);
        }
        script.write("pgctrl", "start");
        Ok(script)
    }

    fn write(&mut self, file: &str, line: impl Into<String>) {
        self.writes.push(Write {
            file: file.to_owned(),
            line: line.into(),
        });
    }

    /// The same as a script for sh(1).
    pub(crate) fn shell(&self) -> String {
        let mut text = String::from(
            "#!/bin/sh\n# Made by `cargo xtask pktgen run --dry-run`. Needs root and `modprobe pktgen`.\nset -e\ncd /proc/net/pktgen\n",
        );
        for write in &self.writes {
            text.push_str(&format!("echo '{}' > '{}'\n", write.line, write.file));
        }
        for device in &self.devices {
            text.push_str(&format!("cat '{device}'\n"));
        }
        text
    }
}

fn device_lines(load: &Load, queue: u32) -> Vec<String> {
    let mut lines = vec![
        format!("count {}", load.count),
        format!("clone_skb {}", load.clone_skb),
        format!("burst {}", load.burst),
        format!("pkt_size {}", load.size),
        format!("queue_map_min {queue}"),
        format!("queue_map_max {queue}"),
        format!("dst_mac {}", load.mac),
    ];
    if load.rate == 0 {
        lines.push("delay 0".to_owned());
    } else {
        // At least one packet a second for each.
        let each = (load.rate / u64::from(load.queues)).max(1);
        lines.push(format!("ratep {each}"));
    }
    let ports = load.flows.min(PORTS);
    let addresses = load.flows.div_ceil(PORTS);
    match load.ip {
        IpAddr::V4(ip) => {
            lines.push(format!("dst_min {ip}"));
            lines.push(format!("dst_max {ip}"));
            if let Some(IpAddr::V4(source)) = load.source {
                let beyond = u32::from(source).saturating_add(beyond(addresses));
                lines.push(format!("src_min {source}"));
                lines.push(format!("src_max {}", std::net::Ipv4Addr::from(beyond)));
            }
        }
        IpAddr::V6(ip) => {
            lines.push(format!("dst6 {ip}"));
            if let Some(IpAddr::V6(source)) = load.source {
                lines.push(format!("src6 {source}"));
            }
        }
    }
    lines.push(format!("udp_dst_min {}", load.port));
    lines.push(format!("udp_dst_max {}", load.port));
    lines.push(format!("udp_src_min {FIRST_PORT}"));
    lines.push(format!(
        "udp_src_max {}",
        u32::from(FIRST_PORT) + beyond(ports)
    ));
    if load.flows > 1 {
        lines.push("flag UDPSRC_RND".to_owned());
    }
    if addresses > 1 {
        lines.push("flag IPSRC_RND".to_owned());
    }
    // The balancer takes no UDP over IPv6 without a checksum (RFC 8200 §8.1).
    lines.push("flag UDPCSUM".to_owned());
    lines
}

/// How far pktgen's maximum is from its minimum, for `count` values: it is one beyond the last, unless both are the same.
const fn beyond(count: u32) -> u32 {
    if count > 1 { count } else { 0 }
}

fn check(load: &Load) -> Result<()> {
    ensure!(load.queues > 0, "--queues 0 sends nothing");
    ensure!(load.flows > 0, "--flows 0 sends nothing");
    ensure!(load.burst > 0, "--burst 0 sends nothing");
    let least = if load.ip.is_ipv4() {
        LEN_MIN_V4
    } else {
        LEN_MIN_V6
    };
    ensure!(
        load.size >= least,
        "--size {} has no room for pktgen's header: at least {least}",
        load.size
    );
    if load
        .source
        .is_some_and(|source| source.is_ipv4() != load.ip.is_ipv4())
    {
        bail!("--source and --ip are of different IP versions");
    }
    if load.flows > PORTS {
        ensure!(
            load.ip.is_ipv4() && load.source.is_some(),
            "more than {PORTS} flows need source addresses: give --source (pktgen counts up IPv4 addresses only)"
        );
    }
    let is_mac = load.mac.split(':').count() == 6
        && load
            .mac
            .split(':')
            .all(|byte| byte.len() == 2 && u8::from_str_radix(byte, 16).is_ok());
    ensure!(is_mac, "--mac {} is no MAC address", load.mac);
    let name_is_safe = |c: char| c.is_ascii_alphanumeric() || "._-:".contains(c);
    ensure!(
        !load.interface.is_empty() && load.interface.chars().all(name_is_safe),
        "`{}` is no interface's name",
        load.interface
    );
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn load() -> Load {
        Load {
            interface: "eth1".to_owned(),
            mac: "02:00:00:00:00:01".to_owned(),
            ip: "10.99.0.1".parse().unwrap(),
            port: 9_000,
            source: None,
            flows: 1,
            rate: 0,
            size: 128,
            queues: 1,
            count: 1_000,
            burst: 1,
            clone_skb: 0,
        }
    }

    fn lines_of(script: &Script, file: &str) -> Vec<String> {
        let of_file = script.writes.iter().filter(|write| write.file == file);
        of_file.map(|write| write.line.clone()).collect()
    }

    #[test]
    fn each_queue_has_a_thread_and_its_share_of_the_rate() {
        let script = Script::new(&Load {
            queues: 2,
            rate: 1_000,
            ..load()
        })
        .unwrap();
        assert_eq!(script.devices, ["eth1@0", "eth1@1"]);
        assert_eq!(
            lines_of(&script, "kpktgend_1"),
            ["rem_device_all", "add_device eth1@1"]
        );
        let lines = lines_of(&script, "eth1@1");
        for line in [
            "count 1000",
            "ratep 500",
            "queue_map_min 1",
            "queue_map_max 1",
            "dst_min 10.99.0.1",
            "udp_dst_max 9000",
        ] {
            assert!(lines.iter().any(|it| it == line), "{line} in {lines:?}");
        }
        assert_eq!(script.writes.last().unwrap().line, "start");
    }

    #[test]
    fn flows_are_ports_and_then_addresses() {
        let one = lines_of(&Script::new(&load()).unwrap(), "eth1@0");
        assert!(one.iter().any(|line| line == "udp_src_max 1024"));
        assert!(!one.iter().any(|line| line.contains("RND")));
        let many = Load {
            flows: 1_000_000,
            source: Some("10.1.0.1".parse().unwrap()),
            ..load()
        };
        let many = lines_of(&Script::new(&many).unwrap(), "eth1@0");
        for line in [
            "udp_src_max 61024",
            "src_min 10.1.0.1",
            "src_max 10.1.0.18",
            "flag IPSRC_RND",
            "flag UDPSRC_RND",
        ] {
            assert!(many.iter().any(|it| it == line), "{line} in {many:?}");
        }
    }

    #[test]
    fn ipv6_has_its_own_words() {
        let script = Script::new(&Load {
            ip: "fd00::63:1".parse().unwrap(),
            source: Some("fd00::1".parse().unwrap()),
            flows: 1_000,
            ..load()
        });
        let lines = lines_of(&script.unwrap(), "eth1@0");
        assert_eq!(
            lines,
            [
                "count 1000",
                "clone_skb 0",
                "burst 1",
                "pkt_size 128",
                "queue_map_min 0",
                "queue_map_max 0",
                "dst_mac 02:00:00:00:00:01",
                "delay 0",
                "dst6 fd00::63:1",
                "src6 fd00::1",
                "udp_dst_min 9000",
                "udp_dst_max 9000",
                "udp_src_min 1024",
                "udp_src_max 2024",
                "flag UDPSRC_RND",
                "flag UDPCSUM",
            ]
        );
    }

    #[test]
    fn the_shell_script_writes_the_same_lines() {
        let text = Script::new(&load()).unwrap().shell();
        assert!(text.starts_with("#!/bin/sh\n"));
        assert!(text.contains("echo 'add_device eth1@0' > 'kpktgend_0'\n"));
        assert!(text.ends_with("echo 'start' > 'pgctrl'\ncat 'eth1@0'\n"));
    }

    #[test]
    fn what_pktgen_cannot_send_is_refused_with_a_reason() {
        let ip6 = || "fd00::1".parse().unwrap();
        for (load, word) in [
            (Load { size: 57, ..load() }, "at least 58"),
            (
                Load {
                    ip: ip6(),
                    size: 77,
                    ..load()
                },
                "at least 78",
            ),
            (
                Load {
                    flows: 60_001,
                    ..load()
                },
                "--source",
            ),
            (
                Load {
                    ip: ip6(),
                    source: Some(ip6()),
                    flows: 60_001,
                    ..load()
                },
                "IPv4 addresses only",
            ),
            (
                Load {
                    source: Some(ip6()),
                    ..load()
                },
                "different IP versions",
            ),
            (
                Load {
                    mac: "02:00".to_owned(),
                    ..load()
                },
                "no MAC address",
            ),
            (
                Load {
                    interface: "a b'".to_owned(),
                    ..load()
                },
                "no interface's name",
            ),
            (
                Load {
                    queues: 0,
                    ..load()
                },
                "--queues",
            ),
        ] {
            let error = Script::new(&load).unwrap_err().to_string();
            assert!(error.contains(word), "{word} in {error}");
        }
    }
}

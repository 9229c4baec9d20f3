//! What `/proc/net/pktgen/<device>` says when the packets have gone.

use anyhow::{Context as _, Result};
use serde::Serialize;

/// The result of one device.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct DeviceResult {
    /// The interface.
    pub(crate) interface: String,
    /// `OK`, or what pktgen says instead.
    pub(crate) verdict: String,
    pub(crate) packets: u64,
    /// Bytes of one packet.
    pub(crate) packet_len: u64,
    pub(crate) bytes: u64,
    /// From the first to the last packet.
    pub(crate) duration_us: u64,
    pub(crate) packets_per_s: u64,
    pub(crate) bits_per_s: u64,
    /// Packets that the driver did not take.
    pub(crate) errors: u64,
}

/// Reads `Result: OK: 894529(c892192+d2337) usec, 100000 (60byte,0frags)` and the line behind it.
pub(crate) fn parse(text: &str) -> Result<DeviceResult> {
    let interface = after(text, "ifname: ").context("there is no `ifname:`")?;
    let (_, result) = text
        .split_once("Result: ")
        .context("there is no `Result:`")?;
    let (verdict, rest) = result.split_once(':').unwrap_or((result, ""));
    // Before the first run, and after a refused command, the rest is a sentence.
    let duration_us =
        leading(rest).with_context(|| format!("it has sent nothing: {}", result.trim()))?;
    let (_, sent) = rest.split_once("usec, ").context("there is no `usec,`")?;
    let (_, len) = sent.split_once('(').context("there is no packet length")?;
    let (_, rates) = rest.split_once('\n').context("there is no line of rates")?;
    let packets = leading(sent).context("there is no number of packets")?;
    let packet_len = leading(len).context("the packet length is no number")?;
    Ok(DeviceResult {
        interface: interface.to_owned(),
        verdict: verdict.trim().to_owned(),
        packets,
        packet_len,
        bytes: packets * packet_len,
        duration_us,
        packets_per_s: leading(rates).context("there is no `pps`")?,
        bits_per_s: rates
            .split_once('(')
            .and_then(|(_, bits)| leading(bits))
            .context("there is no `bps`")?,
        errors: after(rates, "errors: ")
            .and_then(leading)
            .context("there is no `errors:`")?,
    })
}

/// The word behind `key`.
fn after<'t>(text: &'t str, key: &str) -> Option<&'t str> {
    let (_, rest) = text.split_once(key)?;
    rest.split_whitespace().next()
}

/// The number that the text begins with.
fn leading(text: &str) -> Option<u64> {
    let text = text.trim_start();
    let end = text
        .find(|c: char| !c.is_ascii_digit())
        .unwrap_or(text.len());
    text.get(..end)?.parse().ok()
}

/// A line a device, and their sum.
pub(crate) fn table(results: &[DeviceResult]) -> String {
    let mut text = format!(
        "{:<12} {:<8} {:>12} {:>6} {:>12} {:>12} {:>14} {:>8}\n",
        "INTERFACE", "VERDICT", "PACKETS", "BYTES", "DURATION_US", "PACKETS/S", "BITS/S", "ERRORS"
    );
    for it in results {
        text.push_str(&format!(
            "{:<12} {:<8} {:>12} {:>6} {:>12} {:>12} {:>14} {:>8}\n",
            it.interface,
            it.verdict,
            it.packets,
            it.packet_len,
            it.duration_us,
            it.packets_per_s,
            it.bits_per_s,
            it.errors
        ));
    }
    if results.len() > 1 {
        let sum = |of: fn(&DeviceResult) -> u64| results.iter().map(of).sum::<u64>();
        text.push_str(&format!(
            "{:<12} {:<8} {:>12} {:>6} {:>12} {:>12} {:>14} {:>8}\n",
            "all",
            "",
            sum(|it| it.packets),
            "",
            "",
            sum(|it| it.packets_per_s),
            sum(|it| it.bits_per_s),
            sum(|it| it.errors)
        ));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    /// /proc/net/pktgen/wpgen@0 after a run of `cargo xtask pktgen check`.
    const LINUX_6_1: &str = "\
Params: count 20000  min_pkt_size: 128  max_pkt_size: 128
     frags: 0  delay: 0  clone_skb: 0  ifname: wpgen@0
     flows: 0 flowlen: 0
     queue_map_min: 0  queue_map_max: 0
     dst_min: 10.99.0.1  dst_max: 10.99.0.1
     src_min: 10.1.0.1  src_max: 10.1.0.1
     src_mac: 0a:43:f6:50:29:28 dst_mac: 02:00:00:00:00:02
     udp_src_min: 1024  udp_src_max: 2024  udp_dst_min: 9000  udp_dst_max: 9000
     src_mac_count: 0  dst_mac_count: 0
     Flags: UDPSRC_RND  UDPCSUM \x20
Current:
     pkts-sofar: 20000  errors: 0
     started: 6100619us  stopped: 6611255us idle: 14270us
     seq_num: 20001  cur_dst_mac_offset: 0  cur_src_mac_offset: 0
     cur_saddr: 10.1.0.1  cur_daddr: 10.99.0.1
     cur_udp_dst: 9000  cur_udp_src: 1225
     cur_queue_map: 0
     flows: 0
Result: OK: 510636(c496365+d14270) usec, 20000 (128byte,0frags)
  39166pps 40Mb/sec (40105984bps) errors: 0
";
    const LINUX_6_12: &str = "\
Params: count 20000  min_pkt_size: 128  max_pkt_size: 128
     frags: 0  delay: 0  clone_skb: 0  ifname: wpgen@0
     flows: 0 flowlen: 0
     queue_map_min: 0  queue_map_max: 0
     dst_min: 10.99.0.1  dst_max: 10.99.0.1
     src_min: 10.1.0.1  src_max: 10.1.0.1
     src_mac: a6:5c:7d:c5:c5:f2 dst_mac: 02:00:00:00:00:02
     udp_src_min: 1024  udp_src_max: 2024  udp_dst_min: 9000  udp_dst_max: 9000
     src_mac_count: 0  dst_mac_count: 0
     Flags: UDPSRC_RND  UDPCSUM  SHARED \x20
Current:
     pkts-sofar: 20000  errors: 0
     started: 7624817us  stopped: 7883020us idle: 4572us
     seq_num: 20001  cur_dst_mac_offset: 0  cur_src_mac_offset: 0
     cur_saddr: 10.1.0.1  cur_daddr: 10.99.0.1
     cur_udp_dst: 9000  cur_udp_src: 1383
     cur_queue_map: 0
     flows: 0
Result: OK: 258203(c253630+d4572) usec, 20000 (128byte,0frags)
  77458pps 79Mb/sec (79316992bps) errors: 0
";
    /// What stands in place of the result before the first run (net/core/pktgen.c), and after a setting.
    const IDLE: [&str; 2] = [
        "     frags: 0  delay: 0  clone_skb: 0  ifname: wpgen@0\nResult: Idle\n",
        "     frags: 0  delay: 0  clone_skb: 0  ifname: wpgen@0\nResult: OK: burst=1\n",
    ];

    fn linux_6_1() -> DeviceResult {
        DeviceResult {
            interface: "wpgen@0".to_owned(),
            verdict: "OK".to_owned(),
            packets: 20_000,
            packet_len: 128,
            bytes: 2_560_000,
            duration_us: 510_636,
            packets_per_s: 39_166,
            bits_per_s: 40_105_984,
            errors: 0,
        }
    }

    fn linux_6_12() -> DeviceResult {
        DeviceResult {
            duration_us: 258_203,
            packets_per_s: 77_458,
            bits_per_s: 79_316_992,
            ..linux_6_1()
        }
    }

    #[test]
    fn results_of_real_runs_are_read() {
        assert_eq!(parse(LINUX_6_1).unwrap(), linux_6_1());
        assert_eq!(parse(LINUX_6_12).unwrap(), linux_6_12());
    }

    #[test]
    fn a_device_that_has_sent_nothing_says_so() {
        for text in IDLE {
            let error = parse(text).unwrap_err().to_string();
            assert!(error.contains("has sent nothing"), "{error}");
        }
        assert!(parse("").is_err());
    }

    #[test]
    fn the_table_sums_queues() {
        let text = table(&[linux_6_1(), linux_6_12()]);
        let last: Vec<_> = text.lines().last().unwrap().split_whitespace().collect();
        let packets = (linux_6_1().packets + linux_6_12().packets).to_string();
        assert_eq!(last[..2], ["all", &packets]);
    }
}

//! What a worker and the control plane say to each other: JSON lines over one TCP connection.
//!
//! ```text
//! worker                                   control plane
//!   │ {"type":"hello", …}                        │
//!   │ ─────────────────────────────────────────▶ │  token, name and address checked
//!   │ {"type":"assignment", …}                   │
//!   │ ◀───────────────────────────────────────── │  again on each change, and once a second
//!   │ {"type":"heartbeat", …}                    │
//!   │ ─────────────────────────────────────────▶ │  on each change, and each `heartbeat_ms`
//!   ╳ connection closed, or no heartbeat within the lease: the worker counts as down at once
//! ```
//! A connection that says anything else is closed, after one `{"type":"refused", …}` where that helps.

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};

pub use db::SlotRange;
use ebpf_common::{
    hash::SipKey,
    ids::{FunctionId, WorkerId},
    load::LoadKeys,
};
use serde::{Deserialize, Serialize};

/// Longest line either side accepts, in bytes.
pub const MAX_LINE: usize = 256 * 1024;
/// Longest worker name, in bytes.
pub const MAX_NAME: usize = 64;
/// How often the control plane repeats the assignment, so that a worker can tell a silent peer from a dead one.
pub const REFRESH_MS: u64 = 1_000;

/// A line from a worker.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum FromWorker {
    /// The first line, and only the first.
    Hello(Hello),
    /// Every further line.
    Heartbeat(Heartbeat),
}

/// A line to a worker.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum ToWorker {
    /// What the worker is to know.
    Assignment(Assignment),
    /// The hello was not accepted; the connection is closed after it.
    Refused {
        /// Why, for the worker's log.
        reason: String,
    },
}

/// Who a worker is. Changes only by a new connection.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Hello {
    /// The shared secret of `token_file`.
    pub token: String,
    /// The worker's name; its id stays with this name.
    pub name: String,
    /// The id that it has everywhere; without one the control plane gives it one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub id: Option<u16>,
    /// Address that identifies the worker's interface; it must lie in a subnet of the balancer.
    pub address: Ipv4Addr,
    /// IPv6 address that packets may be encapsulated to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub address6: Option<Ipv6Addr>,
    /// MAC address of that interface, `aa:bb:cc:dd:ee:ff`.
    pub mac: String,
    /// Slots whose shard the worker holds.
    pub slots: Vec<SlotRange>,
    /// Where its db server listens for the other workers.
    pub db_url: Option<String>,
}

/// How a worker is.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Heartbeat {
    /// Requests received and not answered.
    pub in_flight: u32,
    /// Requests it takes at a time.
    pub capacity: u32,
    /// Functions it has a warm sandbox of, each as 16 hexadecimal digits.
    #[serde(with = "hex_ids")]
    pub warm: Vec<FunctionId>,
    /// Whether it is about to stop: no new work, please.
    pub draining: bool,
    /// How many instances live of the functions that it was asked to tell of ([`KeepWarm::tell`]).
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub kept: Vec<Kept>,
}

/// What the control plane tells a worker.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Assignment {
    /// The worker's id: what its route cookies name.
    pub worker_id: u16,
    /// Epoch that new cookies and LOAD packets are made in.
    pub key_epoch: u8,
    /// Cookie keys by the parity of their epoch, as `[k0, k1]`.
    pub cookie_keys: [[u64; 2]; 2],
    /// Where to tell how busy it is; none if the balancer takes no LOAD packets.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub load: Option<LoadTarget>,
    /// Version of `slots`; only ever grows, also over a restart of the control plane.
    pub slots_version: u64,
    /// Who holds which slots, in order of the slots; slots without a live owner are left out.
    pub slots: Vec<SlotOwner>,
    /// How often to send a heartbeat when nothing changes.
    pub heartbeat_ms: u32,
    /// Instances that the worker keeps whether or not anyone calls. An older control plane does not say.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub keep_warm: Vec<KeepWarm>,
}

impl Assignment {
    /// What route cookies of `epoch` are made with, as `[k0, k1]`: the epoch in use, or the one before it.
    #[must_use]
    pub const fn cookie_key(&self, epoch: u8) -> [u64; 2] {
        self.cookie_keys[(epoch & 1) as usize]
    }
}

/// Instances that a worker keeps of one function: it fetches the code and starts them before anyone calls.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeepWarm {
    /// The function, as 16 hexadecimal digits.
    #[serde(with = "hex_id")]
    pub function: FunctionId,
    /// How many.
    pub instances: u32,
    /// Whether to tell how many live. An older control plane does not ask, and would not understand the answer.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub tell: bool,
    /// Whether to have code and layers here whatever `instances` says, and to tell whether they are. An older worker does
    /// not see it, and never tells.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub code: bool,
}

/// What lives of a function that a worker keeps instances of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Kept {
    /// The function, as 16 hexadecimal digits.
    #[serde(with = "hex_id")]
    pub function: FunctionId,
    /// Instances that live: idle, paused and busy.
    pub live: u32,
    /// Whether its code and layers are here, if that was asked ([`KeepWarm::code`]).
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub code: bool,
}

/// Where a worker's LOAD packets go, and what seals them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct LoadTarget {
    /// The balancer's LOAD address.
    pub address: SocketAddr,
    /// The worker's own keys by the parity of their epoch, as `[k0, k1]`; [`Assignment::key_epoch`] says which is in use.
    pub keys: [[u64; 2]; 2],
}

impl LoadTarget {
    /// What `worker` is told.
    #[must_use]
    pub fn of(address: SocketAddr, keys: LoadKeys, worker: WorkerId) -> Self {
        let of_parity = |parity| {
            let SipKey { k0, k1 } = keys.of(worker, parity);
            [k0, k1]
        };
        Self {
            address,
            keys: [0, 1].map(of_parity),
        }
    }

    /// What LOAD packets of `epoch` are sealed with.
    #[must_use]
    pub const fn key(&self, epoch: u8) -> SipKey {
        let [k0, k1] = self.keys[(epoch & 1) as usize];
        SipKey { k0, k1 }
    }
}

/// One range of slots and the live worker that holds it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SlotOwner {
    /// The slots.
    pub range: SlotRange,
    /// The worker's name.
    pub worker: String,
    /// Where its db server listens.
    pub db_url: Option<String>,
}

/// One function id, written as [`hex_ids`] are.
mod hex_id {
    use ebpf_common::ids::FunctionId;
    use serde::{Deserialize, Deserializer, Serializer, de::Error};

    pub(super) fn serialize<S: Serializer>(
        id: &FunctionId,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        serializer.collect_str(id)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<FunctionId, D::Error> {
        let digits = String::deserialize(deserializer)?;
        super::hex_ids::parse(&digits)
            .ok_or_else(|| D::Error::custom(format!("`{digits}` is not 16 hexadecimal digits")))
    }
}

/// Function ids as strings of 16 hexadecimal digits: JSON numbers lose the low bits in many readers.
pub mod hex_ids {
    use ebpf_common::ids::FunctionId;
    use serde::{Deserialize, Deserializer, Serializer, de::Error};

    /// Writes each id as 16 hexadecimal digits.
    ///
    /// # Errors
    /// Those of the serializer.
    pub fn serialize<S: Serializer>(ids: &[FunctionId], serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(ids.iter().map(ToString::to_string))
    }

    /// Reads what [`serialize`] wrote.
    ///
    /// # Errors
    /// If a string is not 16 hexadecimal digits.
    pub fn deserialize<'de, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<Vec<FunctionId>, D::Error> {
        Vec::<String>::deserialize(deserializer)?
            .iter()
            .map(|digits| {
                parse(digits).ok_or_else(|| {
                    D::Error::custom(format!("`{digits}` is not 16 hexadecimal digits"))
                })
            })
            .collect()
    }

    /// The id that `digits` spell.
    #[must_use]
    pub fn parse(digits: &str) -> Option<FunctionId> {
        let is_hex = digits.len() == 16 && digits.bytes().all(|byte| byte.is_ascii_hexdigit());
        is_hex
            .then(|| u64::from_str_radix(digits, 16).ok().map(FunctionId))
            .flatten()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_as_documented() {
        let heartbeat = FromWorker::Heartbeat(Heartbeat {
            in_flight: 1,
            capacity: 8,
            warm: vec![FunctionId(0xeee1_28df_9f87_b0bc)],
            draining: false,
            kept: Vec::new(),
        });
        let line = r#"{"type":"heartbeat","in_flight":1,"capacity":8,"warm":["eee128df9f87b0bc"],"draining":false}"#;
        assert_eq!(serde_json::to_string(&heartbeat).unwrap(), line);
        assert_eq!(serde_json::from_str::<FromWorker>(line).unwrap(), heartbeat);
    }

    #[test]
    fn what_lives_is_told_only_to_whoever_asks() {
        let kept = |tell| KeepWarm {
            function: FunctionId(0xeee1_28df_9f87_b0bc),
            instances: 2,
            tell,
            code: false,
        };
        let line = r#"{"function":"eee128df9f87b0bc","instances":2}"#;
        assert_eq!(serde_json::to_string(&kept(false)).unwrap(), line);
        assert_eq!(serde_json::from_str::<KeepWarm>(line).unwrap(), kept(false));
        let asked = serde_json::to_string(&kept(true)).unwrap();
        assert_eq!(
            serde_json::from_str::<KeepWarm>(&asked).unwrap(),
            kept(true)
        );
        let line = r#"{"type":"heartbeat","in_flight":0,"capacity":0,"warm":[],"draining":false,"kept":[{"function":"eee128df9f87b0bc","live":1}]}"#;
        let beat = FromWorker::Heartbeat(Heartbeat {
            kept: vec![Kept {
                function: FunctionId(0xeee1_28df_9f87_b0bc),
                live: 1,
                code: false,
            }],
            ..Heartbeat::default()
        });
        assert_eq!(serde_json::to_string(&beat).unwrap(), line);
        assert_eq!(serde_json::from_str::<FromWorker>(line).unwrap(), beat);
    }

    #[test]
    fn code_alone_is_asked_for_and_told_of_by_a_field_of_its_own() {
        let asked = KeepWarm {
            function: FunctionId(0xeee1_28df_9f87_b0bc),
            instances: 0,
            tell: true,
            code: true,
        };
        let line = r#"{"function":"eee128df9f87b0bc","instances":0,"tell":true,"code":true}"#;
        assert_eq!(serde_json::to_string(&asked).unwrap(), line);
        assert_eq!(serde_json::from_str::<KeepWarm>(line).unwrap(), asked);
        let told = Kept {
            function: FunctionId(0xeee1_28df_9f87_b0bc),
            live: 0,
            code: true,
        };
        let line = r#"{"function":"eee128df9f87b0bc","live":0,"code":true}"#;
        assert_eq!(serde_json::to_string(&told).unwrap(), line);
        assert_eq!(serde_json::from_str::<Kept>(line).unwrap(), told);
    }

    #[test]
    fn a_function_id_that_is_not_sixteen_digits_is_refused() {
        for warm in [
            "",
            "1",
            "+ee128df9f87b0bc",
            "gee128df9f87b0bc",
            "eee128df9f87b0bc0",
        ] {
            let line = format!(
                r#"{{"type":"heartbeat","in_flight":1,"capacity":8,"warm":["{warm}"],"draining":false}}"#
            );
            assert!(serde_json::from_str::<FromWorker>(&line).is_err(), "{warm}");
        }
    }
}

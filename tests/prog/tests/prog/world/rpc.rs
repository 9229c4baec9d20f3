//! RPC headers and payloads that fit a world.

use ebpf_common::{
    cookie::CookieScope,
    ids::FunctionId,
    limits::MAX_FRAGMENTS,
    token::SourceAddress,
    wire::{Kind, RpcHeader, flags},
};
use rand::{Rng as _, rngs::StdRng, seq::IndexedRandom as _};

use super::{FUNCTIONS, SESSIONS, Vip, World, any_worker};

impl World {
    pub(super) fn header(&self, rng: &mut StdRng, vip: &Vip) -> RpcHeader {
        // One of them is not deployed.
        let function = FunctionId(rng.random_range(1..=FUNCTIONS + 1));
        let mut header = RpcHeader {
            kind: if rng.random_ratio(1, 20) {
                Kind::Ping
            } else {
                Kind::Request
            },
            session_id: rng.random_range(0..SESSIONS),
            slot: *self.slots.choose(rng).unwrap(),
            budget_ms: rng.random(),
            token: self.token(rng, vip),
            ..RpcHeader::request(function, rng.random())
        };
        if rng.random_ratio(1, 10) {
            let count = rng.random_range(1..=MAX_FRAGMENTS);
            header = header.with_fragment(rng.random_range(0..count), count);
            // Few messages, so that their fragments meet.
            header.request_id = rng.random_range(0..50);
        }
        for flag in [
            flags::HAS_SESSION,
            flags::HAS_SLOT,
            flags::HAS_COOKIE,
            flags::HAS_TOKEN,
            flags::IDEMPOTENT,
            flags::RETRANSMIT,
            flags::RESUME,
            flags::STREAM,
            flags::STREAM | flags::BODY_FOLLOWS,
        ] {
            if rng.random_ratio(2, 5) {
                header.flags |= flag;
            }
        }
        header.route_cookie = self.cookie(rng, &header);
        header
    }

    /// Good, of the epoch before, of epochs that are over, forged by one bit, or noise.
    fn cookie(&self, rng: &mut StdRng, header: &RpcHeader) -> u64 {
        let mut keys = self.tables.config.unwrap().cookie_keys();
        let session = if header.has(flags::HAS_SESSION) {
            header.session_id
        } else {
            0
        };
        let scope = CookieScope {
            function: header.function,
            session,
        };
        let choice = rng.random_range(0..8);
        keys.epoch = keys.epoch.wrapping_sub(match choice {
            0 => rng.random_range(2..255),
            1 => 1,
            _ => 0,
        });
        let cookie = keys.seal(any_worker(rng), scope);
        match choice {
            2 => cookie ^ (1 << rng.random_range(0..64)),
            3 => rng.random(),
            _ => cookie,
        }
    }

    /// As cookies, for one of the clients of the VIP's version of IP: mostly not the sender, who is drawn later.
    fn token(&self, rng: &mut StdRng, vip: &Vip) -> u64 {
        let mut keys = self.tables.config.unwrap().token_keys();
        let clients: Vec<_> = self
            .clients
            .iter()
            .filter(|client| client.is_ipv4() == vip.address.is_ipv4())
            .collect();
        let source = match **clients.choose(rng).unwrap() {
            std::net::IpAddr::V4(client) => SourceAddress::v4(client.octets()),
            std::net::IpAddr::V6(client) => SourceAddress::v6(client.octets()),
        };
        let choice = rng.random_range(0..8);
        keys.epoch = keys.epoch.wrapping_sub(match choice {
            0 => rng.random_range(2..255),
            1 => 1,
            _ => 0,
        });
        let token = keys.seal(source);
        match choice {
            2 => token ^ (1 << rng.random_range(0..64)),
            _ => token,
        }
    }

    /// What a schema may find its key in: JSON, protobuf, or noise; whole or cut.
    pub(super) fn payload(&self, rng: &mut StdRng) -> Vec<u8> {
        let key = rng.random_range(0..30);
        let mut payload = match rng.random_range(0..10) {
            0..3 => format!(r#"{{"other": [1, {{"user": 2}}], "user": "u{key}", "key": {key}}}"#)
                .into_bytes(),
            3 => format!(r#"{{"user": "u\"{key}", "key" : -{key}.5e3}}"#).into_bytes(),
            4..6 => protobuf(key),
            6 => vec![0x5a; rng.random_range(0..1_329)],
            _ => (0..rng.random_range(0..40)).map(|_| rng.random()).collect(),
        };
        if rng.random_ratio(1, 8) && !payload.is_empty() {
            payload.truncate(rng.random_range(0..payload.len()));
        }
        if rng.random_ratio(1, 8) && !payload.is_empty() {
            let at = rng.random_range(0..payload.len());
            payload[at] = rng.random();
        }
        payload
    }
}

/// Field 1 a string, field 2 a message with the number `key` as field 3.
fn protobuf(key: u8) -> Vec<u8> {
    [
        &[1 << 3 | 2, 3, b'a', b'n', key][..],
        &[2 << 3 | 2, 2, 3 << 3, key],
    ]
    .concat()
}

//! What `fuzz/` reaches of the gateway: what it makes of a path and of headers. Only in builds for it.

use std::net::{IpAddr, Ipv4Addr};

use hyper::{
    HeaderMap,
    header::{HeaderName, HeaderValue},
};

use crate::{
    caller::{Prefix, caller_of},
    request::Wish,
};

/// Who is connected: one of [`PROXIES`], so that what headers say of the caller is looked at.
const PEER: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 0, 0, 1));
const PROXIES: [&str; 2] = ["10.0.0.0/8", "fd00::/8"];

/// Reads a request whose path and headers are the lines of `text`, and reads it again; its path is read as a prefix, too.
///
/// # Panics
/// The same request means two things, whom nobody trusts is believed, or a prefix does not hold its own address.
pub fn request(text: &[u8]) {
    let mut lines = text.split(|byte| *byte == b'\n');
    let Some(Ok(path)) = lines.next().map(std::str::from_utf8) else {
        return;
    };
    let mut headers = HeaderMap::new();
    for line in lines {
        let mut parts = line.splitn(2, |byte| *byte == b':');
        let (Some(name), Some(value)) = (parts.next(), parts.next()) else {
            continue;
        };
        if let (Ok(name), Ok(value)) =
            (HeaderName::from_bytes(name), HeaderValue::from_bytes(value))
        {
            headers.append(name, value);
        }
    }
    let (first, second) = (Wish::read(path, &headers), Wish::read(path, &headers));
    assert_eq!(first.is_ok(), second.is_ok());
    if let (Ok(first), Ok(second)) = (first, second) {
        assert_eq!((first.function, first.slot), (second.function, second.slot));
    }
    assert_eq!(caller_of(PEER, &headers, &[]), PEER);
    let proxies = PROXIES.map(|text| text.parse().expect("it is a prefix"));
    let caller = caller_of(PEER, &headers, &proxies);
    assert_eq!(caller, caller.to_canonical());
    holds_its_own(path);
}

fn holds_its_own(text: &str) {
    let Ok(prefix) = text.parse::<Prefix>() else {
        return;
    };
    let (address, _) = text.split_once('/').unwrap_or((text, ""));
    let address: IpAddr = address.parse().expect("a prefix begins with an address");
    // IPv4 addresses written as IPv6 ones are taken as IPv4 when they call.
    assert!(prefix.contains(address) || address != address.to_canonical());
}

//! What `fuzz/` reaches of the gateway: what it makes of a path and of headers. Only in builds for it.

use hyper::{
    HeaderMap,
    header::{HeaderName, HeaderValue},
};

use crate::request::Wish;

/// Reads a request whose path and headers are the lines of `text`, and reads it again.
///
/// # Panics
/// The same request means two things.
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
}

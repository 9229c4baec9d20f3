//! What an HTTP request asks for.

use std::time::Duration;

use ebpf_common::{hash::slot_of_key, ids::SlotId};
use hyper::{
    HeaderMap,
    header::{COOKIE, HeaderName},
};
use warmpath_sdk::session_id;

/// Names the session; a header for programs, where browsers use [`SESSION_COOKIE`].
pub(crate) const SESSION: HeaderName = HeaderName::from_static("x-warmpath-session");
/// The key whose slot decides where the request runs.
pub(crate) const SHARD_KEY: HeaderName = HeaderName::from_static("x-warmpath-shard-key");
/// `true` or `1`: the handler may run more than once for this request.
pub(crate) const IDEMPOTENT: HeaderName = HeaderName::from_static("x-warmpath-idempotent");
/// `true` or `1`: answered once the call is kept; what came of it is asked for later.
pub(crate) const ASYNC: HeaderName = HeaderName::from_static("x-warmpath-async");
/// Milliseconds that the caller is prepared to wait.
pub(crate) const BUDGET: HeaderName = HeaderName::from_static("x-warmpath-budget-ms");
/// Names one request in logs; made up when the caller sends none, and always in the answer.
pub(crate) const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
/// The cookie that names the session of a browser.
pub(crate) const SESSION_COOKIE: &str = "warmpath_session";

/// Longest session name, shard key or request id.
const MAX_TEXT: usize = 512;
/// Longest function name with its version or alias.
const MAX_FUNCTION: usize = 200;

/// A header or path that makes no sense; the caller's fault.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum BadRequest {
    #[error(
        "`{function}` is no function name: expected [a-z0-9-]+, and optionally @version or @alias"
    )]
    Function { function: String },
    #[error("header {header}: {problem}")]
    Header {
        header: HeaderName,
        problem: &'static str,
    },
}

/// What an HTTP request says beside its body.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Wish {
    pub(crate) function: String,
    pub(crate) session: Session,
    pub(crate) slot: Option<SlotId>,
    pub(crate) idempotent: bool,
    pub(crate) deferred: bool,
    pub(crate) budget: Option<Duration>,
    pub(crate) request_id: String,
}

/// Where the session came from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Session {
    /// The caller named it.
    Named(u64),
    /// The caller named none: this one was made up, and the answer sets it as a cookie.
    New { id: u64, name: String },
}

impl Session {
    pub(crate) const fn id(&self) -> u64 {
        match self {
            Self::Named(id) | Self::New { id, .. } => *id,
        }
    }
}

impl Wish {
    /// Reads path and headers; `encoded` is what stands behind `/run/`.
    pub(crate) fn read(encoded: &str, headers: &HeaderMap) -> Result<Self, BadRequest> {
        Ok(Self {
            function: function_of(encoded)?,
            session: session_of(headers)?,
            slot: text(headers, &SHARD_KEY)?.map(|key| slot_of_key(key.as_bytes())),
            idempotent: flag(headers, &IDEMPOTENT)?,
            deferred: flag(headers, &ASYNC)?,
            budget: budget_of(headers)?,
            request_id: request_id(headers),
        })
    }
}

/// The caller's request id if it is fit for a log line, else one that is made up.
pub(crate) fn request_id(headers: &HeaderMap) -> String {
    let given = headers
        .get(&REQUEST_ID)
        .and_then(|value| value.to_str().ok());
    let fit = given.filter(|id| {
        let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.:".contains(&byte);
        !id.is_empty() && id.len() <= MAX_TEXT && id.bytes().all(is_plain)
    });
    fit.map_or_else(|| format!("{:016x}", rand::random::<u64>()), str::to_owned)
}

/// A function's name is never escaped but for its `@`, which some clients escape.
fn function_of(encoded: &str) -> Result<String, BadRequest> {
    let function = encoded.replacen("%40", "@", 1);
    let part = |text: &str, more: &[u8]| {
        let is_fit =
            |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || more.contains(&byte);
        !text.is_empty() && text.bytes().all(is_fit)
    };
    let (name, version) = function.split_once('@').unwrap_or((&function, "latest"));
    if function.len() <= MAX_FUNCTION && part(name, b"-") && part(version, b"-_.") {
        return Ok(function);
    }
    let function = function.chars().take(MAX_FUNCTION).collect();
    Err(BadRequest::Function { function })
}

fn session_of(headers: &HeaderMap) -> Result<Session, BadRequest> {
    if let Some(name) = text(headers, &SESSION)? {
        return Ok(Session::Named(session_id(name)));
    }
    let cookies = headers
        .get_all(COOKIE)
        .iter()
        .filter_map(|value| value.to_str().ok());
    let pairs = cookies
        .flat_map(|value| value.split(';'))
        .filter_map(|pair| pair.trim().split_once('='));
    let name = pairs
        .filter(|(key, name)| *key == SESSION_COOKIE && !name.is_empty() && name.len() <= MAX_TEXT)
        .map(|(_, name)| name)
        .next();
    Ok(match name {
        Some(name) => Session::Named(session_id(name)),
        None => {
            let name = format!("{:032x}", rand::random::<u128>());
            Session::New {
                id: session_id(&name),
                name,
            }
        }
    })
}

fn budget_of(headers: &HeaderMap) -> Result<Option<Duration>, BadRequest> {
    let Some(value) = text(headers, &BUDGET)? else {
        return Ok(None);
    };
    match value.parse::<u32>() {
        Ok(milliseconds) if milliseconds > 0 => {
            Ok(Some(Duration::from_millis(milliseconds.into())))
        }
        _ => Err(BadRequest::Header {
            header: BUDGET,
            problem: "expected milliseconds, at least 1",
        }),
    }
}

fn flag(headers: &HeaderMap, header: &HeaderName) -> Result<bool, BadRequest> {
    match text(headers, header)? {
        None | Some("false" | "0") => Ok(false),
        Some("true" | "1") => Ok(true),
        Some(_) => Err(BadRequest::Header {
            header: header.clone(),
            problem: "expected true or false",
        }),
    }
}

/// The header's text, if it is there; several of one name contradict each other.
fn text<'a>(headers: &'a HeaderMap, header: &HeaderName) -> Result<Option<&'a str>, BadRequest> {
    let bad = |problem| BadRequest::Header {
        header: header.clone(),
        problem,
    };
    let mut values = headers.get_all(header).iter();
    let Some(value) = values.next() else {
        return Ok(None);
    };
    if values.next().is_some() {
        return Err(bad("given more than once"));
    }
    let value = std::str::from_utf8(value.as_bytes()).map_err(|_not_utf8| bad("not UTF-8"))?;
    if value.is_empty() || value.len() > MAX_TEXT {
        return Err(bad("expected 1 to 512 bytes"));
    }
    Ok(Some(value))
}

#[cfg(test)]
mod tests {
    use hyper::header::HeaderValue;

    use super::*;

    fn headers(pairs: &[(&str, &str)]) -> HeaderMap {
        let pairs = pairs.iter().map(|(name, value)| {
            let name: HeaderName = name.parse().unwrap();
            (name, HeaderValue::from_bytes(value.as_bytes()).unwrap())
        });
        let mut map = HeaderMap::new();
        for (name, value) in pairs {
            map.append(name, value);
        }
        map
    }

    #[test]
    fn every_header_becomes_its_field() {
        let headers = headers(&[
            ("x-warmpath-session", "ada"),
            ("x-warmpath-shard-key", "{user}.cart"),
            ("x-warmpath-idempotent", "true"),
            ("x-warmpath-budget-ms", "250"),
            ("x-request-id", "abc-1"),
        ]);
        let wish = Wish::read("hello@3", &headers).unwrap();
        assert_eq!(wish.function, "hello@3");
        assert_eq!(wish.session, Session::Named(session_id("ada")));
        assert_eq!(wish.slot, Some(slot_of_key(b"user")));
        assert!(wish.idempotent);
        assert_eq!(wish.budget, Some(Duration::from_millis(250)));
        assert_eq!(wish.request_id, "abc-1");
    }

    #[test]
    fn a_session_is_taken_from_the_cookie_and_made_up_without_one() {
        let of = |value: &str| session_of(&headers(&[("cookie", value)])).unwrap();
        let ada = Session::Named(session_id("ada"));
        assert_eq!(of("warmpath_session=ada"), ada);
        assert_eq!(of("a=b; warmpath_session=ada; c=d"), ada);
        let (Session::New { name: one, .. }, Session::New { name: other, .. }) =
            (of("xwarmpath_session=ada"), of("warmpath_session="))
        else {
            panic!("a session that nobody named")
        };
        assert_ne!(one, other);
        assert_eq!(one.len(), 32);
    }

    #[test]
    fn the_header_wins_over_the_cookie() {
        let both = headers(&[
            ("cookie", "warmpath_session=eve"),
            ("x-warmpath-session", "ada"),
        ]);
        assert_eq!(session_of(&both), Ok(Session::Named(session_id("ada"))));
    }

    #[test]
    fn function_names_are_checked() {
        for good in ["hello", "a-1", "hello@3", "hello%40latest", "hello@v1.2_x"] {
            assert!(function_of(good).is_ok(), "{good}");
        }
        for bad in [
            "",
            "@",
            "@3",
            "hello@",
            "Hello",
            "a/b",
            "a%20b",
            "a@b@c",
            "ä",
            &"x".repeat(201),
        ] {
            assert!(function_of(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn headers_that_make_no_sense_are_refused_by_name() {
        for (name, value) in [
            ("x-warmpath-budget-ms", "0"),
            ("x-warmpath-budget-ms", "soon"),
            ("x-warmpath-budget-ms", "99999999999"),
            ("x-warmpath-idempotent", "perhaps"),
            ("x-warmpath-session", ""),
        ] {
            let error = Wish::read("hello", &headers(&[(name, value)])).unwrap_err();
            assert!(error.to_string().contains(name), "{error}");
        }
        let twice = headers(&[("x-warmpath-session", "a"), ("x-warmpath-session", "b")]);
        assert!(Wish::read("hello", &twice).is_err());
    }

    #[test]
    fn a_request_id_that_would_spoil_a_log_is_replaced() {
        for bad in ["", "a b", "a\"b", "ä", &"x".repeat(600)] {
            assert_eq!(
                request_id(&headers(&[("x-request-id", bad)])).len(),
                16,
                "{bad}"
            );
        }
    }
}

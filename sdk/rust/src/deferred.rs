//! Calls that nobody waits for, as messages: `docs/requests.md`, "Calls that nobody waits for".
//!
//! They go to a function that every worker has, [`FUNCTION`]; the id of a call says, by its first byte, in which of a few
//! slots it is kept, so that whoever has the id finds it, and the owner of a slot has all its calls together.

use std::{fmt, str::FromStr, sync::LazyLock};

use bytes::Bytes;
use ebpf_common::{
    hash::slot_of_key,
    ids::{DEFERRED_FUNCTION, FunctionId, SlotId},
};
use serde::{Deserialize, Serialize};

use crate::{
    call::Call,
    http::{self, Head, HeadError},
};

/// The function that takes [`Ask`]s. No deployed one can have this name.
pub const FUNCTION: &str = DEFERRED_FUNCTION;
/// The id of [`FUNCTION`].
pub static FUNCTION_ID: LazyLock<FunctionId> = LazyLock::new(|| FunctionId::of(FUNCTION));
/// Slots that calls are kept in.
pub const SHELVES: u8 = 64;

/// Names a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct CallId(u64);

/// Not 16 hexadecimal digits, or of no shelf.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the id of a call has 16 hexadecimal digits, the first two below 40")]
pub struct BadCallId;

impl CallId {
    /// A new one.
    #[must_use]
    pub fn random() -> Self {
        let [first, rest @ ..] = rand::random::<[u8; 8]>();
        Self::of(first % SHELVES, rest).expect("it is taken modulo their number")
    }

    /// The one on `shelf` that these bytes stand for: the same ones, the same call. `None` if there is no such shelf.
    #[must_use]
    pub const fn of(shelf: u8, rest: [u8; 7]) -> Option<Self> {
        let [b1, b2, b3, b4, b5, b6, b7] = rest;
        let id = Self(u64::from_be_bytes([shelf, b1, b2, b3, b4, b5, b6, b7]));
        if shelf < SHELVES { Some(id) } else { None }
    }

    /// The shelf it stands on.
    #[must_use]
    pub const fn shelf(self) -> u8 {
        self.0.to_be_bytes()[0]
    }
}

impl fmt::Display for CallId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

impl FromStr for CallId {
    type Err = BadCallId;

    fn from_str(text: &str) -> Result<Self, BadCallId> {
        let is_hex = text.len() == 16 && text.bytes().all(|byte| byte.is_ascii_hexdigit());
        let id = u64::from_str_radix(text, 16).or(Err(BadCallId))?;
        let id = Self(id);
        if is_hex && id.shelf() < SHELVES {
            Ok(id)
        } else {
            Err(BadCallId)
        }
    }
}

impl TryFrom<String> for CallId {
    type Error = BadCallId;

    fn try_from(text: String) -> Result<Self, BadCallId> {
        text.parse()
    }
}

impl From<CallId> for String {
    fn from(id: CallId) -> Self {
        id.to_string()
    }
}

/// What all keys of a shelf begin with: a hash tag, so that they share a slot.
#[must_use]
pub fn tag(shelf: u8) -> String {
    format!("{{wp-async-{shelf:02x}}}:")
}

/// The slot of a shelf.
#[must_use]
pub fn slot(shelf: u8) -> SlotId {
    slot_of_key(tag(shelf).as_bytes())
}

/// What is asked; the event of a call is the body.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "ask", rename_all = "snake_case", deny_unknown_fields)]
pub enum Ask {
    /// Keep a call and make it. Answered once it is durable; asked again with the same id, it is the same call.
    Submit {
        /// Its id.
        id: CallId,
        /// What to call.
        call: Deferred,
    },
    /// What became of a call.
    Outcome {
        /// Which.
        id: CallId,
    },
    /// The calls of a shelf that were given up.
    Dead {
        /// Which shelf.
        shelf: u8,
    },
    /// Make a call that was given up once more from the beginning.
    Retry {
        /// Which.
        id: CallId,
    },
    /// How a trigger is doing: answered with a [`crate::trigger::TriggerAnswer`].
    Trigger {
        /// The function's name.
        function: String,
        /// The trigger's name.
        trigger: String,
        /// The slot whose owner pulls it.
        slot: u16,
    },
}

/// A call as it is kept.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Deferred {
    /// The function's name.
    pub function: String,
    /// Whether the event ends with the head of an HTTP request.
    pub http: bool,
    /// The session.
    pub session: Option<u64>,
    /// The slot of its shard key.
    pub slot: Option<u16>,
    /// How long one attempt may take.
    pub budget_ms: u32,
}

/// Where a call is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum State {
    /// Kept, and to be made.
    Pending,
    /// Being made.
    Running,
    /// Made; the reply is the body.
    Done,
    /// Given up; the last error is the body.
    Failed,
    /// Not known: it never was, or its outcome has been forgotten.
    Unknown,
}

/// The answer to an [`Ask`] about one call.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Report {
    /// Which call.
    pub id: CallId,
    /// Where it is.
    pub state: State,
    /// What was called; empty if it is not known.
    pub function: String,
    /// How often it was tried and failed.
    pub attempts: u32,
    /// The wire's name of the last status.
    pub status: Option<String>,
    /// Whether the reply ends with the head of an HTTP response.
    pub http: bool,
    /// When this was written down, in milliseconds since 1970.
    pub at_ms: u64,
}

/// The answer to [`Ask::Dead`].
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct DeadCalls {
    /// At most a page of them.
    pub calls: Vec<Report>,
}

impl Head for Ask {
    fn check(&self) -> Result<(), HeadError> {
        Ok(())
    }
}

impl Head for Report {
    fn check(&self) -> Result<(), HeadError> {
        Ok(())
    }
}

impl Head for DeadCalls {
    fn check(&self) -> Result<(), HeadError> {
        Ok(())
    }
}

impl Ask {
    /// The call of [`FUNCTION`] that asks it.
    ///
    /// # Errors
    /// When the head is too long.
    pub fn call(&self, event: &[u8]) -> Result<Call, HeadError> {
        let slot = match self {
            Self::Submit { id, .. } | Self::Outcome { id } | Self::Retry { id } => slot(id.shelf()),
            Self::Dead { shelf } => slot(*shelf),
            Self::Trigger { slot, .. } => SlotId(*slot),
        };
        // Each may be asked twice: nothing is done twice by it.
        let mut call = Call::by_id(*FUNCTION_ID)
            .payload(http::join(self, event)?)
            .idempotent(true);
        call.slot = Some(slot);
        Ok(call)
    }

    /// Reads a payload: what is asked, and the event.
    ///
    /// # Errors
    /// When it is something else.
    pub fn read(payload: &Bytes) -> Result<(Self, Bytes), HeadError> {
        http::split(payload)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_survives_its_text_and_stands_on_a_shelf() {
        for _ in 0..200 {
            let id = CallId::random();
            assert!(id.shelf() < SHELVES);
            assert_eq!(id.to_string().parse(), Ok(id));
        }
        for bad in [
            "",
            "0",
            "4000000000000000",
            "zz00000000000000",
            "+000000000000000",
            "00000000000000000",
        ] {
            assert_eq!(bad.parse::<CallId>(), Err(BadCallId), "{bad}");
        }
    }

    #[test]
    fn what_is_asked_goes_where_the_call_is_kept() {
        let id = CallId::random();
        let call = Deferred {
            function: "f".to_owned(),
            http: false,
            session: None,
            slot: None,
            budget_ms: 5,
        };
        let ask = Ask::Submit { id, call };
        let sent = ask.call(b"event").unwrap();
        assert_eq!(sent.slot, Some(slot(id.shelf())));
        assert_eq!(
            Ask::read(&sent.payload),
            Ok((ask, Bytes::from_static(b"event")))
        );
        assert!(Ask::read(&Bytes::from_static(b"nonsense")).is_err());
    }
}

//! The status of an answer: what happened, whose fault it is, and whether to try again.

/// Declares the statuses once: number, name, fault, retryable, and the sentence a user reads.
macro_rules! statuses {
    ($($(#[$meta:meta])* $variant:ident = $code:literal, $name:literal, $fault:ident, $retryable:literal;)+) => {
        /// Status of a RESPONSE or ERROR packet.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        #[repr(u16)]
        pub enum Status { $($(#[$meta])* $variant = $code,)+ }

        impl Status {
            /// Every status, in the order of its number.
            pub const ALL: &'static [Self] = &[$(Self::$variant,)+];

            /// The status of wire number `code`.
            #[must_use]
            pub const fn from_code(code: u16) -> Option<Self> {
                match code { $($code => Some(Self::$variant),)+ _ => None }
            }

            /// Its name in logs, metrics and JSON.
            #[must_use]
            pub const fn name(self) -> &'static str {
                match self { $(Self::$variant => $name,)+ }
            }

            /// Whose fault it is.
            #[must_use]
            pub const fn fault(self) -> Fault {
                match self { $(Self::$variant => Fault::$fault,)+ }
            }

            /// Whether the same request, sent again, may succeed without running a handler twice.
            #[must_use]
            pub const fn is_retryable(self) -> bool {
                match self { $(Self::$variant => $retryable,)+ }
            }
        }
    };
}

/// Who has to act on an outcome.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Fault {
    /// Nobody: the request succeeded.
    Nobody,
    /// The caller sent something that cannot work.
    Caller,
    /// The function's own code failed.
    Function,
    /// The platform could not do its part.
    Platform,
}

impl Fault {
    /// Its name in logs, metrics and JSON.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Nobody => "nobody",
            Self::Caller => "caller",
            Self::Function => "function",
            Self::Platform => "platform",
        }
    }
}

statuses! {
    /// The handler's reply is in the payload.
    Ok = 0, "ok", Nobody, false;
    /// Fragments or a long-running request were taken in; payload: 8-byte bitmap of fragments held.
    Continue = 1, "continue", Nobody, false;

    /// A header field contradicts another or the datagram.
    Malformed = 100, "malformed", Caller, false;
    /// The header's version is not ours.
    UnsupportedVersion = 101, "unsupported_version", Caller, false;
    /// No such function, version or alias is deployed.
    UnknownFunction = 102, "unknown_function", Caller, false;
    /// The request is longer than the platform or the function allows, or the payload is not what the manifest says.
    BadPayload = 103, "bad_payload", Caller, false;
    /// The caller's own time budget ran out before the handler answered.
    BudgetExceeded = 104, "budget_exceeded", Caller, false;
    /// A RESUME for a request that this worker has not got: send it again, whole.
    UnknownRequest = 105, "unknown_request", Caller, true;

    /// The handler raised an exception.
    Exception = 200, "exception", Function, false;
    /// The handler ran longer than its manifest's timeout and was killed.
    Timeout = 201, "timeout", Function, false;
    /// The handler exceeded its memory limit and was killed.
    OutOfMemory = 202, "out_of_memory", Function, false;
    /// The handler's process ended, or closed its socket, without a reply.
    Crashed = 203, "crashed", Function, false;
    /// The handler's reply breaks the runtime protocol or is too long.
    BadReply = 204, "bad_reply", Function, false;

    /// No worker takes new work for this function.
    NoWorker = 300, "no_worker", Platform, true;
    /// No live worker owns the slot.
    NoShardOwner = 301, "no_shard_owner", Platform, true;
    /// The worker's queue or memory budget is full; `budget_ms` says when to try again.
    Overloaded = 302, "overloaded", Platform, true;
    /// The function's code could not be fetched or verified.
    CodeUnavailable = 303, "code_unavailable", Platform, true;
    /// A sandbox could not be made.
    SandboxUnavailable = 304, "sandbox_unavailable", Platform, true;
    /// The request may have run on a worker that is gone, and is not IDEMPOTENT.
    OutcomeUnknown = 305, "outcome_unknown", Platform, false;
    /// The worker is stopping.
    Draining = 306, "draining", Platform, true;
}

//! The status of an answer: what happened, whose fault it is, and whether to try again.

/// Declares the statuses once: number, name, fault, whether to try again, and the sentence that is both
/// documentation and what a user reads.
macro_rules! statuses {
    ($($variant:ident = $code:literal, $name:literal, $fault:ident, $retryable:literal, $summary:literal;)+) => {
        /// Status of a RESPONSE or ERROR packet.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        #[repr(u16)]
        pub enum Status { $(#[doc = $summary] $variant = $code,)+ }

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

            /// What happened, in one sentence for people.
            #[must_use]
            pub const fn summary(self) -> &'static str {
                match self { $(Self::$variant => $summary,)+ }
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
    Ok = 0, "ok", Nobody, false, "the handler's reply is in the payload";
    Continue = 1, "continue", Nobody, false, "fragments or a long-running request were taken in; payload: 8-byte bitmap of fragments held";

    Malformed = 100, "malformed", Caller, false, "a header field contradicts another or the datagram";
    UnsupportedVersion = 101, "unsupported_version", Caller, false, "the header's version is not ours";
    UnknownFunction = 102, "unknown_function", Caller, false, "no such function, version or alias is deployed";
    BadPayload = 103, "bad_payload", Caller, false, "the request is longer than the platform or the function allows, or the payload is not what the manifest says";
    BudgetExceeded = 104, "budget_exceeded", Caller, false, "the caller's own time budget ran out before the handler answered";
    UnknownRequest = 105, "unknown_request", Caller, true, "a RESUME for a request that this worker has not got: send it again, whole";

    RateLimited = 106, "rate_limited", Caller, true, "the function is called more than its rate allows; `budget_ms` says when to try again";
    MethodNotAllowed = 107, "method_not_allowed", Caller, false, "the function does not take the HTTP method; payload: those it takes, as in the header Allow";

    Exception = 200, "exception", Function, false, "the handler raised an exception";
    Timeout = 201, "timeout", Function, false, "the handler ran longer than its manifest's timeout and was killed";
    OutOfMemory = 202, "out_of_memory", Function, false, "the handler exceeded its memory limit and was killed";
    Crashed = 203, "crashed", Function, false, "the handler's process ended, or closed its socket, without a reply";
    BadReply = 204, "bad_reply", Function, false, "the handler's reply breaks the runtime protocol or is too long";
    InstanceLost = 205, "instance_lost", Function, true, "another request in the same instance (`concurrency` in the manifest) ended it before this one was answered";

    NoWorker = 300, "no_worker", Platform, true, "no worker takes new work for this function";
    NoShardOwner = 301, "no_shard_owner", Platform, true, "no live worker owns the slot";
    Overloaded = 302, "overloaded", Platform, true, "the worker's queue or memory budget is full; `budget_ms` says when to try again";
    CodeUnavailable = 303, "code_unavailable", Platform, true, "the function's code could not be fetched or verified";
    SandboxUnavailable = 304, "sandbox_unavailable", Platform, true, "a sandbox could not be made";
    OutcomeUnknown = 305, "outcome_unknown", Platform, false, "the request may have run on a worker that is gone, and is not IDEMPOTENT";
    Draining = 306, "draining", Platform, true, "the worker is stopping";
}

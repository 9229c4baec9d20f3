//! What the end of a conversation means: for the caller a status and whose fault it was, for the instance whether it
//! serves others.

use ebpf_common::wire::Status;
use warmpath_sdk::http::ResponseHead;

use super::{
    Deadline, Outcome,
    connection::Broken,
    conversation::{Answer, GivenUp},
    instance::Instance,
    serving::{Answered, Visit},
};
use crate::{bill::Usage, runtime::protocol::ErrorMeta, stream::NoBody};

/// The exception that means what a kill for want of memory means.
const MEMORY_ERROR: &str = "MemoryError";
/// What an HTTP server answers when the application raises.
const EXCEPTION_STATUS: u16 = 500;

/// How a request ended.
pub(super) struct Verdict {
    /// But for what it used.
    pub(super) outcome: Outcome,
    /// Whether its instance is good for another one.
    pub(super) serves_on: bool,
}

impl Verdict {
    pub(super) fn of(
        visit: &Visit,
        instance: &Instance,
        answered: Answered,
        deadline: Deadline,
        given_up: Option<GivenUp>,
    ) -> Self {
        match (answered, given_up) {
            (Ok(Ok(Answer::Exception(error))), _) if error.kind == MEMORY_ERROR => {
                Self::ends(out_of_memory(visit))
            }
            (Ok(Ok(_)), Some(why)) => Self::serves_on(given_up_as(why)),
            (Ok(Ok(answer)), None) => Self::of_answer(visit, answer),
            (Ok(Err(Broken::Overstayed)), Some(why)) => Self::ends(given_up_as(why)),
            // Nothing of it has begun.
            (Ok(Err(Broken::Body(why))), _) => Self::serves_on(without_body(why)),
            (Ok(Err(broken)), _) => Self::ends(why_broken(visit, instance, &broken)),
            (Err(_), _) => Self::ends(took_too_long(visit, deadline)),
        }
    }

    fn of_answer(visit: &Visit, answer: Answer) -> Self {
        match answer {
            Answer::Result(payload, http) => Self::serves_on(Outcome {
                http,
                ..Outcome::replied(payload, Usage::default())
            }),
            Answer::Wait(wait) => Self::serves_on(Outcome::waits(wait, Usage::default())),
            Answer::Exception(error) => Self::serves_on(raised(visit, &error)),
            // A stream opens once, and before its end.
            Answer::Opens(_) => Self::ends(Outcome::failed(
                Status::BadReply,
                "the handler's process began a stream twice",
            )),
        }
    }

    const fn serves_on(outcome: Outcome) -> Self {
        Self {
            outcome,
            serves_on: true,
        }
    }

    const fn ends(outcome: Outcome) -> Self {
        Self {
            outcome,
            serves_on: false,
        }
    }
}

fn why_broken(visit: &Visit, instance: &Instance, broken: &Broken) -> Outcome {
    let status = match broken {
        Broken::Closed if visit.pool.is_stopping() => {
            let message = "the worker stopped while the handler ran";
            return Outcome::failed(Status::OutcomeUnknown, message);
        }
        Broken::Closed if instance.body().is_out_of_memory() => return out_of_memory(visit),
        Broken::Closed => Status::Crashed,
        Broken::Neighbour => Status::InstanceLost,
        Broken::Frame(_)
        | Broken::OutOfTurn(_)
        | Broken::UnknownCall(_)
        | Broken::Overstayed
        | Broken::StreamTooLong(_)
        | Broken::Body(_)
        | Broken::Head => Status::BadReply,
    };
    Outcome::failed(status, broken.to_string())
}

fn out_of_memory(visit: &Visit) -> Outcome {
    let memory_mb = visit.function.entry.manifest.memory_mb;
    let message = format!("the handler needed more than its {memory_mb} MB");
    Outcome::failed(Status::OutOfMemory, message)
}

fn raised(visit: &Visit, error: &ErrorMeta) -> Outcome {
    let message = format!("{}: {}", error.kind, error.message);
    let speaks_http = visit.invocation.http.is_some();
    Outcome {
        http: speaks_http.then(|| ResponseHead {
            status: EXCEPTION_STATUS,
            headers: Vec::new(),
        }),
        ..Outcome::failed(Status::Exception, message)
    }
}

fn given_up_as(why: GivenUp) -> Outcome {
    match why {
        GivenUp::HungUp => Outcome::failed(Status::BudgetExceeded, "the caller hung up"),
        GivenUp::BodyTooLong => {
            let message = "the body is longer than this worker takes (`[stream] body_bytes_max`)";
            Outcome::failed(Status::BadPayload, message)
        }
    }
}

fn without_body(why: NoBody) -> Outcome {
    let status = match why {
        NoBody::Lost => Status::BudgetExceeded,
        NoBody::TooLong => Status::BadPayload,
    };
    Outcome::failed(status, why.to_string())
}

fn took_too_long(visit: &Visit, deadline: Deadline) -> Outcome {
    if deadline.is_callers {
        let message = "the caller's time ran out before the handler answered";
        return Outcome::failed(Status::BudgetExceeded, message);
    }
    let timeout_ms = visit.function.entry.manifest.timeout_ms;
    let message = format!("the handler took longer than its {timeout_ms} ms");
    Outcome::failed(Status::Timeout, message)
}

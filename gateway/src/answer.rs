//! What an HTTP client is told.

use std::time::Duration;

use bytes::Bytes;
use hyper::{
    Response, StatusCode,
    header::{ALLOW, CONTENT_TYPE, HeaderName, HeaderValue, RETRY_AFTER},
};
use serde::Serialize;
use warmpath_sdk::{CallError, Fault, Status, http::content_type};

use crate::{body::AnswerBody, request::BadRequest};

/// The status of DESIGN's wire, or the gateway's own word.
pub(crate) const STATUS: HeaderName = HeaderName::from_static("x-warmpath-status");
/// `nobody`, `caller`, `function` or `platform`.
pub(crate) const FAULT: HeaderName = HeaderName::from_static("x-warmpath-fault");

/// An answer of the gateway.
pub(crate) type Answer = Response<AnswerBody>;

/// A failure as the caller is told it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Failure {
    pub(crate) code: StatusCode,
    /// A status of the wire, or a word of the gateway's own.
    pub(crate) status: &'static str,
    pub(crate) fault: Fault,
    pub(crate) retryable: bool,
    pub(crate) retry_after: Option<Duration>,
    /// What the header Allow says.
    pub(crate) allow: Option<String>,
    pub(crate) message: String,
}

#[derive(Serialize)]
struct Body<'a> {
    error: ErrorBody<'a>,
}

#[derive(Serialize)]
struct ErrorBody<'a> {
    status: &'a str,
    fault: &'a str,
    retryable: bool,
    message: &'a str,
    request_id: &'a str,
}

impl Failure {
    /// The caller's fault, found out by the gateway itself.
    pub(crate) const fn of_caller(code: StatusCode, status: &'static str, message: String) -> Self {
        Self {
            code,
            status,
            fault: Fault::Caller,
            retryable: false,
            retry_after: None,
            allow: None,
            message,
        }
    }

    /// As JSON with the headers that say the same.
    pub(crate) fn answer(&self, request_id: &str) -> Answer {
        let body = Body {
            error: ErrorBody {
                status: self.status,
                fault: self.fault.name(),
                retryable: self.retryable,
                message: &self.message,
                request_id,
            },
        };
        // Strings and a bool: this cannot fail, and an empty body would still have its headers.
        let body = serde_json::to_vec(&body).unwrap_or_default();
        let mut answer = Response::new(Bytes::from(body).into());
        *answer.status_mut() = self.code;
        let headers = answer.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        headers.insert(STATUS, HeaderValue::from_static(self.status));
        headers.insert(FAULT, HeaderValue::from_static(self.fault.name()));
        let allow = self.allow.as_deref().map(HeaderValue::from_str);
        if let Some(Ok(allow)) = allow {
            headers.insert(ALLOW, allow);
        }
        if let Some(wait) = self.retry_after {
            // Whole seconds, rounded up: HTTP knows nothing finer.
            let seconds = wait.as_millis().div_ceil(1_000).max(1);
            headers.insert(
                RETRY_AFTER,
                HeaderValue::from(u64::try_from(seconds).unwrap_or(u64::MAX)),
            );
        }
        answer
    }
}

impl From<BadRequest> for Failure {
    fn from(error: BadRequest) -> Self {
        Self::of_caller(StatusCode::BAD_REQUEST, "bad_request", error.to_string())
    }
}

impl From<CallError> for Failure {
    fn from(error: CallError) -> Self {
        let fault = error.fault();
        let retryable = error.retryable();
        let allow = match &error {
            CallError::Status {
                status: Status::MethodNotAllowed,
                message,
                ..
            } => Some(message.clone()),
            _ => None,
        };
        let message = match &error {
            CallError::Status { message, .. } if !message.is_empty() && allow.is_none() => {
                message.clone()
            }
            other => other.to_string(),
        };
        let (code, status) = code_of(&error);
        let wait = match &error {
            CallError::Status { retry_after, .. } => *retry_after,
            _ => None,
        };
        let is_unknown = matches!(
            &error,
            CallError::Status {
                status: Status::OutcomeUnknown,
                ..
            }
        );
        // When the platform may be well again; what may have run must not be sent again unasked.
        let says_when = code == StatusCode::SERVICE_UNAVAILABLE && !is_unknown;
        Self {
            code,
            status,
            fault,
            retryable,
            retry_after: says_when.then(|| wait.unwrap_or(Duration::from_secs(1))),
            allow,
            message,
        }
    }
}

/// The status code and word of a failed call.
fn code_of(error: &CallError) -> (StatusCode, &'static str) {
    match (error, error.status()) {
        // What an HTTP server says of a handler that raised.
        (CallError::Status { http: true, .. }, Some(status @ Status::Exception)) => {
            (StatusCode::INTERNAL_SERVER_ERROR, status.name())
        }
        (_, Some(status)) => (code_of_status(status), status.name()),
        (CallError::TooManyInFlight { .. }, None) => {
            (StatusCode::SERVICE_UNAVAILABLE, "gateway_overloaded")
        }
        (_, None) => (StatusCode::SERVICE_UNAVAILABLE, "no_answer"),
    }
}

const fn code_of_status(status: Status) -> StatusCode {
    match status {
        Status::Ok | Status::Continue => StatusCode::OK,
        Status::UnknownFunction => StatusCode::NOT_FOUND,
        Status::MethodNotAllowed => StatusCode::METHOD_NOT_ALLOWED,
        Status::RateLimited => StatusCode::TOO_MANY_REQUESTS,
        Status::BudgetExceeded => StatusCode::REQUEST_TIMEOUT,
        Status::Malformed
        | Status::UnsupportedVersion
        | Status::BadPayload
        | Status::UnknownRequest => StatusCode::BAD_REQUEST,
        Status::Timeout => StatusCode::GATEWAY_TIMEOUT,
        Status::Exception
        | Status::OutOfMemory
        | Status::Crashed
        | Status::BadReply
        | Status::InstanceLost => StatusCode::BAD_GATEWAY,
        Status::NoWorker
        | Status::NoShardOwner
        | Status::Overloaded
        | Status::CodeUnavailable
        | Status::SandboxUnavailable
        | Status::OutcomeUnknown
        | Status::Draining => StatusCode::SERVICE_UNAVAILABLE,
    }
}

/// A handler's reply.
pub(crate) fn reply(payload: Bytes) -> Answer {
    let kind = content_type(&payload);
    let mut answer = Response::new(payload.into());
    let headers = answer.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(kind));
    headers.insert(STATUS, HeaderValue::from_static(Status::Ok.name()));
    headers.insert(FAULT, HeaderValue::from_static(Fault::Nobody.name()));
    answer
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_digit_says_whose_fault_it_was() {
        for status in Status::ALL {
            let code = code_of_status(*status).as_u16();
            let fits = match status.fault() {
                Fault::Nobody => code == 200,
                Fault::Caller => (400..500).contains(&code),
                Fault::Function => code == 502 || code == 504,
                Fault::Platform => code == 503,
            };
            assert!(fits, "{status:?} is {code}");
        }
    }
}

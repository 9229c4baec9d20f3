//! Calls that nobody waits for: kept by a worker before they are answered, and asked for later.

use std::time::Duration;

use bytes::Bytes;
use hyper::{
    Method, Response, StatusCode,
    header::{CONTENT_TYPE, HeaderValue, LOCATION},
};
use serde::Serialize;
use warmpath_sdk::{
    Call, Fault, Status,
    deferred::{Ask, CallId, Deferred, Report, State},
    http,
};

use crate::{
    answer::{Answer, Failure, reply},
    handler::Gateway,
    passage,
    request::ASYNC,
};

/// Where outcomes are asked for.
pub(crate) const DEFERRED: &str = "/async/";
/// How long keeping a call, or finding one, may take.
const BUDGET: Duration = Duration::from_secs(10);

/// What is said of a call that has no reply (yet).
#[derive(Serialize)]
struct Shown<'a> {
    id: CallId,
    state: State,
    #[serde(skip_serializing_if = "str::is_empty")]
    function: &'a str,
    attempts: u32,
    #[serde(skip_serializing_if = "Option::is_none")]
    status: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<&'a str>,
}

impl Gateway {
    /// Has `call` kept; answered once it is durable.
    pub(crate) async fn defer(&self, function: &str, call: &Call) -> Result<Answer, Failure> {
        let id = CallId::random();
        let deferred = Deferred {
            function: function.to_owned(),
            http: call.http,
            session: call.session,
            slot: call.slot.map(|slot| slot.0),
            budget_ms: u32::try_from(call.budget.as_millis()).unwrap_or(u32::MAX),
        };
        let ask = Ask::Submit { id, call: deferred };
        self.ask(&ask, &call.payload).await?;
        let shown = Shown {
            id,
            state: State::Pending,
            function,
            attempts: 0,
            status: None,
            error: None,
        };
        let mut answer = show(StatusCode::ACCEPTED, &shown);
        if let Ok(place) = HeaderValue::try_from(format!("{DEFERRED}{id}")) {
            answer.headers_mut().insert(LOCATION, place);
        }
        Ok(answer)
    }

    /// What became of the call whose id is `text`.
    pub(crate) async fn outcome_of(&self, method: &Method, text: &str) -> Result<Answer, Failure> {
        if *method != Method::GET {
            let message = "what became of a call is asked for by GET".to_owned();
            return Err(Failure {
                allow: Some(Method::GET.to_string()),
                ..Failure::of_caller(StatusCode::METHOD_NOT_ALLOWED, "method", message)
            });
        }
        let id: CallId = text
            .parse()
            .map_err(|error: warmpath_sdk::deferred::BadCallId| {
                Failure::of_caller(StatusCode::BAD_REQUEST, "bad_request", error.to_string())
            })?;
        let answered = self.ask(&Ask::Outcome { id }, b"").await?;
        let (report, body) = http::split::<Report>(&answered).map_err(|error| Failure {
            fault: Fault::Platform,
            ..Failure::of_caller(
                StatusCode::BAD_GATEWAY,
                Status::BadReply.name(),
                format!("a worker said what this gateway does not understand: {error}"),
            )
        })?;
        let text = String::from_utf8_lossy(&body);
        let code = match report.state {
            State::Done => return done(&report, body),
            State::Pending | State::Running => StatusCode::ACCEPTED,
            State::Failed => StatusCode::BAD_GATEWAY,
            State::Unknown => StatusCode::NOT_FOUND,
        };
        let shown = Shown {
            id,
            state: report.state,
            function: &report.function,
            attempts: report.attempts,
            status: report.status.as_deref(),
            error: (report.state == State::Failed).then_some(&*text),
        };
        Ok(show(code, &shown))
    }

    async fn ask(&self, ask: &Ask, event: &[u8]) -> Result<Bytes, Failure> {
        let call = ask.call(event)?.budget(BUDGET);
        Ok(self.calls.call(call).await?.payload)
    }
}

/// The reply as the handler gave it.
fn done(report: &Report, body: Bytes) -> Result<Answer, Failure> {
    let mut answer = if report.http {
        passage::answer(&body)?
    } else {
        reply(body)
    };
    let state = HeaderValue::from_static("done");
    answer.headers_mut().insert(ASYNC, state);
    Ok(answer)
}

fn show(code: StatusCode, shown: &Shown<'_>) -> Answer {
    // Strings and numbers: this cannot fail.
    let body = serde_json::to_vec(shown).unwrap_or_default();
    let mut answer = Response::new(Bytes::from(body).into());
    *answer.status_mut() = code;
    let kind = HeaderValue::from_static("application/json");
    answer.headers_mut().insert(CONTENT_TYPE, kind);
    answer
}

//! One HTTP request's life: read, call, answer.

use std::{
    net::IpAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::Bytes;
use http_body_util::{BodyExt, LengthLimitError, Limited};
use hyper::{
    Request, Response, StatusCode,
    body::{Body, Incoming},
    header::{CONTENT_TYPE, HeaderValue, SET_COOKIE},
};
use tokio::time::timeout;
use warmpath_sdk::{
    Call, Fault, MAX_MESSAGE, Status,
    http::{self, CALLER, RequestHead},
    stream::{Reply, RequestBody},
};

use crate::{
    answer::{Answer, Failure, reply},
    body::{Following, Passing},
    caller::caller_of,
    calls::Calls,
    config::Config,
    deferred::DEFERRED,
    metrics::Metrics,
    passage::{self, RUN},
    request::{REQUEST_ID, SESSION_COOKIE, Session, Wish, request_id},
};

/// What requests are served with.
#[derive(Debug)]
pub(crate) struct Gateway {
    pub(crate) config: Config,
    pub(crate) calls: Calls,
    pub(crate) metrics: Metrics,
}

impl Gateway {
    /// Answers one request of `peer` on the public address.
    pub(crate) async fn serve(self: Arc<Self>, request: Request<Incoming>, peer: IpAddr) -> Answer {
        let begun = Instant::now();
        let path = request.uri().path();
        if path == "/healthz" {
            return plain(StatusCode::OK, "ok\n");
        }
        let id = request_id(request.headers());
        if let Some(call) = path.strip_prefix(DEFERRED).map(str::to_owned) {
            let answer = self.outcome_of(request.method(), &call).await;
            return with_id(answer.unwrap_or_else(|failure| failure.answer(&id)), &id);
        }
        let Some((function, _)) = path.strip_prefix(RUN).map(passage::split) else {
            let message = "there is nothing here: functions are called at /run/<function>";
            return with_id(
                Failure::of_caller(StatusCode::NOT_FOUND, "no_such_path", message.to_owned())
                    .answer(&id),
                &id,
            );
        };
        let function = function.to_owned();
        let outcome = self.run(&function, request, peer).await;
        let (status, fault) = match &outcome {
            Ok(answer) if answer.status().is_server_error() => (Status::Ok.name(), Fault::Function),
            Ok(_) => (Status::Ok.name(), Fault::Nobody),
            Err(failure) => (failure.status, failure.fault),
        };
        let answer = outcome.unwrap_or_else(|failure| failure.answer(&id));
        self.metrics
            .answered(answer.status().as_u16(), status, fault, begun.elapsed());
        with_id(answer, &id)
    }

    /// Answers one request on the metrics address.
    pub(crate) fn serve_metrics(&self, request: &Request<Incoming>) -> Answer {
        if request.uri().path() != "/metrics" {
            return plain(StatusCode::NOT_FOUND, "there is only /metrics here\n");
        }
        match self.metrics.render() {
            Ok(text) => {
                let mut answer = Response::new(Bytes::from(text).into());
                let kind = HeaderValue::from_static("text/plain; version=0.0.4");
                answer.headers_mut().insert(CONTENT_TYPE, kind);
                answer
            }
            Err(_) => plain(
                StatusCode::INTERNAL_SERVER_ERROR,
                "the metrics cannot be encoded\n",
            ),
        }
    }

    async fn run(
        &self,
        function: &str,
        request: Request<Incoming>,
        peer: IpAddr,
    ) -> Result<Answer, Failure> {
        let (parts, body) = request.into_parts();
        let wish = Wish::read(function, &parts.headers)?;
        let mut head = passage::head_of(&parts, function)?;
        let caller = caller_of(peer, &parts.headers, &self.config.trusted_proxies);
        head.headers.push((CALLER.to_owned(), caller.to_string()));
        let (body, follows) = self.body(body, &head, wish.deferred).await?;
        let most = Duration::from_millis(self.config.max_budget_ms.into());
        let usual = Duration::from_millis(self.config.budget_ms.into());
        let mut call = Call::new(&wish.function)
            .http(&head, &body)?
            .session(wish.session.id())
            .budget(wish.budget.unwrap_or(usual).min(most))
            .idempotent(wish.idempotent);
        call.slot = wish.slot;
        if wish.deferred {
            return self.defer(&wish.function, &call).await;
        }
        let mut answer = match self.calls.stream(call, follows).await? {
            Reply::Whole(response) if response.http => passage::answer(&response.payload)?,
            Reply::Whole(response) => reply(response.payload),
            Reply::Stream(streamed) => {
                let body = Passing::new(streamed.body, self.metrics.clone());
                passage::streamed(&streamed.head, body)?
            }
        };
        if let Session::New { name, .. } = &wish.session {
            let cookie = format!("{SESSION_COOKIE}={name}; Path=/; HttpOnly; SameSite=Lax");
            if let Ok(cookie) = HeaderValue::try_from(cookie) {
                answer.headers_mut().append(SET_COOKIE, cookie);
            }
        }
        Ok(answer)
    }

    /// The body that goes with the call, and the one that follows it because no message has room for it, or because
    /// nobody knows how long it is: it may come as slowly as its reply goes.
    async fn body(
        &self,
        body: Incoming,
        head: &RequestHead,
        is_deferred: bool,
    ) -> Result<(Bytes, Option<RequestBody>), Failure> {
        let most = http::body_bytes_max(head);
        let fits = |bytes| bytes <= most as u64;
        if is_deferred || body.size_hint().exact().is_some_and(fits) {
            return Ok((self.whole_body(body, most).await?, None));
        }
        let most = self.config.max_body_bytes;
        if body.size_hint().lower() > most {
            let message = format!("the body is longer than the {most} bytes of `max_body_bytes`");
            return Err(Failure::of_caller(
                StatusCode::PAYLOAD_TOO_LARGE,
                "bad_payload",
                message,
            ));
        }
        let follows = Following::new(body).map_err(Into::into).boxed_unsync();
        Ok((Bytes::new(), Some(follows)))
    }

    /// A whole body, within the bounds of a message and of patience.
    async fn whole_body(&self, body: Incoming, most: usize) -> Result<Bytes, Failure> {
        let too_long = || {
            let message = format!(
                "the body is longer than {most} bytes: with its head a request has at most {MAX_MESSAGE}"
            );
            Failure::of_caller(StatusCode::PAYLOAD_TOO_LARGE, "bad_payload", message)
        };
        if body.size_hint().lower() > most as u64 {
            return Err(too_long());
        }
        let patience = Duration::from_millis(self.config.read_timeout_ms);
        match timeout(patience, Limited::new(body, most).collect()).await {
            Ok(Ok(body)) => Ok(body.to_bytes()),
            Ok(Err(error)) if error.is::<LengthLimitError>() => Err(too_long()),
            Ok(Err(error)) => {
                let message = format!("the body broke off: {error}");
                Err(Failure::of_caller(
                    StatusCode::BAD_REQUEST,
                    "bad_request",
                    message,
                ))
            }
            Err(_elapsed) => {
                let message = "the body did not arrive in time".to_owned();
                Err(Failure::of_caller(
                    StatusCode::REQUEST_TIMEOUT,
                    "slow_body",
                    message,
                ))
            }
        }
    }
}

fn with_id(mut answer: Answer, id: &str) -> Answer {
    if let Ok(id) = HeaderValue::from_str(id) {
        answer.headers_mut().insert(REQUEST_ID, id);
    }
    answer
}

fn plain(code: StatusCode, text: &'static str) -> Answer {
    let mut answer = Response::new(Bytes::from_static(text.as_bytes()).into());
    *answer.status_mut() = code;
    answer
}

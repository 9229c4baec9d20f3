//! What a packet means: an answer at once, a fragment more, or a request to run.

use std::{net::SocketAddr, sync::Arc, time::Instant};

use bytes::Bytes;
use ebpf_common::{
    ids::FunctionId,
    wire::{Kind, RpcHeader, Status, flags},
};
use tokio::net::UdpSocket;
use warmpath_sdk::{
    deferred::FUNCTION_ID,
    fragment::{FragmentError, Held},
};

use super::{
    Server,
    answer::Reply,
    serve::Job,
    socket::{send, try_send},
    table::{Found, RequestKey, Run},
};
use crate::{invoke::Invoker, load::Permit, metrics::PacketFate};

/// Where a packet came from, and how to answer.
#[derive(Debug, Clone)]
pub(super) struct Way {
    pub(super) socket: Arc<UdpSocket>,
    pub(super) peer: SocketAddr,
}

impl<I: Invoker> Server<I> {
    /// Deals with one datagram. Never waits: what takes time is left to a task.
    pub(super) fn on_datagram(
        self: &Arc<Self>,
        socket: &Arc<UdpSocket>,
        peer: SocketAddr,
        datagram: &[u8],
    ) {
        let metrics = &self.parts.metrics;
        let (header, payload) = match RpcHeader::parse(datagram) {
            None => return metrics.packet(PacketFate::Truncated),
            Some(Err(error)) => return metrics.packet(PacketFate::of(error)),
            Some(Ok(parsed)) => parsed,
        };
        let way = Way {
            socket: Arc::clone(socket),
            peer,
        };
        match header.kind {
            Kind::Ping => {
                metrics.packet(PacketFate::Ping);
                let cookie = self.parts.identity.cookie(&header);
                self.answer_now(&way, &Reply::new(&header, Status::Ok, Bytes::new(), cookie));
            }
            Kind::Request if header.has(flags::CANCEL) => {
                metrics.packet(PacketFate::Cancel);
                self.on_cancel(&way, &header);
            }
            Kind::Request if header.has(flags::RESUME) => {
                metrics.packet(PacketFate::Resume);
                self.on_resume(way, &header, payload);
            }
            Kind::Request => {
                metrics.packet(PacketFate::Request);
                self.on_request(way, &header, payload);
            }
            Kind::Response | Kind::Error | Kind::Retry | Kind::Load => {
                metrics.packet(PacketFate::UnexpectedKind)
            }
        }
    }

    fn on_resume(self: &Arc<Self>, way: Way, header: &RpcHeader, payload: &[u8]) {
        let Some(held) = Held::from_payload(payload) else {
            return self.bad_fragment(&way, FragmentError::Length);
        };
        match self.table.look(key_of(&way, header)) {
            Found::Done(reply) => self.replay(way, reply, held),
            Found::Progress {
                held,
                cookie,
                is_parked,
                ..
            } => self.tell_progress(&way, header, held, cookie, is_parked),
            Found::Nothing | Found::Whole { .. } | Found::Bad(_) => {
                self.refuse(
                    &way,
                    header,
                    Status::UnknownRequest,
                    "this worker has nothing of the request",
                );
            }
        }
    }

    /// The caller gives a request up: whatever runs of it ends, and a late copy of it does not run again. One that is not
    /// known, or has been answered, is left alone.
    fn on_cancel(&self, way: &Way, header: &RpcHeader) {
        let key = key_of(way, header);
        let run = match self.table.run_of(key) {
            Some(run @ (Run::Task(_) | Run::Parked(_))) => run,
            // In the moment before its task is known it cannot be ended: its caller has just sent it.
            Some(Run::Starting) | None => return,
        };
        let cookie = self.parts.identity.cookie(header);
        let message = Bytes::from_static(b"the caller gave the request up");
        let reply = Reply::new(header, Status::BudgetExceeded, message, cookie);
        // First the answer, so that nothing of the task's end makes room for a second run.
        self.table.finish(key, &Arc::new(reply), Instant::now());
        // Then the count, so that who sees the end finds it counted.
        match run {
            Run::Task(task) => {
                self.parts.metrics.cancelled("running");
                task.abort();
            }
            Run::Parked(ticket) => {
                self.parts.metrics.cancelled("parked");
                drop(self.parking.take(ticket));
            }
            Run::Starting => return,
        }
        self.parts.metrics.refused(Status::BudgetExceeded);
    }

    fn on_request(self: &Arc<Self>, way: Way, header: &RpcHeader, payload: &[u8]) {
        let key = key_of(&way, header);
        match self.table.take(key, header, payload) {
            Found::Nothing => self.on_new(way, key, header, payload),
            Found::Progress {
                held,
                cookie,
                tell,
                is_parked,
            } => {
                if tell || header.has(flags::RETRANSMIT) {
                    self.tell_progress(&way, header, held, cookie, is_parked);
                }
            }
            Found::Done(reply) => self.replay(way, reply, Held::NONE),
            Found::Whole {
                header,
                cookie,
                payload,
            } => match self.admit(&way, &header) {
                Ok(permit) => {
                    self.spawn(Job::new(way, key, header, payload, cookie), permit);
                }
                Err(refusal) => self.table.finish(key, &Arc::new(refusal), Instant::now()),
            },
            Found::Bad(error) => self.bad_fragment(&way, error),
        }
    }

    fn on_new(self: &Arc<Self>, way: Way, key: RequestKey, header: &RpcHeader, payload: &[u8]) {
        if header.fragment_index != 0 {
            let why = "this worker has nothing of the request; its first fragment comes first";
            return self.refuse(&way, header, Status::UnknownRequest, why);
        }
        let may_have_run_elsewhere = header.has(flags::RETRANSMIT)
            && !header.has(flags::IDEMPOTENT)
            && self.parts.identity.names_another(header);
        if may_have_run_elsewhere {
            let why = "the request was sent to another worker before, and may have run there";
            return self.refuse(&way, header, Status::OutcomeUnknown, why);
        }
        if self.parts.load.is_draining() {
            return self.refuse(&way, header, Status::Draining, "this worker is stopping");
        }
        if !self.may_know(header.function) {
            return self.refuse(&way, header, Status::UnknownFunction, UNKNOWN_FUNCTION);
        }
        let Ok(permit) = self.admit(&way, header) else {
            return;
        };
        let cookie = self.parts.identity.cookie(header);
        if header.fragment_count == 1 {
            self.table.start(key, 1, cookie);
            let payload = Bytes::copy_from_slice(payload);
            return self.spawn(Job::new(way, key, *header, payload, cookie), permit);
        }
        // Nothing runs yet: the place is asked for again when the request is whole.
        drop(permit);
        match self
            .table
            .begin(key, *header, payload, cookie, Instant::now())
        {
            Found::Progress { held, cookie, .. } => {
                self.answer_now(&way, &Reply::progress(header, held, cookie));
            }
            Found::Bad(error) => self.bad_fragment(&way, error),
            // `begin` says nothing else.
            Found::Nothing | Found::Done(_) | Found::Whole { .. } => (),
        }
    }

    pub(super) fn tell_progress(
        &self,
        way: &Way,
        header: &RpcHeader,
        held: Held,
        cookie: u64,
        is_parked: bool,
    ) {
        let progress = Reply::progress(header, held, cookie);
        let ask_after = if is_parked { self.ask_after_ms() } else { 0 };
        self.answer_now(way, &progress.with_retry_after(ask_after));
    }

    /// Whether there is such a function, as far as can be told without asking.
    fn may_know(&self, function: FunctionId) -> bool {
        let functions = &self.parts.functions;
        functions.get(function).is_some()
            || functions.may_learn()
            || (function == *FUNCTION_ID && self.shelves.get().is_some())
    }

    fn bad_fragment(&self, way: &Way, error: FragmentError) {
        self.parts.metrics.packet(PacketFate::Fragment);
        tracing::debug!(peer = %way.peer, %error, "a fragment was dropped");
    }

    /// A place to run in, or the answer that there is none, which has been sent.
    fn admit(&self, way: &Way, header: &RpcHeader) -> Result<Permit, Reply> {
        self.parts.load.admit().ok_or_else(|| {
            let why = "the worker has as many requests in flight as it takes";
            let refusal = self.refusal(header, Status::Overloaded, why);
            self.answer_now(way, &refusal);
            refusal
        })
    }

    /// Answers with an error before anything ran.
    pub(super) fn refuse(&self, way: &Way, header: &RpcHeader, status: Status, why: &'static str) {
        self.answer_now(way, &self.refusal(header, status, why));
    }

    fn refusal(&self, header: &RpcHeader, status: Status, why: &'static str) -> Reply {
        self.parts.metrics.refused(status);
        let cookie = self.parts.identity.cookie(header);
        let reply = Reply::new(header, status, Bytes::from_static(why.as_bytes()), cookie);
        let wait = if status == Status::Overloaded {
            self.parts.load.retry_after_ms()
        } else {
            0
        };
        reply.with_retry_after(wait)
    }

    /// Sends a one-packet answer. A full socket loses it, as the network might: the client asks again.
    pub(super) fn answer_now(&self, way: &Way, reply: &Reply) {
        if try_send(&way.socket, way.peer, reply, 0).is_err() {
            self.parts.metrics.send_failed();
        }
    }

    fn replay(self: &Arc<Self>, way: Way, reply: Arc<Reply>, held: Held) {
        self.parts.metrics.replayed();
        if reply.count() == 1 {
            return self.answer_now(&way, &reply);
        }
        tokio::spawn(async move { send(&way.socket, way.peer, &reply, held).await });
    }
}

pub(super) const UNKNOWN_FUNCTION: &str = "no such function, version or alias is deployed";

const fn key_of(way: &Way, header: &RpcHeader) -> RequestKey {
    RequestKey {
        peer: way.peer,
        id: header.request_id,
    }
}

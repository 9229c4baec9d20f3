//! Requests that go on as streams: their client is told where, once, and this worker waits for it to come.

use std::{sync::Arc, time::Instant};

use bytes::Bytes;
use ebpf_common::wire::{Status, flags};
use tokio::time;
use warmpath_sdk::fragment::Held;

use super::{Server, answer::Reply, serve::Job, socket::send};
use crate::{
    invoke::Invoker,
    pool::{Outcome, Streams},
    stream::{Desk, End, Offered, Streaming, StreamsReport},
};

impl<I: Invoker> Server<I> {
    /// From now on, answers with streams, for which `desk` gives out the tickets. Only the first one counts.
    pub fn open_streams(&self, desk: Arc<Desk>) {
        self.desk.get_or_init(|| desk);
    }

    /// The streams that are open.
    #[must_use]
    pub fn streams(&self) -> StreamsReport {
        self.desk
            .get()
            .map(|desk| desk.report())
            .unwrap_or_default()
    }

    /// Puts the numbers of now into the metrics.
    pub(crate) fn show_streams(&self) {
        if let Some(desk) = self.desk.get() {
            desk.metrics().show(desk.size());
        }
    }

    /// What of a request may be a stream.
    pub(super) fn streams_of(&self, job: &Job) -> Result<Streams, Box<Outcome>> {
        let header = &job.header;
        match (self.desk.get(), header.has(flags::BODY_FOLLOWS)) {
            (Some(_), true) if header.has(flags::STREAM) => Ok(Streams::Both),
            (_, true) => {
                let message = "this worker takes no body that follows: `[stream] enabled` is off, or the \
                               request does not say that its caller takes streams";
                Err(Box::new(Outcome::failed(Status::BadPayload, message)))
            }
            (Some(_), false) if header.has(flags::STREAM) => Ok(Streams::Reply),
            (_, false) => Ok(Streams::None),
        }
    }

    /// Tells the client where its stream is, and goes on with it to the end. The reply to keep is what it was told.
    pub(super) async fn stream(
        &self,
        job: &Job,
        stream: Box<dyn Streaming>,
    ) -> (Arc<Reply>, Outcome) {
        let Some(desk) = self.desk.get() else {
            // The pool opens no stream that was not allowed; a scripted one gets what it deserves.
            let outcome = Outcome::failed(Status::BadReply, "a stream that nobody asked for");
            let reply = Reply::new(&job.header, outcome.status, outcome.payload.clone(), 0);
            return (Arc::new(reply), outcome);
        };
        let mut offer = desk.offer(Offered {
            request_id: job.header.request_id,
            function: (job.function.as_ref()).map_or_else(String::new, |it| it.qualified.clone()),
            peer: job.way.peer,
        });
        let place = Bytes::copy_from_slice(&offer.place().emit());
        let reply = Reply::new(&job.header, Status::Ok, place, job.cookie).with_stream();
        let reply = Arc::new(reply);
        // Before it is sent: the client's next packet about the request gets the same.
        self.table.opened(job.key, &reply);
        send(&job.way.socket, job.way.peer, &reply, Held::NONE).await;
        let patience = desk.limits().claim();
        let deadline = job
            .deadline
            .unwrap_or_else(|| time::Instant::now() + patience);
        let (end, outcome) = match offer.claimed(deadline).await {
            Some(claim) => stream.drive(claim).await,
            None => {
                let grace = desk.limits().hangup();
                (End::Unclaimed, stream.dismiss(grace).await)
            }
        };
        let (bytes_in, bytes_out) = (outcome.usage.bytes_in, outcome.usage.bytes_out);
        offer.ended(end, bytes_in, bytes_out);
        // What callers do is counted only: any of them could fill the log.
        if end == End::Failed {
            tracing::info!(
                request = job.key.id,
                function = job.function.as_ref().map(|it| it.qualified.as_str()),
                status = outcome.status.name(),
                "a stream did not end well"
            );
        }
        (reply, outcome)
    }

    /// Keeps what the client of a stream was told, which is over.
    pub(super) fn keep_stream(&self, job: &Job, reply: &Arc<Reply>) {
        self.table.finish(job.key, reply, Instant::now());
    }
}

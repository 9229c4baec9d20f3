//! Streams: over the real RPC and its exchanges, with real instances.

mod hangup;
mod limits;
mod misbehaving;
mod passing;
mod runtimes;

use std::{
    convert::Infallible,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use db::{Op, Reply as DbReply};
use http_body_util::BodyExt;
use hyper::body::{Body, Frame};
use prometheus::Registry;
use tokio::{
    sync::mpsc,
    task::AbortHandle,
    time::{Instant, sleep},
};
use warmpath_sdk::{
    Call, CallError, Client, ClientConfig,
    http::RequestHead,
    stream::{Reply, RequestBody, Streamed},
};
use worker::{
    catalog::Functions,
    identity::Identity,
    load::Load,
    metrics::RpcMetrics,
    park::ParkLimits,
    pool::Pool,
    rpc::{Parts, RpcLimits, Server},
    stream::{Desk, End, StreamLimits, StreamMetrics},
};

use super::bed::{Bed, within};

/// A pool with an RPC server and a desk in front of it.
pub(crate) struct Stage {
    pub(crate) bed: Bed,
    pub(crate) client: Client,
    pub(crate) desk: Arc<Desk>,
    pub(crate) metrics: StreamMetrics,
    pub(crate) load: Arc<Load>,
    pub(crate) vip: std::net::SocketAddr,
    _server: Arc<Server<Arc<Pool>>>,
    serving: AbortHandle,
}

impl Stage {
    /// With one function, `f`.
    pub(crate) async fn with(code: &str, extra: &str) -> Self {
        Self::limited(code, extra, StreamLimits::default()).await
    }

    pub(crate) async fn limited(code: &str, extra: &str, limits: StreamLimits) -> Self {
        let bed = Bed::start().await;
        let timed = match extra.contains("timeout_ms") {
            true => extra.to_owned(),
            false => format!("timeout_ms = 60000\n{extra}"),
        };
        let entry = ["f.js", "f.py"]
            .into_iter()
            .find(|name| extra.contains(name));
        let entry = match extra.contains("'native'") {
            true => "f",
            false => entry.unwrap_or("f.py"),
        };
        bed.deploy_files("f", &[(entry, code)], &timed).await;
        let load = Arc::new(Load::new(64));
        let parts = Parts {
            invoker: Arc::clone(&bed.pool),
            functions: Arc::new(Functions::fixed(bed.store.catalog().await.unwrap())),
            identity: Arc::new(Identity::unassigned()),
            load: Arc::clone(&load),
            metrics: RpcMetrics::register(&Registry::new()).unwrap(),
            feeds: Arc::clone(&bed.feeds),
            park: ParkLimits::default(),
        };
        let server = Server::new(parts, RpcLimits::default());
        let metrics = StreamMetrics::register(&Registry::new()).unwrap();
        let any = "127.0.0.1:0".parse().unwrap();
        let listening = worker::stream::listen(any, limits, metrics.clone()).await;
        let (desk, serving) = listening.unwrap();
        let serving = tokio::spawn(serving).abort_handle();
        server.open_streams(Arc::clone(&desk));
        let (vip, _task) = server.listen(any).unwrap();
        Self {
            bed,
            client: Client::connect(vip, ClientConfig::default()).unwrap(),
            desk,
            metrics,
            load,
            vip,
            _server: server,
            serving,
        }
    }

    /// Calls `f` by HTTP with what of it can be a stream.
    pub(crate) async fn call(&self, body: Option<RequestBody>) -> Result<Reply, CallError> {
        self.call_path("/", body).await
    }

    pub(crate) async fn call_path(
        &self,
        path: &str,
        body: Option<RequestBody>,
    ) -> Result<Reply, CallError> {
        let head = RequestHead {
            path: path.to_owned(),
            ..RequestHead::of_call(0)
        };
        let call = Call::new("f").budget(within(60)).http(&head, b"").unwrap();
        self.client.stream(call, body).await
    }

    /// Calls `f`, whose reply has to be a stream.
    pub(crate) async fn stream(&self, path: &str) -> Streamed {
        match self.call_path(path, None).await.unwrap() {
            Reply::Stream(streamed) => *streamed,
            Reply::Whole(whole) => panic!("not a stream: {whole:?}"),
        }
    }

    /// Waits until the database has `key`; its value.
    pub(crate) async fn told(&self, key: &str) -> String {
        let key = key.as_bytes().to_vec();
        let what = format!("{:?} to be there", String::from_utf8_lossy(&key));
        eventually(&what, async || {
            let get = Op::Get { key: key.clone() };
            match self.bed.feeds.execute(get).await.unwrap().0 {
                DbReply::Value(value) => {
                    value.map(|value| String::from_utf8_lossy(&value).into_owned())
                }
                other => panic!("{other:?}"),
            }
        })
        .await
    }

    /// Lets a handler go on that waits for `key`.
    pub(crate) async fn tell(&self, key: &str) {
        let put = Op::Put {
            key: key.as_bytes().to_vec(),
            value: b"1".to_vec(),
        };
        self.bed.feeds.execute(put).await.unwrap();
    }

    /// Waits until a stream has ended so.
    pub(crate) async fn ended(&self, end: End) {
        let what = format!("a stream to end as {}", end.name());
        eventually(&what, async || (self.metrics.ends(end) > 0).then_some(())).await;
    }

    /// Waits until nothing is served any more.
    pub(crate) async fn quiet(&self) {
        let is_quiet = async || (self.load.in_flight() == 0).then_some(());
        eventually("all requests to end", is_quiet).await;
    }

    pub(crate) async fn stop(self) {
        self.serving.abort();
        self.bed.stop().await;
    }
}

/// Asks until the answer is there.
pub(crate) async fn eventually<T>(what: &str, ask: impl AsyncFn() -> Option<T>) -> T {
    let deadline = Instant::now() + within(30);
    loop {
        if let Some(answer) = ask().await {
            return answer;
        }
        assert!(Instant::now() < deadline, "waited in vain for {what}");
        sleep(Duration::from_millis(2)).await;
    }
}

/// All that comes, or how much came before the stream broke off.
pub(crate) async fn read(mut streamed: Streamed) -> Result<Vec<u8>, usize> {
    let mut all = Vec::new();
    loop {
        match streamed.body.piece().await {
            Ok(Some(piece)) => all.extend_from_slice(&piece),
            Ok(None) => return Ok(all),
            Err(_) => return Err(all.len()),
        }
    }
}

/// Reads until so many bytes are here.
pub(crate) async fn read_some(streamed: &mut Streamed, count: usize) -> Vec<u8> {
    let mut all = Vec::new();
    while all.len() < count {
        let piece = streamed.body.piece().await.unwrap();
        all.extend_from_slice(&piece.expect("it goes on"));
    }
    all
}

/// A body that comes as it is sent.
struct Sent(mpsc::Receiver<Bytes>);

impl Body for Sent {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        let piece = self.0.poll_recv(context);
        piece.map(|piece| piece.map(|piece| Ok(Frame::data(piece))))
    }
}

pub(crate) fn body() -> (mpsc::Sender<Bytes>, RequestBody) {
    let (sender, receiver) = mpsc::channel(1);
    let body = Sent(receiver).map_err(|never| match never {});
    (sender, body.boxed_unsync())
}

//! The sockets: accepting connections within bounds, and stopping without cutting anybody short.

use std::{
    convert::Infallible,
    io,
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use hyper::{Request, body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::{
    rt::{TokioIo, TokioTimer},
    server::graceful::GracefulShutdown,
};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::{OwnedSemaphorePermit, Semaphore, watch},
    time::{sleep, timeout},
};

use crate::{
    answer::Answer, calls::Calls, config::Config, error::RunError, handler::Gateway,
    metrics::Metrics,
};

/// Bytes of a request's head.
const HEAD_BYTES: usize = 32 * 1024;
/// Connections to the metrics address at once.
const METRICS_CONNECTIONS: usize = 16;
/// Wait after a failed `accept` (too many open files, mostly): trying at once would only burn time.
const ACCEPT_BACKOFF: Duration = Duration::from_millis(20);

/// Serves until `stop` becomes true, then finishes what is in flight.
///
/// # Errors
/// [`RunError`] says what could not be set up.
pub async fn run(config: Config, stop: watch::Receiver<bool>) -> Result<(), RunError> {
    let public = listen(config.listen, "HTTP").await?;
    let metrics = match config.metrics_listen {
        Some(address) => Some(listen(address, "metrics").await?),
        None => None,
    };
    let stop_timeout = Duration::from_millis(config.stop_timeout_ms);
    let gateway = Arc::new(Gateway {
        calls: Calls::connect(&config)?,
        metrics: Metrics::new()?,
        config,
    });
    tracing::info!(address = %gateway.config.listen, vip = %gateway.config.vip, "serves HTTP");
    let scraping = metrics.map(|listener| {
        let gateway = Arc::clone(&gateway);
        tokio::spawn(serve_metrics(listener, gateway))
    });
    serve_public(public, gateway, stop, stop_timeout).await;
    if let Some(task) = scraping {
        task.abort();
    }
    Ok(())
}

async fn listen(address: SocketAddr, purpose: &'static str) -> Result<TcpListener, RunError> {
    let bound = TcpListener::bind(address).await;
    bound.map_err(|source| RunError::Listen {
        address,
        purpose,
        source,
    })
}

async fn serve_public(
    listener: TcpListener,
    gateway: Arc<Gateway>,
    mut stop: watch::Receiver<bool>,
    stop_timeout: Duration,
) {
    let places = Arc::new(Semaphore::new(gateway.config.max_connections));
    let graceful = GracefulShutdown::new();
    loop {
        let accepted = tokio::select! {
            accepted = accept(&listener, &places) => accepted,
            // A sender that is gone can say nothing any more: stop as well.
            _ = stop.wait_for(|stopped| *stopped) => break,
        };
        let Some((stream, peer, place)) = accepted else {
            continue;
        };
        let service = service_fn({
            let gateway = Arc::clone(&gateway);
            move |request: Request<Incoming>| {
                let gateway = Arc::clone(&gateway);
                async move { Ok::<Answer, Infallible>(gateway.serve(request, peer).await) }
            }
        });
        let connection =
            http(gateway.config.read_timeout_ms).serve_connection(TokioIo::new(stream), service);
        let connection = graceful.watch(connection);
        let gateway = Arc::clone(&gateway);
        tokio::spawn(async move {
            gateway.metrics.connections.inc();
            if let Err(error) = connection.await {
                tracing::debug!(%error, "an HTTP connection ended early");
            }
            gateway.metrics.connections.dec();
            drop(place);
        });
    }
    drop(listener);
    tracing::info!("stopping: no new connections are taken");
    if timeout(stop_timeout, graceful.shutdown()).await.is_err() {
        tracing::warn!("requests are cut short: the time to stop is over");
    }
}

async fn serve_metrics(listener: TcpListener, gateway: Arc<Gateway>) {
    let places = Arc::new(Semaphore::new(METRICS_CONNECTIONS));
    loop {
        let Some((stream, _peer, place)) = accept(&listener, &places).await else {
            continue;
        };
        let gateway = Arc::clone(&gateway);
        let read_timeout_ms = gateway.config.read_timeout_ms;
        let service = service_fn(move |request: Request<Incoming>| {
            let answer = gateway.serve_metrics(&request);
            async move { Ok::<Answer, Infallible>(answer) }
        });
        let connection = http(read_timeout_ms).serve_connection(TokioIo::new(stream), service);
        tokio::spawn(async move {
            if let Err(error) = connection.await {
                tracing::debug!(%error, "a metrics connection ended early");
            }
            drop(place);
        });
    }
}

/// The next connection with a place for it; `None` when there was a connection and it is lost.
async fn accept(
    listener: &TcpListener,
    places: &Arc<Semaphore>,
) -> Option<(TcpStream, IpAddr, OwnedSemaphorePermit)> {
    let place = Arc::clone(places).acquire_owned().await.ok()?;
    match listener.accept().await.and_then(prepared) {
        Ok((stream, peer)) => Some((stream, peer, place)),
        Err(error) => {
            tracing::warn!(%error, "a connection could not be accepted");
            sleep(ACCEPT_BACKOFF).await;
            None
        }
    }
}

fn prepared((stream, peer): (TcpStream, SocketAddr)) -> io::Result<(TcpStream, IpAddr)> {
    // Small answers leave at once.
    stream.set_nodelay(true)?;
    Ok((stream, peer.ip().to_canonical()))
}

fn http(read_timeout_ms: u64) -> http1::Builder {
    let mut builder = http1::Builder::new();
    builder
        .timer(TokioTimer::new())
        .header_read_timeout(Duration::from_millis(read_timeout_ms))
        .max_buf_size(HEAD_BYTES)
        .keep_alive(true);
    builder
}

//! The connections: one exchange each.

use std::{io, net::SocketAddr, sync::Arc, time::Duration};

use ebpf_common::wire::Ticket;
use hyper::{
    Method, Request, Response, StatusCode, body::Incoming, header::HeaderValue,
    server::conn::http1, service::service_fn,
};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::{Semaphore, mpsc, oneshot},
};
use warmpath_sdk::stream::PATH;

use super::{
    Claim, Desk, PIECE_BYTES_MAX, Refused, StreamLimits, StreamMetrics,
    answer::{AnswerBody, BrokeOff},
};

/// Wait after a failed `accept` (too many open files, mostly): trying at once would only burn time.
const ACCEPT_BACKOFF: Duration = Duration::from_millis(20);
/// Pieces on the way to a connection.
const PIECES_ON_THE_WAY: usize = 1;

/// Opens a desk at `address`, whose exchanges are served for as long as the future is polled.
///
/// # Errors
/// When the address is none of this host, or the port is taken.
pub async fn listen(
    address: SocketAddr,
    limits: StreamLimits,
    metrics: StreamMetrics,
) -> io::Result<(Arc<Desk>, impl Future<Output = ()> + Send)> {
    let listener = TcpListener::bind(address).await?;
    let desk = Desk::new(listener.local_addr()?, limits, metrics);
    Ok((Arc::clone(&desk), serve(listener, desk)))
}

async fn serve(listener: TcpListener, desk: Arc<Desk>) {
    let places = Arc::new(Semaphore::new(desk.limits().connections));
    let header_timeout = desk.limits().claim();
    // The semaphore is never closed.
    while let Ok(place) = Arc::clone(&places).acquire_owned().await {
        let stream = match listener.accept().await.and_then(prepared) {
            Ok(stream) => stream,
            Err(error) => {
                tracing::warn!(%error, "a connection for a stream could not be accepted");
                tokio::time::sleep(ACCEPT_BACKOFF).await;
                continue;
            }
        };
        let desk = Arc::clone(&desk);
        let service = service_fn(move |request| exchange(Arc::clone(&desk), request));
        let connection = http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(header_timeout)
            .max_buf_size(PIECE_BYTES_MAX)
            .keep_alive(false)
            .auto_date_header(false)
            .serve_connection(TokioIo::new(stream), service);
        tokio::spawn(async move {
            if let Err(error) = connection.await {
                tracing::debug!(%error, "a stream's connection ended early");
            }
            drop(place);
        });
    }
}

fn prepared((stream, _peer): (TcpStream, SocketAddr)) -> io::Result<TcpStream> {
    // Small pieces leave at once.
    stream.set_nodelay(true)?;
    Ok(stream)
}

/// One exchange: the answer begins when the handler's does. An error here closes the connection.
async fn exchange(
    desk: Arc<Desk>,
    request: Request<Incoming>,
) -> Result<Response<AnswerBody>, BrokeOff> {
    let ticket = (request.method() == Method::POST)
        .then(|| {
            request
                .uri()
                .path()
                .strip_prefix(PATH)?
                .parse::<Ticket>()
                .ok()
        })
        .flatten();
    let Some(ticket) = ticket else {
        desk.metrics().refused(Refused::Unknown);
        return Ok(refusal(Refused::Unknown));
    };
    let (claims, carried) = match desk.take(ticket) {
        Ok(taken) => taken,
        Err(refused) => return Ok(refusal(refused)),
    };
    let (said, hears) = oneshot::channel();
    let (sender, pieces) = mpsc::channel(PIECES_ON_THE_WAY);
    let claim = Claim {
        body: request.into_body(),
        said,
        pieces: sender,
        carried,
        limits: desk.limits().clone(),
    };
    // Whoever waited for it may have given up just now.
    claims.send(claim).or(Err(BrokeOff))?;
    let said = hears.await.or(Err(BrokeOff))?;
    Ok(said.head.map(|()| match said.whole {
        Some(bytes) => AnswerBody::Whole(Some(bytes)),
        None => AnswerBody::Pieces(pieces),
    }))
}

fn refusal(refused: Refused) -> Response<AnswerBody> {
    let (code, text) = match refused {
        Refused::Unknown => (
            StatusCode::NOT_FOUND,
            "streams are at /stream/<ticket>, and this is no ticket of ours\n",
        ),
        Refused::Used => (StatusCode::GONE, "this ticket has been used\n"),
        Refused::Expired => (StatusCode::GONE, "this ticket has expired\n"),
    };
    let mut response = Response::new(AnswerBody::text(text));
    *response.status_mut() = code;
    let kind = HeaderValue::from_static("text/plain");
    response
        .headers_mut()
        .insert(hyper::header::CONTENT_TYPE, kind);
    response
}

//! The store role: listen, serve, read records again now and then, stop in good order.

use std::{io, net::SocketAddr, sync::Arc, time::Duration};

use axum::Router;
use tokio::{net::TcpListener, sync::watch};
use tracing::{info, warn};

use crate::{
    api::routes::{self, Served},
    config::Config,
    metrics::Metrics,
    repository::{Repository, RepositoryError},
};

/// How long connections may finish after a stop was asked for.
const STOP_TIMEOUT: Duration = Duration::from_secs(5);

/// Why the store role ended.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// The object store cannot be opened.
    #[error("the store role cannot open its store")]
    Open(#[source] RepositoryError),
    /// The address is taken.
    #[error(
        "the store role cannot listen on {listen}: the address is in use; stop what uses it (`ss -ltnp`) or set `{key}` to another"
    )]
    AddressInUse {
        /// The address.
        listen: SocketAddr,
        /// The key that sets it.
        key: &'static str,
    },
    /// The address cannot be listened on.
    #[error(
        "the store role cannot listen on {listen}: check that `{key}` is an address of this host"
    )]
    Listen {
        /// The address.
        listen: SocketAddr,
        /// The key that sets it.
        key: &'static str,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The counters cannot be registered.
    #[error("the store role cannot register its metrics")]
    Metrics(#[source] prometheus::Error),
    /// Serving failed.
    #[error("the store role stopped serving on {listen}")]
    Serve {
        /// The address.
        listen: SocketAddr,
        /// Why.
        #[source]
        source: io::Error,
    },
}

/// The routes of the API over `repository`, for a process of one's own; long polls end when `stop`
/// becomes true.
///
/// # Errors
/// [`RunError::Metrics`].
pub fn router(
    repository: Arc<Repository>,
    stop: watch::Receiver<bool>,
) -> Result<Router, RunError> {
    let metrics = Metrics::new().map_err(RunError::Metrics)?;
    Ok(routes::routes(Served::new(repository, metrics, stop)))
}

/// Runs the store until `stop` becomes true.
///
/// # Errors
/// [`RunError`].
pub async fn run(config: Config, stop: watch::Receiver<bool>) -> Result<(), RunError> {
    let listener = bind(config.listen, "listen").await?;
    let repository = Repository::open(&config.path, config.limits.into())
        .await
        .map_err(RunError::Open)?
        .with_layer_limits(config.limits.for_layers());
    let repository = Arc::new(repository);
    match repository.collect_orphans().await {
        Ok(0) => {}
        Ok(removed) => info!(removed, "bundles and layers without a version removed"),
        Err(error) => warn!(%error, "cannot look for bundles and layers without a version"),
    }
    let metrics = Metrics::new().map_err(RunError::Metrics)?;
    let served = Served::new(Arc::clone(&repository), metrics, stop.clone());
    if let Some(listen) = config.metrics_listen {
        let listener = bind(listen, "metrics_listen").await?;
        let routes = routes::metrics_routes(served.clone());
        tokio::spawn(serve(listener, routes, stop.clone()));
    }
    tokio::spawn(rescan(
        repository,
        Duration::from_millis(config.rescan_ms),
        stop.clone(),
    ));
    info!(listen = %config.listen, path = %config.path.display(), "store is up");
    serve(listener, routes::routes(served), stop)
        .await
        .map_err(|source| RunError::Serve {
            listen: config.listen,
            source,
        })
}

/// Reads the records again at each `period`: another process may have changed them.
async fn rescan(repository: Arc<Repository>, period: Duration, mut stop: watch::Receiver<bool>) {
    loop {
        tokio::select! {
            _ = stop.wait_for(|stop| *stop) => return,
            () = tokio::time::sleep(period) => {}
        }
        if let Err(error) = repository.rescan().await {
            warn!(%error, "cannot read the records again: serving what was known");
        }
    }
}

async fn bind(listen: SocketAddr, key: &'static str) -> Result<TcpListener, RunError> {
    TcpListener::bind(listen).await.map_err(|source| {
        if source.kind() == io::ErrorKind::AddrInUse {
            RunError::AddressInUse { listen, key }
        } else {
            RunError::Listen {
                listen,
                key,
                source,
            }
        }
    })
}

/// Serves until `stop`, then lets requests finish for a while.
async fn serve(
    listener: TcpListener,
    routes: Router,
    stop: watch::Receiver<bool>,
) -> io::Result<()> {
    let mut graceful = stop.clone();
    let mut deadline = stop;
    let server = axum::serve(listener, routes).with_graceful_shutdown(async move {
        // An error means that the sender is gone, which is a stop as well.
        drop(graceful.wait_for(|stop| *stop).await);
    });
    tokio::select! {
        outcome = server => outcome,
        () = async move {
            drop(deadline.wait_for(|stop| *stop).await);
            tokio::time::sleep(STOP_TIMEOUT).await;
        } => {
            warn!("connections were still open when the time to stop ran out");
            Ok(())
        }
    }
}

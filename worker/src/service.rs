//! The worker role: everything started in the order it is needed, and stopped in the reverse.

use std::{
    future::pending,
    io,
    net::SocketAddr,
    sync::{Arc, Weak},
    time::Duration,
};

use axum::{Router, extract::State, http::StatusCode, response::IntoResponse, routing::get};
use balancer_userspace::membership::{
    client::MembershipClient,
    protocol::{Heartbeat, Hello},
};
use db::{Embedded, Local, engine::embedded::OpenError};
use prometheus::Registry;
use store::StoreClient;
use tokio::{
    net::TcpListener,
    sync::watch,
    task::{AbortHandle, JoinSet},
    time::timeout,
};
use warmpath_sdk::{Client, ClientConfig};

use crate::{
    api,
    catalog::Functions,
    code::CodeCache,
    config::Config,
    decap::Decap,
    deferred::{DeferredMetrics, Shelves},
    error::RunError,
    identity::Identity,
    load::Load,
    membership::{self, Assigned},
    metrics::{BillMetrics, Gauges, ReportMetrics, RpcMetrics, render},
    pool::{Pool, PoolConfig},
    report::Reporter,
    rpc::{Parts, Server},
    stream::{self, Desk, StreamMetrics},
    trigger::{self, Site, TriggerMetrics},
};

/// After the last request has ended its reply is still on its way or may be asked for once more, and
/// packets that the balancer sent before it knew are answered.
const LINGER: Duration = Duration::from_millis(100);

/// What runs once everything has started.
struct Running {
    load: Arc<Load>,
    pool: Arc<Pool>,
    server: Arc<Server<Arc<Pool>>>,
    /// The membership lasts as long as these two.
    heartbeats: Arc<watch::Sender<Heartbeat>>,
    publishing: AbortHandle,
    /// Every task of the role; they end with it.
    tasks: JoinSet<()>,
    sockets: Vec<AbortHandle>,
    /// Last: what the balancer still sends is taken until the end.
    decap: Option<Arc<Decap>>,
}

/// Runs the worker until `stop` becomes true, then finishes what is in flight.
///
/// # Errors
/// [`RunError`] says what could not be set up.
pub async fn run(config: Config, mut stop: watch::Receiver<bool>) -> Result<(), RunError> {
    let stop_timeout = config.stop_timeout();
    let mut running = start(config).await?;
    // A sender that is gone can say nothing any more: stop as well.
    drop(stop.wait_for(|stopped| *stopped).await);
    tracing::info!(
        in_flight = running.load.in_flight(),
        "stopping: no new requests are taken"
    );
    running.load.drain();
    running.server.dismiss_parked().await;
    if timeout(stop_timeout, running.load.idle()).await.is_err() {
        tracing::warn!(
            in_flight = running.load.in_flight(),
            "requests are cut short: the time to stop is over"
        );
    }
    // First the balancer is told that nobody is here, then nobody is.
    running.publishing.abort();
    drop(running.heartbeats);
    tokio::time::sleep(LINGER).await;
    for socket in &running.sockets {
        socket.abort();
    }
    running.pool.stop().await;
    running.tasks.shutdown().await;
    drop(running.decap);
    Ok(())
}

async fn start(config: Config) -> Result<Running, RunError> {
    let hello = if config.control_plane.is_empty() {
        None
    } else {
        Some(membership::hello(&config)?)
    };
    std::fs::create_dir_all(&config.state_dir).map_err(|source| RunError::StateDir {
        path: config.state_dir.clone(),
        source,
    })?;
    let registry = Registry::new();
    let decap = match &config.decap {
        Some(decap) => Some(Arc::new(Decap::start(decap, &registry)?)),
        None => None,
    };
    let mut tasks = JoinSet::new();

    let store = StoreClient::new(&config.store_url)?;
    let functions = Arc::new(Functions::of(store.clone()));
    tasks.spawn({
        let functions = Arc::clone(&functions);
        async move { functions.follow().await }
    });
    let router = Arc::new(start_db(&config, &registry, &mut tasks).await?);

    let code = CodeCache::new(store, config.state_dir.join("code"));
    let pool = PoolConfig {
        limits: config.pool.clone(),
        sandbox: config.sandbox.clone(),
        cpu_latency: config.cpu_latency.clone(),
        network: config.network.clone(),
        secrets: config.secrets.clone(),
        ..PoolConfig::new(config.name.clone(), config.state_dir.clone())
    };
    let pool = Pool::start(pool, code, Arc::clone(&router)).await?;
    let started = serve(
        config,
        hello,
        functions,
        router,
        Arc::clone(&pool),
        Told { registry, decap },
        tasks,
    )
    .await;
    if started.is_err() {
        pool.stop().await;
    }
    started
}

/// What is told to whoever scrapes, besides what the server itself counts.
struct Told {
    registry: Registry,
    decap: Option<Arc<Decap>>,
}

/// Opens the sockets, and joins the control plane once requests can be served.
async fn serve(
    config: Config,
    hello: Option<Hello>,
    functions: Arc<Functions>,
    router: Arc<db::Router>,
    pool: Arc<Pool>,
    told: Told,
    mut tasks: JoinSet<()>,
) -> Result<Running, RunError> {
    let Told { registry, decap } = told;
    let load = Arc::new(Load::new(config.capacity));
    let identity = Arc::new(Identity::unassigned());
    let parts = Parts {
        invoker: Arc::clone(&pool),
        functions: Arc::clone(&functions),
        identity: Arc::clone(&identity),
        load: Arc::clone(&load),
        metrics: RpcMetrics::register(&registry)?,
        feeds: Arc::clone(&router),
        park: config.park.clone(),
    };
    let report_metrics = ReportMetrics::register(&registry)?;
    let server = Server::new(parts, config.rpc.clone());
    server.believe(config.bill.clone());
    let (mut sockets, mut here) = (Vec::new(), None);
    for address in config.vips.iter().chain(&config.direct_listen) {
        let (address, task) = server.listen(*address)?;
        sockets.push(task.abort_handle());
        tracing::info!(%address, "serves RPCs");
        here = Some(address);
    }
    let mut triggers = None;
    if let Some(here) = here {
        let shelves = Shelves::new(
            Arc::clone(&router),
            Arc::clone(&functions),
            config.deferred.clone(),
            DeferredMetrics::register(&registry)?,
        );
        server.keep_calls(Arc::clone(&shelves));
        let client = Client::connect(here, ClientConfig::default())?;
        let slots = config.db.slots.clone();
        shelves.serve(|slot| slots.contains(slot), &client, &load, &mut tasks);
        let site = Site {
            shelves,
            functions: Arc::clone(&functions),
            client,
            load: Arc::clone(&load),
            metrics: TriggerMetrics::register(&registry)?,
        };
        let site = Arc::new(site);
        triggers = Some(Arc::clone(&site));
        trigger::serve(site, move |slot| slots.contains(slot), &mut tasks);
    }
    if config.stream.enabled {
        let desk = serve_streams(&config, &registry, &mut tasks).await?;
        server.open_streams(desk);
    }
    if let Some(address) = config.metrics_listen {
        let metrics = Metrics {
            gauges: Gauges::register(&registry, pool.thaw_seconds(), pool.rootfs())?,
            bills: BillMetrics::register(&registry)?,
            registry,
            load: Arc::clone(&load),
            pool: Arc::clone(&pool),
            server: Arc::clone(&server),
            decap: decap.as_ref().map(Arc::downgrade),
            triggers,
        };
        let routes = Router::new()
            .route("/metrics", get(show_metrics))
            .route("/healthz", get(async || "ok\n"))
            .with_state(Arc::new(metrics));
        serve_http(address, "metrics", routes, &mut tasks).await?;
    }

    let admin = api::bind(&config.state_dir)?;
    let routes = api::router(
        Arc::clone(&pool),
        Arc::clone(&server),
        Arc::clone(&functions),
    );
    tasks.spawn(serve_routes(admin, "admin", routes));

    // Last: from here on the balancer sends requests.
    let (heartbeats, receiver) =
        watch::channel(membership::heartbeat(&load, &pool.warm().borrow(), &[]));
    let (kept, kept_told) = watch::channel(Vec::new());
    let heartbeats = Arc::new(heartbeats);
    let published = membership::publish(
        Arc::clone(&load),
        pool.warm(),
        kept_told,
        Arc::clone(&heartbeats),
    );
    let publishing = tasks.spawn(published);
    if let Some(hello) = hello {
        let join = |address: &SocketAddr| {
            MembershipClient::spawn(*address, hello.clone(), receiver.clone())
        };
        let control_planes = config.control_plane.iter().map(join).collect();
        let reporter = Reporter::start(Arc::clone(&load), report_metrics.clone())
            .map_err(|source| RunError::Thread { source })?;
        let (warmth, wanted) = watch::channel(Vec::new());
        let assigned = Assigned {
            identity,
            router,
            reporter,
            warmth,
            metrics: report_metrics,
            disagreement: None,
        };
        tasks.spawn(membership::follow(control_planes, assigned));
        tasks.spawn(membership::keep_warm(
            wanted,
            functions,
            Arc::clone(&pool),
            kept,
        ));
    } else {
        tracing::warn!("no `control_plane`: only direct calls arrive here");
    }
    Ok(Running {
        load,
        pool,
        server,
        heartbeats,
        publishing,
        tasks,
        sockets,
        decap,
    })
}

/// Opens the shard of this host, if it has one, and serves it to the other workers.
async fn start_db(
    config: &Config,
    registry: &Registry,
    tasks: &mut JoinSet<()>,
) -> Result<db::Router, RunError> {
    let metrics = db::Metrics::register(registry)?;
    if config.db.slots.is_empty() {
        return Ok(db::Router::new(None, metrics));
    }
    let path = config.state_dir.join("db");
    let engine = tokio::task::spawn_blocking({
        let metrics = metrics.clone();
        move || -> Result<Embedded, OpenError> {
            Embedded::open(&path, db::Options::default(), &metrics)
        }
    });
    let local = Local {
        engine: Arc::new(engine.await??),
        slots: config.db.slots.clone(),
    };
    if let Some(address) = config.db.listen {
        let routes = db::server::router(local.clone(), metrics.clone());
        serve_http(address, "the database", routes, tasks).await?;
    }
    tracing::info!(slots = %config.db.slots, "owns slots of the database");
    Ok(db::Router::new(Some(local), metrics))
}

/// Serves streams, and tells where.
async fn serve_streams(
    config: &Config,
    registry: &Registry,
    tasks: &mut JoinSet<()>,
) -> Result<Arc<Desk>, RunError> {
    let wanted = config.stream_listen();
    let metrics = StreamMetrics::register(registry)?;
    let listening = stream::listen(wanted, config.stream.clone(), metrics).await;
    let (desk, serving) = listening.map_err(|source| RunError::Listen {
        address: wanted,
        purpose: "streams",
        source,
    })?;
    tasks.spawn(serving);
    tracing::info!(address = %desk.address(), "serves streams");
    Ok(desk)
}

async fn serve_http(
    address: SocketAddr,
    purpose: &'static str,
    routes: Router,
    tasks: &mut JoinSet<()>,
) -> Result<(), RunError> {
    let refused = |source: io::Error| RunError::Listen {
        address,
        purpose,
        source,
    };
    let listener = TcpListener::bind(address).await.map_err(refused)?;
    tasks.spawn(serve_routes(listener, purpose, routes));
    Ok(())
}

async fn serve_routes<L>(listener: L, purpose: &'static str, routes: Router)
where
    L: axum::serve::Listener,
    L::Addr: std::fmt::Debug,
{
    if let Err(error) = axum::serve(listener, routes).await {
        tracing::error!(%error, purpose, "an HTTP server of the worker ended");
        pending::<()>().await;
    }
}

struct Metrics {
    gauges: Gauges,
    bills: BillMetrics,
    registry: Registry,
    load: Arc<Load>,
    pool: Arc<Pool>,
    server: Arc<Server<Arc<Pool>>>,
    /// Whoever scrapes at the end does not keep the program attached.
    decap: Option<Weak<Decap>>,
    triggers: Option<Arc<Site>>,
}

async fn show_metrics(State(metrics): State<Arc<Metrics>>) -> impl IntoResponse {
    let size = metrics.server.size();
    let parked = metrics.server.parked();
    metrics.server.show_streams();
    if let Some(decap) = metrics.decap.as_ref().and_then(Weak::upgrade) {
        decap.show();
    }
    let pool = &metrics.pool;
    let (numbers, cpu_latency) = (pool.snapshot(), pool.cpu_latency());
    metrics
        .gauges
        .show(&metrics.load, size, parked, &numbers, &cpu_latency);
    if let Some(site) = &metrics.triggers {
        site.metrics.show(site.shelves.board());
        site.shelves.show();
    }
    metrics.bills.show(metrics.pool.bills_by_function());
    match render(&metrics.registry) {
        Ok(text) => (StatusCode::OK, text),
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, error.to_string()),
    }
}

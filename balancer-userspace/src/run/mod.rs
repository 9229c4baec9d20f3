//! The role: everything put together, in the order that loses no packet, and taken apart again.

mod files;
mod interfaces;

use std::{io, net::SocketAddr, path::PathBuf, sync::Arc, time::Duration};

use store::StoreClient;
use thiserror::Error;
use tokio::{
    net::TcpListener,
    sync::{mpsc, watch},
    task::JoinSet,
};
use tracing::{info, warn};

use crate::{
    api::routes::{self, Admin},
    catalog::{self, Catalog},
    config::Config,
    controller::{Controller, Events, PortsEvent, ProgramInfo, Start},
    history::{History, HistoryError},
    key_secret::SecretError,
    maps::{
        AttachError, Counters, DataPlane, KernelMaps, LoadError, PrivilegeError, ReadError,
        check_privilege,
    },
    membership::{
        persist::{PersistError, Persisted},
        server::{ConnectionEvent, Server, Terms},
        state::JoinError,
    },
    metrics::Metrics,
    object::object,
    ports::PortsError,
    reconcile::tables::ActualTables,
};

/// Events that may wait for the controller before their senders do.
const QUEUE: usize = 4_096;

/// Why the control plane ended.
#[derive(Debug, Error)]
pub enum RunError {
    /// We may not.
    #[error(transparent)]
    Privilege(#[from] PrivilegeError),
    /// Another one runs.
    #[error(
        "another control plane holds {path}: stop it first, or use another admin_socket and pin_path"
    )]
    Running {
        /// The lock file.
        path: PathBuf,
    },
    /// A file or directory of ours cannot be used.
    #[error("cannot {what} {path}{}", file_mend(.source))]
    File {
        /// What was attempted.
        what: &'static str,
        /// On what.
        path: PathBuf,
        /// The cause.
        #[source]
        source: io::Error,
    },
    /// The token file has no token in it.
    #[error("{path} is empty: write a secret into it, the same as in the workers' token_file")]
    EmptyToken {
        /// The file.
        path: PathBuf,
    },
    /// The file of the keys' secret has too little in it.
    #[error("the secret of the keys, {path}")]
    KeySecret {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        #[source]
        source: SecretError,
    },
    /// The network interfaces cannot be listed.
    #[error(transparent)]
    Ports(#[from] PortsError),
    /// The program is not in the kernel.
    #[error(transparent)]
    Load(#[from] LoadError),
    /// The program is not attached.
    #[error(transparent)]
    Attach(#[from] AttachError),
    /// The maps cannot be read.
    #[error(transparent)]
    Read(#[from] ReadError),
    /// The maps cannot be read at the start.
    #[error("cannot read what the pinned maps hold")]
    Tables(#[source] Box<aya::maps::MapError>),
    /// The state file cannot be used.
    #[error(transparent)]
    Persist(#[from] PersistError),
    /// The applied policies cannot be used.
    #[error(transparent)]
    History(#[from] HistoryError),
    /// The static workers do not fit.
    #[error("cannot take in the workers of the configuration")]
    StaticWorkers(#[from] JoinError),
    /// Workers would send LOAD packets to a VIP.
    #[error(
        "vip {vip} is where workers would send LOAD packets, {load}: set [load] address or port to another that no VIP has"
    )]
    LoadAddress {
        /// The VIP.
        vip: String,
        /// The LOAD address.
        load: SocketAddr,
    },
    /// An address cannot be listened at.
    #[error("cannot listen at {addr} for {what}{}", bind_mend(.source))]
    Bind {
        /// For what.
        what: &'static str,
        /// The address.
        addr: SocketAddr,
        /// The cause.
        #[source]
        source: io::Error,
    },
    /// The store's URL is not one.
    #[error("cannot follow the store")]
    Store(#[source] Box<store::ClientError>),
    /// The metrics cannot be set up.
    #[error("cannot set up the metrics")]
    Metrics(#[from] prometheus::Error),
}

fn file_mend(error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::PermissionDenied => ": run as root, or give this user access",
        io::ErrorKind::NotFound => ": make it, or correct the configuration",
        _ => "",
    }
}

fn bind_mend(error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::AddrInUse => {
            ": another process listens there; stop it or choose another port"
        }
        io::ErrorKind::AddrNotAvailable => {
            ": this machine (or namespace) does not have that address"
        }
        _ => "",
    }
}

/// Runs the control plane until `stop` becomes true. The data plane goes on without it: see
/// [`crate::maps::detach`] for how to take that down.
///
/// # Errors
/// [`RunError`], at the start only.
pub async fn run(config: Config, stop: watch::Receiver<bool>) -> Result<(), RunError> {
    check_privilege()?;
    let _lock = files::lock(&config)?;
    // What can fail for want of a port or a file fails before anything in the kernel changes.
    let (connections, connection_events) = mpsc::channel(QUEUE);
    let outside = Outside::open(&config, connections).await?;
    let metrics = Arc::new(Metrics::new()?);
    let own_functions = Catalog::of_config(&config.functions).with_platform();
    let persisted = Persisted::read(&config.state_file())?;
    let key_secret = config.keys.secret_file.as_deref();
    let key_secret = key_secret.map(files::read_key_secret).transpose()?;

    let (revision, policy) = History::new(config.policy_dir())
        .last(&config)?
        .unwrap_or_else(|| (0, config.policy()));
    let ports = interfaces::ports(&config.interfaces)?;
    interfaces::check_load_address(&config, &policy, ports.own_address())?;

    let kernel = Kernel::open(&config)?;
    metrics.set_adopted(kernel.program.adopted);
    if kernel.program.adopted && persisted.is_none() {
        warn!(
            "maps were adopted but the state file is gone: workers may get other ids, so cookies, sessions and flows of \
             before are not followed"
        );
    }
    let start = Start {
        policy,
        revision,
        actual: kernel.tables()?,
        persisted,
        ports: kernel.ports.clone(),
        catalog: outside.store.is_none().then(|| own_functions.clone()),
        metrics: Arc::clone(&metrics),
        program: kernel.program,
        key_secret,
        table_rows: kernel.maps.table_rows(),
        config: config.clone(),
    };
    let controller = Controller::new(start, kernel.maps)?;

    let (catalogs, catalog_events) = mpsc::channel(1);
    let (commands, command_events) = mpsc::channel(QUEUE);
    let (port_changes, port_events) = mpsc::channel(1);
    let admin = Admin::new(commands, config.pin_path.clone(), config.policy_dir());
    let admin_listener = files::bind_admin(&config.admin_socket)?;
    let mut tasks = JoinSet::new(); // aborts them when the controller has ended
    tasks.spawn(files::serve(
        "admin API",
        admin_listener,
        routes::admin(admin.clone()),
    ));
    if let Some(listener) = outside.metrics {
        let router = routes::metrics(metrics, kernel.counters, admin);
        tasks.spawn(files::serve("metrics", listener, router));
    }
    if let Some(server) = outside.server {
        tasks.spawn(server.run());
    }
    if let Some(store) = outside.store {
        tasks.spawn(catalog::follow(store, own_functions, catalogs));
    }
    tasks.spawn(interfaces::watch_ports(
        kernel.data_plane,
        config.interfaces.clone(),
        kernel.ports,
        port_changes,
    ));

    info!(admin_socket = %config.admin_socket.display(), "control plane runs");
    let events = Events {
        connections: connection_events,
        catalogs: catalog_events,
        ports: port_events,
        commands: command_events,
    };
    controller.run(events, stop).await;
    files::remove_socket(&config.admin_socket);
    info!("control plane stopped; the data plane goes on");
    Ok(())
}

/// What connects us to others.
struct Outside {
    server: Option<Server>,
    metrics: Option<TcpListener>,
    store: Option<StoreClient>,
}

impl Outside {
    async fn open(
        config: &Config,
        connections: mpsc::Sender<ConnectionEvent>,
    ) -> Result<Self, RunError> {
        let server = match &config.membership {
            None => None,
            Some(membership) => {
                let terms = Terms {
                    token: files::read_token(&membership.token_file)?,
                    heartbeat_ms: membership.heartbeat_ms,
                    lease: Duration::from_millis(membership.lease_ms.into()),
                };
                let bound = Server::bind(membership.listen, terms, connections).await;
                Some(bound.map_err(|source| RunError::Bind {
                    what: "membership",
                    addr: membership.listen,
                    source,
                })?)
            }
        };
        let store = config
            .store_url
            .as_deref()
            .map(StoreClient::new)
            .transpose();
        Ok(Self {
            server,
            metrics: files::bind_metrics(config.metrics_listen).await?,
            store: store.map_err(|source| RunError::Store(Box::new(source)))?,
        })
    }
}

/// What is in the kernel.
struct Kernel {
    data_plane: DataPlane,
    maps: KernelMaps,
    counters: Counters,
    ports: PortsEvent,
    program: ProgramInfo,
}

impl Kernel {
    fn tables(&self) -> Result<ActualTables, RunError> {
        let tables = self.maps.read();
        tables.map_err(|source| RunError::Tables(Box::new(source)))
    }

    fn open(config: &Config) -> Result<Self, RunError> {
        let object = object().map_err(LoadError::from)?;
        let mut data_plane = DataPlane::open(object, &config.pin_path, &config.limits)?;
        let ports = interfaces::attach_all(&mut data_plane, &config.interfaces)?;
        Ok(Self {
            maps: data_plane.maps()?,
            counters: Counters::open(&config.pin_path)?,
            ports,
            program: ProgramInfo {
                id: data_plane.program_id(),
                tag: data_plane.program_tag(),
                adopted: data_plane.is_adopted(),
            },
            data_plane,
        })
    }
}

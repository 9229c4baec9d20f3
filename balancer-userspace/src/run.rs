//! The role: everything put together, in the order that loses no packet, and taken apart again.

use std::{
    fs, io,
    net::SocketAddr,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use axum::Router;
use nix::fcntl::{Flock, FlockArg};
use store::StoreClient;
use thiserror::Error;
use tokio::{
    net::{TcpListener, UnixListener},
    sync::{mpsc, watch},
    task::JoinSet,
    time::{MissedTickBehavior, interval},
};
use tracing::{error, info, warn};

use crate::{
    api::{
        routes::{self, Admin},
        types::InterfaceStatus,
    },
    catalog::{self, Catalog},
    config::{Config, InterfaceConfig},
    controller::{Controller, Events, PortsEvent, ProgramInfo, Start},
    maps::{
        AttachError, Attachment, Counters, DataPlane, LoadError, PrivilegeError, ReadError,
        check_privilege,
    },
    membership::{
        persist::{PersistError, Persisted},
        server::{Server, Terms},
        state::JoinError,
    },
    metrics::Metrics,
    object::object,
    ports::{Ports, PortsError},
    rate_limit::RateLimit,
};

/// How often our interfaces are looked at: one that is made anew gets the program back by then.
const LOOK_AT_PORTS: Duration = Duration::from_millis(200);
/// Events that may wait for the controller before their senders do.
const QUEUE: usize = 4_096;
const LOG_EVERY: Duration = Duration::from_secs(10);
/// Owner and group may speak to the admin API.
const SOCKET_MODE: u32 = 0o660;

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
    /// The static workers do not fit.
    #[error("cannot take in the workers of the configuration")]
    StaticWorkers(#[from] JoinError),
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
    let _lock = lock(&config)?;
    let token = config
        .membership
        .as_ref()
        .map(|terms| read_token(&terms.token_file))
        .transpose()?;
    let metrics = Arc::new(Metrics::new()?);

    // What can fail for want of a port or a file fails before anything in the kernel changes.
    let (connections, connection_events) = mpsc::channel(QUEUE);
    let server = match (&config.membership, token) {
        (Some(membership), Some(token)) => {
            let terms = Terms {
                token,
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
        _ => None,
    };
    let metrics_listener = bind_metrics(config.metrics_listen).await?;
    let store = config
        .store_url
        .as_deref()
        .map(StoreClient::new)
        .transpose();
    let store = store.map_err(|source| RunError::Store(Box::new(source)))?;
    let persisted = Persisted::read(&config.state_file())?;

    let mut data_plane = DataPlane::open(
        object().map_err(LoadError::from)?,
        &config.pin_path,
        &config.limits,
    )?;
    metrics.set_adopted(data_plane.is_adopted());
    if data_plane.is_adopted() && persisted.is_none() {
        warn!("maps were adopted but the state file is gone: workers may get other ids");
    }
    let ports = attach_all(&mut data_plane, &config.interfaces)?;
    let maps = data_plane.maps()?;
    let actual = maps
        .read()
        .map_err(|source| RunError::Tables(Box::new(source)))?;
    let counters = Counters::open(&config.pin_path)?;

    let (catalogs, catalog_events) = mpsc::channel(1);
    let (commands, command_events) = mpsc::channel(QUEUE);
    let (port_changes, port_events) = mpsc::channel(1);
    let own_functions = Catalog::of_config(&config.functions);
    let controller = Controller::new(
        Start {
            actual,
            persisted,
            ports: ports.clone(),
            catalog: store.is_none().then(|| own_functions.clone()),
            metrics: Arc::clone(&metrics),
            program: ProgramInfo {
                id: data_plane.program_id(),
                tag: data_plane.program_tag(),
                adopted: data_plane.is_adopted(),
            },
            config: config.clone(),
        },
        maps,
    )?;

    let admin = Admin::new(commands, config.pin_path.clone());
    let admin_listener = bind_admin(&config.admin_socket)?;
    // Aborted when it is dropped, which is after the controller has ended.
    let mut tasks = JoinSet::new();
    tasks.spawn(serve("admin API", admin_listener, routes::admin(admin)));
    if let Some(listener) = metrics_listener {
        tasks.spawn(serve(
            "metrics",
            listener,
            routes::metrics(metrics, counters),
        ));
    }
    if let Some(server) = server {
        tasks.spawn(server.run());
    }
    if let Some(store) = store {
        tasks.spawn(catalog::follow(store, own_functions, catalogs));
    }
    tasks.spawn(watch_ports(
        data_plane,
        config.interfaces.clone(),
        ports,
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
    remove_socket(&config.admin_socket);
    info!("control plane stopped; the data plane goes on");
    Ok(())
}

fn lock(config: &Config) -> Result<Flock<fs::File>, RunError> {
    let path = config.lock_file();
    let file_error = |what, path: &Path| {
        let path = path.to_owned();
        move |source| RunError::File { what, path, source }
    };
    if let Some(directory) = path.parent() {
        fs::create_dir_all(directory).map_err(file_error("make the directory", directory))?;
    }
    let file = fs::File::create(&path).map_err(file_error("open the lock file", &path))?;
    Flock::lock(file, FlockArg::LockExclusiveNonblock).map_err(|_held| RunError::Running { path })
}

fn read_token(path: &Path) -> Result<Vec<u8>, RunError> {
    let text = fs::read_to_string(path).map_err(|source| RunError::File {
        what: "read the token file",
        path: path.to_owned(),
        source,
    })?;
    // A final newline is the editor's.
    let token = text.trim();
    if token.is_empty() {
        return Err(RunError::EmptyToken {
            path: path.to_owned(),
        });
    }
    Ok(token.as_bytes().to_vec())
}

async fn bind_metrics(addr: Option<SocketAddr>) -> Result<Option<TcpListener>, RunError> {
    let Some(addr) = addr else {
        return Ok(None);
    };
    let listener = TcpListener::bind(addr).await;
    listener.map(Some).map_err(|source| RunError::Bind {
        what: "metrics",
        addr,
        source,
    })
}

/// Binds beside and renames over, so that nobody finds the socket with another mode, and one that a
/// killed process left is replaced. The lock says that no living process has it.
fn bind_admin(path: &Path) -> Result<UnixListener, RunError> {
    let file_error = |source| RunError::File {
        what: "make the admin socket",
        path: path.to_owned(),
        source,
    };
    let beside = path.with_extension("new");
    remove_socket(&beside);
    let listener = UnixListener::bind(&beside).map_err(file_error)?;
    fs::set_permissions(&beside, fs::Permissions::from_mode(SOCKET_MODE)).map_err(file_error)?;
    fs::rename(&beside, path).map_err(file_error)?;
    Ok(listener)
}

fn remove_socket(path: &Path) {
    if let Err(error) = fs::remove_file(path)
        && error.kind() != io::ErrorKind::NotFound
    {
        warn!(path = %path.display(), %error, "socket not removed");
    }
}

async fn serve<L>(what: &'static str, listener: L, router: Router)
where
    L: axum::serve::Listener,
    L::Addr: std::fmt::Debug,
{
    if let Err(error) = axum::serve(listener, router).await {
        error!(%error, what, "server ended");
    }
}

/// Attaches the program to every interface, or says why not.
fn attach_all(
    data_plane: &mut DataPlane,
    interfaces: &[InterfaceConfig],
) -> Result<PortsEvent, RunError> {
    let names: Vec<String> = interfaces
        .iter()
        .map(|interface| interface.name.clone())
        .collect();
    let ports = Ports::read(&names)?;
    let attached = data_plane.attach(interfaces, &ports)?;
    let attached: Vec<Attachment> = attached.into_iter().collect::<Result<_, _>>()?;
    let interfaces = interfaces
        .iter()
        .map(|interface| interface_status(interface, &ports, attached.iter()))
        .collect();
    Ok(PortsEvent { ports, interfaces })
}

fn interface_status<'a>(
    interface: &InterfaceConfig,
    ports: &Ports,
    mut attached: impl Iterator<Item = &'a Attachment>,
) -> InterfaceStatus {
    InterfaceStatus {
        name: interface.name.clone(),
        ifindex: ports.named(&interface.name).map(|port| port.ifindex),
        mode: attached
            .find(|attachment| attachment.interface == interface.name)
            .map(|attachment| attachment.mode.name().to_owned()),
    }
}

/// Notices interfaces that go, come back or change, attaches the program anew where it must, and tells
/// the controller.
async fn watch_ports(
    mut data_plane: DataPlane,
    interfaces: Vec<InterfaceConfig>,
    mut last: PortsEvent,
    changes: mpsc::Sender<PortsEvent>,
) {
    let names: Vec<String> = interfaces
        .iter()
        .map(|interface| interface.name.clone())
        .collect();
    let mut ticks = interval(LOOK_AT_PORTS);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut log = RateLimit::new(LOG_EVERY);
    loop {
        ticks.tick().await;
        let is_attached = last
            .interfaces
            .iter()
            .all(|interface| interface.mode.is_some());
        let ports = match Ports::read(&names) {
            Ok(ports) if ports == last.ports && is_attached => continue,
            Ok(ports) => ports,
            Err(error) => {
                if let Some(suppressed) = log.allow() {
                    warn!(
                        error = &error as &dyn std::error::Error,
                        suppressed, "interfaces unknown"
                    );
                }
                continue;
            }
        };
        let attached = attach_where_possible(&mut data_plane, &interfaces, &ports, &mut log);
        let event = PortsEvent {
            interfaces: interfaces
                .iter()
                .map(|interface| interface_status(interface, &ports, attached.iter()))
                .collect(),
            ports,
        };
        if event.ports == last.ports && event.interfaces == last.interfaces {
            continue;
        }
        info!(interfaces = ?event.interfaces, "interfaces changed");
        last = event.clone();
        if changes.send(event).await.is_err() {
            return;
        }
    }
}

fn attach_where_possible(
    data_plane: &mut DataPlane,
    interfaces: &[InterfaceConfig],
    ports: &Ports,
    log: &mut RateLimit,
) -> Vec<Attachment> {
    let results = match data_plane.attach(interfaces, ports) {
        Ok(results) => results,
        Err(error) => vec![Err(error)],
    };
    let mut attached = Vec::new();
    for result in results {
        match result {
            Ok(attachment) => attached.push(attachment),
            Err(error) => {
                if let Some(suppressed) = log.allow() {
                    let error = &error as &dyn std::error::Error;
                    error!(
                        error,
                        suppressed, "the program is not attached; tried again until it is"
                    );
                }
            }
        }
    }
    attached
}

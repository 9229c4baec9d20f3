//! The files, sockets and ports that the role holds.

use std::{fs, io, net::SocketAddr, os::unix::fs::PermissionsExt, path::Path};

use axum::Router;
use nix::fcntl::{Flock, FlockArg};
use tokio::net::{TcpListener, UnixListener};
use tracing::{error, warn};

use super::RunError;
use crate::{config::Config, key_secret::KeySecret};

/// Owner and group may speak to the admin API.
const SOCKET_MODE: u32 = 0o660;

pub(super) fn lock(config: &Config) -> Result<Flock<fs::File>, RunError> {
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

pub(super) fn read_token(path: &Path) -> Result<Vec<u8>, RunError> {
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

pub(super) fn read_key_secret(path: &Path) -> Result<KeySecret, RunError> {
    let text = fs::read_to_string(path).map_err(|source| RunError::File {
        what: "read the secret of the keys",
        path: path.to_owned(),
        source,
    })?;
    KeySecret::parse(&text).map_err(|source| RunError::KeySecret {
        path: path.to_owned(),
        source,
    })
}

pub(super) async fn bind_metrics(
    addr: Option<SocketAddr>,
) -> Result<Option<TcpListener>, RunError> {
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
pub(super) fn bind_admin(path: &Path) -> Result<UnixListener, RunError> {
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

pub(super) fn remove_socket(path: &Path) {
    if let Err(error) = fs::remove_file(path)
        && error.kind() != io::ErrorKind::NotFound
    {
        warn!(path = %path.display(), %error, "socket not removed");
    }
}

pub(super) async fn serve<L>(what: &'static str, listener: L, router: Router)
where
    L: axum::serve::Listener,
    L::Addr: std::fmt::Debug,
{
    if let Err(error) = axum::serve(listener, router).await {
        error!(%error, what, "server ended");
    }
}

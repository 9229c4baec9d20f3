//! The files, sockets and ports that the role holds.

use std::{
    fs, io,
    net::SocketAddr,
    os::unix::fs::{MetadataExt, PermissionsExt},
    path::Path,
};

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
    let token = read_secret("read the token file", path)?;
    if token.is_empty() {
        return Err(RunError::EmptyToken {
            path: path.to_owned(),
        });
    }
    Ok(token.into_bytes())
}

pub(super) fn read_key_secret(path: &Path) -> Result<KeySecret, RunError> {
    let secret = read_secret("read the secret of the keys", path)?;
    KeySecret::parse(&secret).map_err(|source| RunError::KeySecret {
        path: path.to_owned(),
        source,
    })
}

/// Reads a text that nobody else should know. A final newline is the editor's.
fn read_secret(what: &'static str, path: &Path) -> Result<String, RunError> {
    let file_error = |source| RunError::File {
        what,
        path: path.to_owned(),
        source,
    };
    let text = fs::read_to_string(path).map_err(file_error)?;
    if is_anybodys(&fs::metadata(path).map_err(file_error)?) {
        let path = path.display();
        warn!(%path, "anybody can read this secret or change it: `chmod o= {path}`");
    }
    Ok(text.trim().to_owned())
}

/// Whether those may read or write it that are neither its owner nor of its group.
fn is_anybodys(file: &fs::Metadata) -> bool {
    file.mode() & 0o006 != 0
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_are_read_without_white_space_and_refused_when_there_is_none() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("secret");
        let missing = read_token(&path).unwrap_err().to_string();
        assert!(missing.contains(path.to_str().unwrap()), "{missing}");
        fs::write(&path, " \n").unwrap();
        assert!(matches!(
            read_token(&path),
            Err(RunError::EmptyToken { .. })
        ));
        assert!(matches!(
            read_key_secret(&path),
            Err(RunError::KeySecret { .. })
        ));
        fs::write(&path, "0123456789abcdef0123456789abcdef\n").unwrap();
        assert_eq!(read_token(&path).unwrap().len(), 32);
        assert!(read_key_secret(&path).is_ok());
    }

    #[test]
    fn a_file_that_anybody_may_read_or_write_is_known() {
        let file = tempfile::NamedTempFile::new().unwrap();
        for (mode, expected) in [(0o600, false), (0o660, false), (0o604, true), (0o602, true)] {
            fs::set_permissions(file.path(), fs::Permissions::from_mode(mode)).unwrap();
            let found = is_anybodys(&file.path().metadata().unwrap());
            assert_eq!(found, expected, "{mode:o}");
        }
    }
}

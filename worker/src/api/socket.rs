//! The admin socket.

use std::{
    fs, io,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
};

use tokio::net::UnixListener;

use super::SOCKET;

/// For the owner and the group; nobody else sees what functions print.
const MODE: u32 = 0o660;

/// The socket cannot be made.
#[derive(Debug, thiserror::Error)]
#[error("cannot make the admin socket {}", .path.display())]
pub struct SocketError {
    /// The socket.
    pub path: PathBuf,
    /// What the kernel said.
    #[source]
    pub source: io::Error,
}

/// Listens in `state_dir`. Binds beside and renames over, so that nobody finds the socket with another mode, and
/// one that a killed worker left is replaced; the lock on the worker's cgroup says that it does not live.
///
/// # Errors
/// [`SocketError`].
pub(crate) fn bind(state_dir: &Path) -> Result<UnixListener, SocketError> {
    let path = state_dir.join(SOCKET);
    let failed = |source| SocketError {
        path: path.clone(),
        source,
    };
    let beside = path.with_extension("new");
    match fs::remove_file(&beside) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(failed(error)),
        _ => {}
    }
    let listener = UnixListener::bind(&beside).map_err(failed)?;
    fs::set_permissions(&beside, fs::Permissions::from_mode(MODE)).map_err(failed)?;
    fs::rename(&beside, &path).map_err(failed)?;
    Ok(listener)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn replaces_what_a_killed_worker_left_and_lets_nobody_else_in() {
        let dir = tempfile::tempdir().unwrap();
        drop(bind(dir.path()).unwrap());
        let _again = bind(dir.path()).unwrap();
        let mode = fs::metadata(dir.path().join(SOCKET)).unwrap().permissions();
        assert_eq!(mode.mode() & 0o777, MODE);
        let nowhere = bind(&dir.path().join("absent")).unwrap_err();
        assert!(nowhere.to_string().contains("absent/worker.sock"));
    }
}

//! The runtimes' libraries. They are part of this binary, so that the binary is all a worker needs; a worker writes
//! them to its state directory when it starts, and every sandbox has that read-only.

use std::{
    io,
    path::{Path, PathBuf},
};

use super::ALL;

/// A library could not be written.
#[derive(Debug, thiserror::Error)]
#[error("cannot write the runtimes' libraries to {path}")]
pub struct InstallError {
    path: PathBuf,
    #[source]
    source: io::Error,
}

/// Writes the libraries of all runtimes into the directory `library`, replacing what is there.
///
/// # Errors
/// When the directory cannot be written.
pub fn install(library: &Path) -> Result<(), InstallError> {
    let failed = |path: &Path| {
        let path = path.to_owned();
        move |source| InstallError { path, source }
    };
    match std::fs::remove_dir_all(library) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            return Err(failed(library)(error));
        }
        _ => {}
    }
    for (package, files) in ALL.iter().filter_map(|runtime| runtime.package()) {
        let package = library.join(package);
        std::fs::create_dir_all(&package).map_err(failed(&package))?;
        for (name, text) in files {
            let path = package.join(name);
            std::fs::write(&path, text).map_err(failed(&path))?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn installs_over_an_older_library() {
        let dir = tempfile::tempdir().unwrap();
        let library = dir.path().join("library");
        install(&library).unwrap();
        std::fs::write(library.join("warmpath/gone.py"), "").unwrap();
        install(&library).unwrap();
        assert!(library.join("warmpath/_zygote.py").exists());
        assert!(library.join("node/warmpath/runtime.js").exists());
        assert!(!library.join("warmpath/gone.py").exists());
    }
}

//! The Python library of the sandboxes. It is part of this binary, so that the binary is all a worker
//! needs; a worker writes it to its state directory when it starts.

use std::{
    io,
    path::{Path, PathBuf},
};

/// Every file of `sdk/python/warmpath`.
const FILES: [(&str, &str); 11] = [
    (
        "__init__.py",
        include_str!("../../../sdk/python/warmpath/__init__.py"),
    ),
    (
        "_asgi.py",
        include_str!("../../../sdk/python/warmpath/_asgi.py"),
    ),
    (
        "_context.py",
        include_str!("../../../sdk/python/warmpath/_context.py"),
    ),
    (
        "_db.py",
        include_str!("../../../sdk/python/warmpath/_db.py"),
    ),
    (
        "_http.py",
        include_str!("../../../sdk/python/warmpath/_http.py"),
    ),
    (
        "_lockdown.py",
        include_str!("../../../sdk/python/warmpath/_lockdown.py"),
    ),
    (
        "_runtime.py",
        include_str!("../../../sdk/python/warmpath/_runtime.py"),
    ),
    (
        "_wait.py",
        include_str!("../../../sdk/python/warmpath/_wait.py"),
    ),
    (
        "_wire.py",
        include_str!("../../../sdk/python/warmpath/_wire.py"),
    ),
    (
        "_wsgi.py",
        include_str!("../../../sdk/python/warmpath/_wsgi.py"),
    ),
    (
        "_zygote.py",
        include_str!("../../../sdk/python/warmpath/_zygote.py"),
    ),
];

/// The library could not be written.
#[derive(Debug, thiserror::Error)]
#[error("cannot write the Python library to {path}")]
pub struct InstallError {
    path: PathBuf,
    #[source]
    source: io::Error,
}

/// Writes the package `warmpath` into the directory `library`, replacing what is there.
///
/// # Errors
/// When the directory cannot be written.
pub fn install(library: &Path) -> Result<(), InstallError> {
    let package = library.join("warmpath");
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
    std::fs::create_dir_all(&package).map_err(failed(&package))?;
    for (name, text) in FILES {
        let path = package.join(name);
        std::fs::write(&path, text).map_err(failed(&path))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn carries_every_file_of_the_library() {
        let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("../sdk/python/warmpath");
        let mut on_disk: Vec<String> = std::fs::read_dir(source)
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .filter(|name| name.ends_with(".py"))
            .collect();
        on_disk.sort();
        let mut carried = FILES.map(|(name, _)| name.to_owned());
        carried.sort();
        assert_eq!(carried.to_vec(), on_disk);
    }

    #[test]
    fn installs_over_an_older_library() {
        let dir = tempfile::tempdir().unwrap();
        let library = dir.path().join("python");
        install(&library).unwrap();
        std::fs::write(library.join("warmpath/gone.py"), "").unwrap();
        install(&library).unwrap();
        assert!(library.join("warmpath/_zygote.py").exists());
        assert!(!library.join("warmpath/gone.py").exists());
    }
}

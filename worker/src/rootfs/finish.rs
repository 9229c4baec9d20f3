//! What the packages' own scripts would have done, as far as handlers need it; and the last step, after which nothing
//! changes any more.

use std::{
    fs, io,
    os::unix::fs::symlink,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use super::build::BuildError;

/// Links that lead from the root into its `/usr`.
const TOP: [&str; 5] = ["bin", "lib", "lib32", "lib64", "sbin"];
/// Names that Debian leaves to its alternatives, and to `update-ca-certificates`.
const LINKS: [(&str, &str); 4] = [
    ("usr/bin/awk", "mawk"),
    ("usr/bin/which", "which.debianutils"),
    ("usr/lib/ssl/certs", "/etc/ssl/certs"),
    ("usr/lib/ssl/cert.pem", "/etc/ssl/certs/ca-certificates.crt"),
];
const CERTIFICATES: &str = "usr/share/ca-certificates/mozilla";
/// What Python and OpenSSL take for all certificates.
const BUNDLE: &str = "etc/ssl/certs/ca-certificates.crt";

fn failed(doing: &'static str, path: &Path) -> impl FnOnce(io::Error) -> BuildError {
    let path = path.to_owned();
    move |source| BuildError::File {
        doing,
        path,
        source,
    }
}

/// Adds to the unpacked packages in `root` what is not in any of them.
pub(super) fn complete(root: &Path) -> Result<(), BuildError> {
    drop_dangling(&root.join("usr"))?;
    for name in TOP {
        if root.join("usr").join(name).is_dir() {
            let link = root.join(name);
            symlink(Path::new("usr").join(name), &link).map_err(failed("link", &link))?;
        }
    }
    let (bundle, ssl) = (root.join(BUNDLE), root.join("usr/lib/ssl"));
    for folder in [bundle.parent().unwrap_or(root), &ssl] {
        fs::create_dir_all(folder).map_err(failed("make", folder))?;
    }
    for (name, target) in LINKS {
        let link = root.join(name);
        symlink(target, &link).map_err(failed("link", &link))?;
    }
    fs::write(&bundle, certificates(&root.join(CERTIFICATES))?).map_err(failed("write", &bundle))
}

/// Links into the `/etc` that packages come with: there is none here.
fn drop_dangling(folder: &Path) -> Result<(), BuildError> {
    for path in sorted(folder)? {
        let Ok(meta) = fs::symlink_metadata(&path) else {
            continue;
        };
        if meta.is_dir() {
            drop_dangling(&path)?;
        } else if meta.is_symlink() && fs::read_link(&path).is_ok_and(|to| to.starts_with("/etc")) {
            fs::remove_file(&path).map_err(failed("remove", &path))?;
        }
    }
    Ok(())
}

fn certificates(folder: &Path) -> Result<Vec<u8>, BuildError> {
    let mut all = Vec::new();
    for path in sorted(folder)? {
        all.extend(fs::read(&path).map_err(failed("read", &path))?);
        all.push(b'\n');
    }
    Ok(all)
}

/// Compiles all of Python's library, by the Python that will run it. Compiled files are checked against nothing at
/// import (PEP 552, `unchecked-hash`): a root never changes, and the times of its files mean nothing.
pub(super) fn compile(root: &Path) -> Result<(), BuildError> {
    let libraries = sorted(&root.join("usr/lib"))?;
    let inside = libraries
        .iter()
        .filter_map(|path| path.strip_prefix(root).ok());
    let inside = inside.filter(|path| path.to_string_lossy().starts_with("usr/lib/python3"));
    // `-B`: what it imports itself would else be compiled in the other way, and then left alone.
    let program = [
        "/usr/bin/python3",
        "-S",
        "-s",
        "-B",
        "-m",
        "compileall",
        "-q",
    ];
    let options = ["--invalidation-mode", "unchecked-hash"];
    let mut args: Vec<PathBuf> = program.iter().chain(&options).map(PathBuf::from).collect();
    args.extend(inside.map(|path| Path::new("/").join(path)));
    run(root, &args)
}

/// Writes the dynamic linker's cache.
pub(super) fn link_libraries(root: &Path) -> Result<(), BuildError> {
    run(root, &["/usr/sbin/ldconfig".into(), "-i".into()])
}

/// Runs a program of the root in it. It came with the packages, which the list vouches for.
fn run(root: &Path, command: &[PathBuf]) -> Result<(), BuildError> {
    let what = || {
        command
            .first()
            .map(|program| program.display().to_string())
            .unwrap_or_default()
    };
    let output = Command::new("chroot")
        .arg(root)
        .args(command)
        .env_clear()
        .env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin")
        .env("LANG", "C.UTF-8")
        // The same compiled files each time.
        .env("PYTHONHASHSEED", "0")
        .stdin(Stdio::null())
        .output()
        .map_err(|source| BuildError::Tool {
            tool: "chroot",
            source,
        })?;
    if output.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stderr);
    Err(BuildError::Inside {
        program: what(),
        said: said.trim().lines().last().unwrap_or("nothing").to_owned(),
    })
}

/// What is in a folder, by name.
pub(super) fn sorted(folder: &Path) -> Result<Vec<PathBuf>, BuildError> {
    let entries = fs::read_dir(folder).map_err(failed("read", folder))?;
    let paths: Result<Vec<PathBuf>, io::Error> = entries.map(|entry| Ok(entry?.path())).collect();
    let mut paths = paths.map_err(failed("read", folder))?;
    paths.sort();
    Ok(paths)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_packages_leave_to_their_scripts_is_there_afterwards() {
        let root = tempfile::tempdir().unwrap();
        let make = |path: &str, text: &str| {
            let path = root.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        };
        make("usr/bin/mawk", "");
        make("usr/lib64/ld.so", "");
        make(&format!("{CERTIFICATES}/b.crt"), "b");
        make(&format!("{CERTIFICATES}/a.crt"), "a");
        symlink("/etc/site.py", root.path().join("usr/bin/site.py")).unwrap();
        complete(root.path()).unwrap();
        assert_eq!(
            fs::read_link(root.path().join("lib64")).unwrap(),
            Path::new("usr/lib64")
        );
        assert!(!root.path().join("lib32").is_symlink());
        assert_eq!(
            fs::read_link(root.path().join("usr/bin/awk")).unwrap(),
            Path::new("mawk")
        );
        assert_eq!(fs::read(root.path().join(BUNDLE)).unwrap(), b"a\nb\n");
        assert!(!root.path().join("usr/bin/site.py").is_symlink());
    }
}

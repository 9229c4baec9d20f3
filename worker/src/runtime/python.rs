//! CPython 3: the runtime whose instances are what the zygote forks. They load the entry themselves.

use store::Manifest;

use super::{Exec, File, Runtime};

/// Every file of `sdk/python/warmpath`.
const FILES: [File; 18] = [
    (
        "__init__.py",
        include_str!("../../../sdk/python/warmpath/__init__.py"),
    ),
    (
        "_asgi.py",
        include_str!("../../../sdk/python/warmpath/_asgi.py"),
    ),
    (
        "_calls.py",
        include_str!("../../../sdk/python/warmpath/_calls.py"),
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
        "_exec.py",
        include_str!("../../../sdk/python/warmpath/_exec.py"),
    ),
    (
        "_failure.py",
        include_str!("../../../sdk/python/warmpath/_failure.py"),
    ),
    (
        "_handler.py",
        include_str!("../../../sdk/python/warmpath/_handler.py"),
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
        "_packages.py",
        include_str!("../../../sdk/python/warmpath/_packages.py"),
    ),
    (
        "_profile.py",
        include_str!("../../../sdk/python/warmpath/_profile.py"),
    ),
    (
        "_runtime.py",
        include_str!("../../../sdk/python/warmpath/_runtime.py"),
    ),
    (
        "_stream.py",
        include_str!("../../../sdk/python/warmpath/_stream.py"),
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

/// `runtime = "python3"`.
#[derive(Debug)]
pub struct Python;

impl Runtime for Python {
    fn package(&self) -> Option<(&'static str, &'static [File])> {
        Some(("warmpath", &FILES))
    }

    fn exec(&self, _manifest: &Manifest) -> Option<Exec> {
        None
    }
}

#[cfg(test)]
mod tests {
    use std::{path::Path, process::Command};

    use super::*;

    #[test]
    fn takes_contexts_for_handlers_that_inspect_says_take_one() {
        let library = Path::new(env!("CARGO_MANIFEST_DIR")).join("../sdk/python");
        let ran = Command::new("python3")
            .args(["-I", "-B"])
            .arg(library.join("tests/takes_context.py"))
            .arg(&library)
            .output()
            .expect("python3 is what functions run in");
        let said = String::from_utf8_lossy(&ran.stderr);
        assert!(ran.status.success(), "{said}");
        assert!(said.contains("Ran 2 tests"), "{said}");
    }

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
}

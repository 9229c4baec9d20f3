//! `package.json`: npm in the cell, one layer with all of `node_modules`.
//!
//! One layer and not one for each package, because where a package lies in the tree decides what it finds. npm's
//! own lock, `package-lock.json` with its integrity hashes, is the lock; scripts of packages never run.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use serde_json::Value;

use crate::{
    archive,
    cell::Mount,
    error::ResolveError,
    pip::{address, tail},
    proxy::{Seen, with_port},
    requirements::{Options, Session, Workplace, file_error},
};

const PACKAGE: &str = "package.json";
const LOCK: &str = "package-lock.json";

/// Whether the function in `dir` has a `package.json` with dependencies.
pub(crate) fn has_dependencies(dir: &Path) -> bool {
    let json = fs::read(dir.join(PACKAGE)).unwrap_or_default();
    let package: Value = serde_json::from_slice(&json).unwrap_or_default();
    package
        .get("dependencies")
        .and_then(Value::as_object)
        .is_some_and(|dependencies| !dependencies.is_empty())
}

/// The layer of what the function in `dir` depends on.
pub(crate) fn layers(
    dir: &Path,
    options: &Options,
) -> Result<Vec<(String, Vec<u8>)>, ResolveError> {
    let registry = match &options.index_url {
        Some(url) => url.clone(),
        None => registry(dir)?,
    };
    let mut hosts: BTreeSet<String> = address(&registry).into_iter().collect();
    hosts.extend(
        options
            .index_hosts
            .iter()
            .filter_map(|host| with_port(host, 443)),
    );
    let place = Workplace::new()?;
    let read = |name: &str| {
        let path = dir.join(name);
        fs::read(&path).map_err(file_error("read", &path))
    };
    let package = read(PACKAGE)?;
    place.give(PACKAGE, &package)?;
    let lock = if options.upgrade {
        None
    } else {
        read(LOCK).ok()
    };
    let session = Session::start(options, &place.plan(mounts()), hosts)?;
    let command = match &lock {
        Some(lock) => {
            place.give(LOCK, lock)?;
            "ci"
        }
        None => "install",
    };
    let script = format!(
        "cp /in/*.json /out/tmp && cd /out/tmp && exec npm {command} --ignore-scripts --omit=dev --no-audit --no-fund --no-bin-links"
    );
    let argv = ["/bin/sh", "-c", &script].map(str::to_owned).to_vec();
    if !session.run(argv, env(&registry))? {
        let said = place.take("said").unwrap_or_default();
        return Err(failure(
            &String::from_utf8_lossy(&said),
            &session.proxy.seen(),
        ));
    }
    drop(session);
    if lock.is_none() {
        let path = dir.join(LOCK);
        fs::write(&path, place.take("tmp/package-lock.json")?)
            .map_err(file_error("write", &path))?;
    }
    let folder = place.path("out/tmp");
    let is_left_out = |path: &Path| !path.starts_with("node_modules");
    let packed = archive::pack(&folder, &is_left_out, &[])?;
    Ok(vec![("node_modules".to_owned(), packed)])
}

/// npm's configuration of this host says where packages come from.
fn registry(dir: &Path) -> Result<String, ResolveError> {
    let no_tool = |reason: String| ResolveError::NoTool {
        tool: "npm".to_owned(),
        reason: format!("{reason}; install Node.js with npm under /usr"),
    };
    let output = Command::new("npm")
        .args(["config", "get", "registry"])
        .current_dir(dir)
        .output()
        .map_err(|error| no_tool(error.to_string()))?;
    let url = String::from_utf8_lossy(&output.stdout).trim().to_owned();
    if !output.status.success() || address(&url).is_none() {
        return Err(no_tool(format!("it says its registry is {url:?}")));
    }
    Ok(url)
}

/// npm's own certificates, if it is told to use others.
fn mounts() -> Vec<Mount> {
    let extra = std::env::var_os("NODE_EXTRA_CA_CERTS").map(PathBuf::from);
    extra
        .into_iter()
        .filter(|path| path.is_file() && !path.starts_with("/etc/ssl") && !path.starts_with("/usr"))
        .map(|path| Mount {
            host: path.clone(),
            inside: path,
            writable: false,
        })
        .collect()
}

fn env(registry: &str) -> Vec<(String, String)> {
    let mut env = vec![
        ("PATH", "/usr/bin:/bin".to_owned()),
        ("HOME", "/out/tmp".to_owned()),
        ("TMPDIR", "/out/tmp".to_owned()),
        ("npm_config_registry", registry.to_owned()),
        ("npm_config_proxy", "{proxy}".to_owned()),
        ("npm_config_https_proxy", "{proxy}".to_owned()),
        ("npm_config_noproxy", String::new()),
        ("npm_config_cache", "/out/cache".to_owned()),
        ("npm_config_update_notifier", "false".to_owned()),
        ("npm_config_fetch_retries", "1".to_owned()),
        ("npm_config_fetch_timeout", "15000".to_owned()),
    ];
    if let Ok(extra) = std::env::var("NODE_EXTRA_CA_CERTS") {
        env.push(("NODE_EXTRA_CA_CERTS", extra));
    }
    env.into_iter()
        .map(|(name, value)| (name.to_owned(), value))
        .collect()
}

fn failure(said: &str, seen: &Seen) -> ResolveError {
    if let Some(host) = &seen.foreign {
        return ResolveError::ForeignHost { host: host.clone() };
    }
    if let Some((host, reason)) = &seen.unreachable {
        return ResolveError::IndexDown {
            host: host.clone(),
            reason: reason.clone(),
        };
    }
    let line = |code: &str| {
        said.lines()
            .find(|line| line.contains(code))
            .map(str::to_owned)
    };
    if let Some(line) = line("EINTEGRITY") {
        return ResolveError::WrongHash { package: line };
    }
    if said.contains("ETARGET") || said.contains("E404") {
        let what = line("notarget No matching version").or_else(|| line("404"));
        return ResolveError::NoVersion {
            requirement: what.unwrap_or_else(|| "a package".to_owned()),
            known: "npm says so".to_owned(),
        };
    }
    if said.contains("EJSONPARSE") || said.contains("EUSAGE") {
        return ResolveError::BadRequirements {
            file: PACKAGE.to_owned(),
            reason: tail(said),
        };
    }
    ResolveError::Tool {
        tool: "npm",
        reason: tail(said),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_dependencies_ask_for_a_layer() {
        let dir = tempfile::tempdir().unwrap();
        assert!(!has_dependencies(dir.path()));
        for (json, expected) in [
            ("{}", false),
            ("{\"dependencies\":{}}", false),
            ("{\"dependencies\":{\"a\":\"1\"}}", true),
            ("not JSON", false),
        ] {
            fs::write(dir.path().join(PACKAGE), json).unwrap();
            assert_eq!(has_dependencies(dir.path()), expected, "{json}");
        }
    }

    #[test]
    fn what_npm_says_is_told_apart() {
        let of = |said: &str| failure(said, &Seen::default());
        assert!(matches!(
            of("npm error code EINTEGRITY\n"),
            ResolveError::WrongHash { .. }
        ));
        assert!(matches!(
            of("npm error code ETARGET\n"),
            ResolveError::NoVersion { .. }
        ));
        assert!(matches!(
            of("npm error code EJSONPARSE\n"),
            ResolveError::BadRequirements { .. }
        ));
        assert!(matches!(of("?"), ResolveError::Tool { .. }));
    }
}

//! From `requirements.txt` to a running function, by an index that the test serves; and every way in which
//! that index, or the requirements, can be wrong.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use bytes::Bytes;
use packages::{
    Fault, Made, Options, Requires, ResolveError,
    cell::{Cell, Mount, Plan, Program, host_user},
};
use serde_json::json;
use tempfile::TempDir;
use tests::index::{Index, Mood, real_wheels};
use tokio::net::TcpListener;

use super::bed::{Bed, within};

/// Makes the wheel `argv[2]` of one module that needs `argv[4]`.
const WHEEL: &str = "\
import sys, zipfile
path, name, version, needs = sys.argv[1:5]
info = f'{name}-{version}.dist-info'
with zipfile.ZipFile(path, 'w') as wheel:
    # The same wheel whenever it is made: a ZipInfo has a date of its own.
    write = lambda name, text: wheel.writestr(zipfile.ZipInfo(name), text)
    write(f'{name}.py', f'VERSION = {version!r}\\n')
    write(f'{name}-{version}.data/scripts/{name}', 'left out')
    needs = f'Requires-Dist: {needs}\\n' if needs else ''
    write(f'{info}/METADATA', f'Metadata-Version: 2.1\\nName: {name}\\nVersion: {version}\\n{needs}')
    write(f'{info}/WHEEL', 'Wheel-Version: 1.0\\nRoot-Is-Purelib: true\\nTag: py3-none-any\\n')
    write(f'{info}/RECORD', '')
";

/// An index on loopback with these wheels (name, version, what it needs), and one package as source only.
fn serve_index(mood: Mood, wheels: &[(&str, &str, &str)]) -> Index {
    let dir = TempDir::new().unwrap();
    let mut files = BTreeMap::new();
    for (name, version, needs) in wheels {
        let file = format!("{name}-{version}-py3-none-any.whl");
        let path = dir.path().join(&file);
        let made = Command::new("/usr/bin/python3")
            .args(["-c", WHEEL])
            .arg(&path)
            .args([name, version, needs])
            .status();
        assert!(made.unwrap().success());
        files.insert(file, std::fs::read(&path).unwrap().into());
    }
    files.insert(
        "onlysource-1.0.tar.gz".to_owned(),
        b"never opened".as_slice().into(),
    );
    serve(mood, files)
}

/// An index on loopback with the real packages of `cargo xtask wheels`.
pub(crate) fn serve_real_wheels() -> Index {
    let target = executable();
    let target = target.ancestors().nth(2).unwrap();
    serve(Mood::Honest, real_wheels(target).unwrap())
}

fn serve(mood: Mood, files: BTreeMap<String, Bytes>) -> Index {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    Index::serve(listener, mood, files).unwrap()
}

pub(crate) fn executable() -> PathBuf {
    PathBuf::from(env!("CARGO_BIN_EXE_sandbox-init"))
}

pub(crate) fn options(index_url: &str) -> Options {
    Options {
        python: PathBuf::from("/usr/bin/python3"),
        executable: executable(),
        index_url: Some(index_url.to_owned()),
        index_hosts: Vec::new(),
        timeout: within(120),
        upgrade: false,
    }
}

fn requiring(requirements: &str) -> TempDir {
    let dir = TempDir::new().unwrap();
    std::fs::write(dir.path().join("requirements.txt"), requirements).unwrap();
    dir
}

async fn resolve(bed: &Bed, dir: &Path, options: &Options) -> Result<Vec<Made>, ResolveError> {
    packages::resolve(dir, Requires::Python, options, &bed.store).await
}

#[tokio::test(flavor = "multi_thread")]
async fn requirements_become_layers_that_functions_share_and_import() {
    let bed = Bed::start().await;
    let wheels = [
        ("upper", "1.0", "lower>=1"),
        ("lower", "1.5", ""),
        ("lower", "0.9", ""),
    ];
    let index = serve_index(Mood::Honest, &wheels);
    let dir = requiring("upper\n");
    let made = resolve(&bed, dir.path(), &options(index.url()))
        .await
        .unwrap();
    let what: Vec<(&str, bool)> = made.iter().map(|m| (m.what.as_str(), m.shared)).collect();
    assert_eq!(what, [("lower 1.5", false), ("upper 1.0", false)]);
    let lock = std::fs::read_to_string(dir.path().join("requirements.lock")).unwrap();
    assert_eq!(lock.lines().count(), 3, "{lock}");

    // Another function that needs one of them gets the same layer, though it is compiled anew.
    let other = requiring("lower==1.5\n");
    let shared = resolve(&bed, other.path(), &options(index.url()))
        .await
        .unwrap();
    assert_eq!(
        (&shared[0].digest, shared[0].shared),
        (&made[0].digest, true)
    );
    let digests: Vec<String> = made.iter().map(|m| format!("\"{}\"", m.digest)).collect();
    let code = "\
import importlib.metadata, upper, lower
def f(event):
    cached = [m.__spec__.cached is not None and open(m.__spec__.cached, 'rb').read()[4] for m in (upper, lower)]
    return [upper.VERSION, lower.VERSION, importlib.metadata.version('upper'), cached]
";
    let function = bed
        .deploy("uses", code, &format!("layers = [{}]", digests.join(",")))
        .await;
    // Flag 1: a compiled file that is checked against nothing (PEP 552).
    let expected = json!(["1.0", "1.5", "1.0", [1, 1]]);
    assert_eq!(bed.reply(&function, json!(null)).await, expected);
    bed.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_locked_is_what_is_deployed_until_it_is_resolved_anew() {
    let bed = Bed::start().await;
    let old = serve_index(Mood::Honest, &[("lib", "1.0", "")]);
    let dir = requiring("lib\n");
    let first = resolve(&bed, dir.path(), &options(old.url()))
        .await
        .unwrap();
    let new = serve_index(Mood::Honest, &[("lib", "1.0", ""), ("lib", "2.0", "")]);
    let locked = resolve(&bed, dir.path(), &options(new.url()))
        .await
        .unwrap();
    assert_eq!(locked[0].digest, first[0].digest);
    let upgrade = Options {
        upgrade: true,
        ..options(new.url())
    };
    let upgraded = resolve(&bed, dir.path(), &upgrade).await.unwrap();
    assert_eq!(upgraded[0].what, "lib 2.0");
    // The same version with other bytes is not what was locked.
    let lying = serve_index(Mood::Lying, &[("lib", "2.0", "")]);
    let error = resolve(&bed, dir.path(), &options(lying.url()))
        .await
        .unwrap_err();
    assert!(
        matches!(&error, ResolveError::WrongHash { package } if package.contains("lib")),
        "{error:?}"
    );
    bed.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn requirements_that_cannot_be_met_are_the_callers_fault() {
    let bed = Bed::start().await;
    let wheels = [
        ("lib", "1.0", ""),
        ("wants", "1.0", "lib==2.0"),
        ("one", "1.0", "lib==1.0"),
        ("two", "1.0", "lib<1"),
    ];
    let index = serve_index(Mood::Honest, &wheels);
    let error_of = async |requirements: &str| {
        let dir = requiring(requirements);
        let error = resolve(&bed, dir.path(), &options(index.url()))
            .await
            .unwrap_err();
        assert_eq!(error.fault(), Fault::Caller, "{error:?}");
        assert!(!error.is_retryable());
        assert!(!dir.path().join("requirements.lock").exists());
        error
    };
    let error = error_of("lib==3.0\n").await;
    assert!(
        matches!(&error, ResolveError::NoVersion { requirement, known } if requirement == "lib==3.0" && known.contains("1.0")),
        "{error:?}"
    );
    let error = error_of("nosuchlib\n").await;
    assert!(matches!(error, ResolveError::NoVersion { .. }), "{error:?}");
    let error = error_of("onlysource\n").await;
    assert!(
        matches!(error, ResolveError::NeedsBuild { .. }),
        "{error:?}"
    );
    let error = error_of("one\ntwo\n").await;
    assert!(matches!(error, ResolveError::Conflict { .. }), "{error:?}");
    let error = error_of("this is none\n").await;
    assert!(
        matches!(error, ResolveError::BadRequirements { .. }),
        "{error:?}"
    );
    bed.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_index_that_is_down_slow_broken_or_lying_is_told_apart() {
    let bed = Bed::start().await;
    let dir = requiring("lib\n");
    let closed = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let down = format!("http://{}/simple", closed.local_addr().unwrap());
    drop(closed);
    let error = resolve(&bed, dir.path(), &options(&down))
        .await
        .unwrap_err();
    assert!(matches!(error, ResolveError::IndexDown { .. }), "{error:?}");
    assert!(error.fault() == Fault::Index && error.is_retryable());

    let silent = serve_index(Mood::Silent, &[("lib", "1.0", "")]);
    let silent = Options {
        timeout: Duration::from_secs(5),
        ..options(silent.url())
    };
    let error = resolve(&bed, dir.path(), &silent).await.unwrap_err();
    assert!(matches!(error, ResolveError::Slow { .. }), "{error:?}");
    assert!(error.fault() == Fault::Index && error.is_retryable());

    let broken = serve_index(Mood::Broken, &[("lib", "1.0", "")]);
    let error = resolve(&bed, dir.path(), &options(broken.url()))
        .await
        .unwrap_err();
    assert!(
        matches!(&error, ResolveError::IndexBroken { status, .. } if status == "503"),
        "{error:?}"
    );

    let lying = serve_index(Mood::Lying, &[("lib", "1.0", "")]);
    let error = resolve(&bed, dir.path(), &options(lying.url()))
        .await
        .unwrap_err();
    assert!(matches!(error, ResolveError::WrongHash { .. }), "{error:?}");
    assert!(error.fault() == Fault::Index && !error.is_retryable());

    let elsewhere = serve_index(Mood::Elsewhere, &[("lib", "1.0", "")]);
    let error = resolve(&bed, dir.path(), &options(elsewhere.url()))
        .await
        .unwrap_err();
    assert!(
        matches!(&error, ResolveError::ForeignHost { host } if host == "elsewhere.invalid:80"),
        "{error:?}"
    );

    // And with the index up again, the same folder resolves.
    let honest = serve_index(Mood::Honest, &[("lib", "1.0", "")]);
    assert_eq!(
        resolve(&bed, dir.path(), &options(honest.url()))
            .await
            .unwrap()
            .len(),
        1
    );
    bed.stop().await;
}

/// What a cell lets a program do, as a JSON object that the program prints.
const PROBE: &str = r#"
import json, os, socket, sys
def attempt(action):
    try:
        action()
        return "done"
    except OSError as error:
        return type(error).__name__
status = dict(line.split(":", 1) for line in open("/proc/self/status"))
print(json.dumps({
    "host": attempt(lambda: socket.create_connection(("127.0.0.1", int(sys.argv[1])), 2)),
    "outside": attempt(lambda: socket.create_connection(("192.0.2.1", 80), 2)),
    "root": sorted(os.listdir("/")),
    "usr": attempt(lambda: open("/usr/new", "w")),
    "in": attempt(lambda: open("/in/new", "w")),
    "out": attempt(lambda: open("/out/new", "w")),
    "capabilities": int(status["CapEff"], 16) | int(status["CapBnd"], 16),
    "no_new_privs": status["NoNewPrivs"].strip(),
    "first": os.getppid(),
}))
"#;

#[tokio::test(flavor = "multi_thread")]
async fn a_cell_has_no_way_out_and_nothing_of_the_host() {
    let host = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = host.local_addr().unwrap().port();
    let seen = tokio::task::spawn_blocking(move || {
        let dir = TempDir::new().unwrap();
        let mount = |name: &str, writable| {
            let path = dir.path().join(name);
            std::fs::create_dir(&path).unwrap();
            std::os::unix::fs::chown(&path, Some(host_user()), None).unwrap();
            Mount {
                host: path,
                inside: Path::new("/").join(name),
                writable,
            }
        };
        use std::os::unix::fs::PermissionsExt;
        std::fs::set_permissions(dir.path(), std::fs::Permissions::from_mode(0o711)).unwrap();
        let mounts = vec![mount("in", false), mount("out", true)];
        let root = mount("root", false).host;
        let (cell, _listener) = Cell::start(&executable(), &Plan { root, mounts }).unwrap();
        let port = port.to_string();
        let program = Program {
            argv: ["/usr/bin/python3", "-I", "-c", PROBE, &port]
                .map(str::to_owned)
                .to_vec(),
            env: Vec::new(),
            dir: PathBuf::from("/out"),
            log: PathBuf::from("/out/said"),
        };
        let code = cell.run(&program, within(30)).unwrap();
        let said = std::fs::read_to_string(dir.path().join("out/said")).unwrap();
        assert_eq!(code, 0, "{said}");
        serde_json::from_str::<serde_json::Value>(&said).unwrap()
    })
    .await
    .unwrap();
    assert_eq!(seen["host"], "ConnectionRefusedError", "{seen}");
    assert_eq!(seen["outside"], "OSError", "{seen}");
    let root: Vec<&str> = seen["root"]
        .as_array()
        .unwrap()
        .iter()
        .filter_map(|name| name.as_str())
        .collect();
    for absent in ["root", "home", "sys", "var", "opt", "work"] {
        assert!(!root.contains(&absent), "{root:?}");
    }
    for (place, outcome) in [("usr", "OSError"), ("in", "OSError"), ("out", "done")] {
        assert_eq!(seen[place], outcome, "{place}: {seen}");
    }
    assert_eq!(
        (&seen["capabilities"], &seen["no_new_privs"]),
        (&json!(0), &json!("1"))
    );
    assert_eq!(seen["first"], 1, "its own pids");
}

//! Sandboxes on a root file system built of pinned packages: every runtime and package layers work, what is mapped is
//! that system's, and nothing of the host's is seen.

use std::{
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    time::Instant,
};

use ebpf_common::wire::Status;
use serde_json::{Value, json};
use worker::{
    pool::{Pool, PoolError},
    rootfs::{Choice, Kept, List},
};

use super::{
    bed::{Bed, text},
    measure::{show, until_prepared},
    packages::executable,
    zygotes::deploy_with_packages,
};

const PERL: &str = include_str!("../../examples/native-hello/f");

/// Where `cargo xtask rootfs` builds.
fn dir() -> PathBuf {
    let executable = executable();
    executable.ancestors().nth(2).unwrap().join("rootfs")
}

/// The root that this binary's list makes.
fn root() -> PathBuf {
    let (kept, digest) = (Kept::new(dir()), List::own().unwrap().digest());
    let has = kept.has(digest.hex());
    assert!(
        has,
        "{} is not built: run `cargo xtask rootfs`",
        digest.hex()
    );
    kept.root(digest.hex())
}

async fn start() -> Bed {
    root();
    Bed::start_with(|config| {
        config.sandbox.rootfs = Choice::Pinned;
        config.sandbox.rootfs_dir = dir();
    })
    .await
}

/// Device and inode of a file, as a handler sees them too.
fn identity(path: &Path) -> Value {
    let meta = std::fs::metadata(path).unwrap();
    json!([meta.dev(), meta.ino()])
}

const LOOK: &str = r#"
import os, sys

def identity(path):
    status = os.stat(path)
    return [status.st_dev, status.st_ino]

def f(event):
    mapped = set()
    for line in open("/proc/self/maps"):
        fields = line.split(maxsplit=5)
        if len(fields) == 6 and fields[5].startswith("/"):
            mapped.add((int(fields[4]), os.path.basename(fields[5].strip())))
    return {
        "python": identity("/usr/bin/python3"),
        "libc": identity(event["libc"]),
        "mapped": sorted(mapped),
        "top": sorted(os.listdir("/")),
        "etc": sorted(os.listdir("/etc")),
        "seen": [path for path in event["paths"] if os.path.exists(path)],
        "version": list(sys.version_info[:2]),
    }
"#;

/// The C library's place in the root.
fn libc() -> String {
    let lib = root().join("usr/lib");
    let folders = std::fs::read_dir(&lib).unwrap();
    let mut folders = folders.map(|entry| entry.unwrap().path().join("libc.so.6"));
    let found = folders.find(|path| path.exists()).unwrap();
    format!("/{}", found.strip_prefix(root()).unwrap().display())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_handler_on_a_built_root_sees_and_maps_nothing_of_the_host() {
    let bed = start().await;
    let function = bed.deploy("look", LOOK, "").await;
    // On this host, for setup sees to that, and in no package of the list.
    let host = ["/usr/bin/curl", "/usr/sbin/nft", "/usr/bin/pip3"];
    for path in host {
        assert!(Path::new(path).exists(), "{path} proves nothing here");
    }
    let place = root().display().to_string();
    let more = ["/usr/bin/bash", "/root", "/sys", "/var", "/home", &place];
    let paths: Vec<&str> = host.iter().copied().chain(more).collect();
    let seen = bed
        .reply(&function, json!({"paths": paths, "libc": libc()}))
        .await;
    assert_eq!(seen["seen"], json!(["/usr/bin/bash"]), "{seen}");
    assert_eq!(seen["python"], identity(&root().join("usr/bin/python3")));
    assert_eq!(seen["libc"], identity(&root().join(&libc()[1..])));
    assert_ne!(seen["python"], identity(Path::new("/usr/bin/python3")));
    // The process was forked from the zygote: what that has mapped is the built root's as well.
    let mapped = |name: &str| {
        let inode = std::fs::metadata(root().join("usr/bin/python3"))
            .unwrap()
            .ino();
        let libc = std::fs::metadata(root().join(&libc()[1..])).unwrap().ino();
        let inode = if name.starts_with("libc") {
            libc
        } else {
            inode
        };
        seen["mapped"]
            .as_array()
            .unwrap()
            .contains(&json!([inode, name]))
    };
    assert!(mapped("libc.so.6"), "{seen}");
    assert!(mapped("python3.11"), "{seen}");
    let top = [
        "bin",
        "dev",
        "etc",
        "handler",
        "layers",
        "lib",
        "lib64",
        "node_modules",
        "proc",
        "sbin",
        "tmp",
        "usr",
        "warmpath",
    ];
    assert_eq!(seen["top"], json!(top));
    let etc = [
        "group",
        "hosts",
        "ld.so.cache",
        "nsswitch.conf",
        "passwd",
        "resolv.conf",
        "ssl",
    ];
    assert_eq!(seen["etc"], json!(etc));
    assert_eq!(bed.pool.standing().rootfs.len(), 16, "digits of its digest");
    bed.stop().await;
}

/// Much of the standard library, with the libraries of C that it needs.
const STANDARD: &str = r#"
import bz2, ctypes, ctypes.util, curses, datetime, decimal, email.message, hashlib, http.client, importlib.util, lzma
import multiprocessing, readline, sqlite3, ssl, subprocess, sys, unicodedata, uuid, xml.etree.ElementTree, zlib, zoneinfo

def f(event):
    table = sqlite3.connect(":memory:")
    when = datetime.datetime(2026, 7, 1, 12, tzinfo=zoneinfo.ZoneInfo("Europe/Berlin"))
    flags = set()
    for module in list(sys.modules.values()):
        cached = getattr(module, "__cached__", None)
        if cached and cached.startswith("/usr/"):
            flags.add(open(cached, "rb").read()[4])
    return {
        "sqlite": table.execute("select sum(value) from json_each('[1, 2, 39]')").fetchone()[0],
        "decimal": str(decimal.Decimal(1) / 7),
        "packed": [len(m.decompress(m.compress(b"x" * 1000))) for m in (bz2, lzma, zlib)],
        "sha3": hashlib.sha3_256(b"").hexdigest()[:8],
        "berlin": when.utcoffset().total_seconds(),
        "certificates": len(ssl.create_default_context().get_ca_certs()) > 100,
        "libm": ctypes.CDLL(ctypes.util.find_library("m")).abs(-3),
        "shell": subprocess.run("printf '%s\n' b a | sort | awk '{print NR $1}'", shell=True, capture_output=True, text=True).stdout,
        "xml": xml.etree.ElementTree.fromstring("<a><b>c</b></a>")[0].text,
        "compiled": sorted(flags),
    }
"#;

#[tokio::test(flavor = "multi_thread")]
async fn the_standard_library_is_whole_and_compiled() {
    let bed = start().await;
    let function = bed.deploy("standard", STANDARD, "memory_mb = 128").await;
    let expected = json!({
        "sqlite": 42,
        "decimal": "0.1428571428571428571428571429",
        "packed": [1000, 1000, 1000],
        "sha3": "a7ffc6f8",
        "berlin": 7200.0,
        "certificates": true,
        "libm": 3,
        "shell": "1a\n2b\n",
        "xml": "c",
        // Of the kind that is checked against nothing (PEP 552), and all of them are there.
        "compiled": [1],
    });
    assert_eq!(bed.reply(&function, json!(null)).await, expected);
    bed.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn scripts_and_node_run_on_a_built_root() {
    let bed = start().await;
    let script = "runtime = 'native'\nentry = 'f'";
    let function = bed.deploy_files("native", &[("f", PERL)], script).await;
    let hello = bed.reply(&function, json!({"name": "Ada"})).await;
    assert_eq!(hello["greeting"], "Hello, Ada!");

    let node = "\
const { db } = require('warmpath');
exports.f = async (event) => {
  await db.put('a', event.name);
  const money = new Intl.NumberFormat('de', { style: 'currency', currency: 'EUR' }).format(1234.5);
  const { createHash } = require('node:crypto');
  return [process.version.split('.')[0], String(await db.get('a')), money, createHash('sha1').update('').digest('hex').slice(0, 6)];
};
";
    let manifest = "runtime = 'node'\nentry = 'f.js'\nmemory_mb = 256";
    let function = bed.deploy_files("node", &[("f.js", node)], manifest).await;
    let reply = bed.reply(&function, json!({"name": "Ada"})).await;
    assert_eq!(reply, json!(["v18", "Ada", "1.234,50\u{a0}€", "da39a3"]));
    bed.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn packages_that_were_compiled_for_the_hosts_python_work_on_a_built_root() {
    let bed = start().await;
    let dir = tempfile::TempDir::new().unwrap();
    std::fs::write(dir.path().join("requirements.txt"), "numpy\n").unwrap();
    let code = "\
import numpy
def f(event):
    return [int(numpy.array(event).sum()), float(numpy.linalg.det(numpy.eye(3) * 2))]
";
    let function = deploy_with_packages(&bed, dir.path(), "numpy", code).await;
    let reply = bed.reply(&function, json!([1, 2, 39])).await;
    assert_eq!(reply[0], 42);
    assert!((reply[1].as_f64().unwrap() - 8.0).abs() < 1e-9, "{reply}");
    bed.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_root_without_an_interpreter_and_one_that_is_not_there_say_so() {
    let bed = Bed::start().await;
    let empty = tempfile::TempDir::new().unwrap();
    std::fs::create_dir(empty.path().join("usr")).unwrap();
    let start = async |name: &str, rootfs: Choice| {
        let mut config = bed.config.clone();
        config.worker = format!("{}-{name}", config.worker);
        config.state_dir = bed.dir.path().join(name);
        config.sandbox.rootfs_dir = dir();
        config.sandbox.rootfs = rootfs;
        let code = worker::code::CodeCache::new(bed.store.clone(), bed.dir.path().join("code-2"));
        let db = std::sync::Arc::new(db::Router::new(None, db::Metrics::unregistered()));
        Pool::start(config, code, db).await.unwrap_err()
    };
    let error = start("empty", Choice::Path(empty.path().to_owned())).await;
    let said = error.to_string();
    assert!(
        said.contains("cannot run /usr/bin/python3") && said.contains("sandbox.python"),
        "{said}"
    );
    let error = start("absent", Choice::Digest("0".repeat(64))).await;
    assert!(matches!(error, PoolError::Rootfs(_)), "{error:?}");
    bed.stop().await;
}

/// `cargo test --release -p tests --features privileged --test sandbox -- --ignored --nocapture first_replies`
#[tokio::test(flavor = "multi_thread")]
#[ignore = "a measurement, for a quiet machine and a release build"]
async fn measure_first_replies_on_either_root() {
    const ROUNDS: usize = 30;
    const NODE: &str = "exports.f = async (event) => event;";
    const HELLO: &str = "def f(event):\n    return event\n";
    let mut beds = Vec::new();
    for rootfs in [Choice::Host, Choice::Pinned] {
        let bed = Bed::start_with(|config| {
            config.sandbox.rootfs = rootfs;
            config.sandbox.rootfs_dir = dir();
            config.limits.prepared = 2;
            config.limits.memory_mb = 65_536;
            config.limits.zygote_memory_mb = 0;
        })
        .await;
        beds.push((bed, [const { Vec::new() }; 3]));
    }
    // A function each, or it would be started ahead of its next call, by when it was called before.
    for round in 0..ROUNDS {
        for (bed, times) in &mut beds {
            let in_node = "runtime = 'node'\nentry = 'f.js'\nmemory_mb = 256";
            let node = [("f.js", NODE)];
            let functions = [
                bed.deploy(&format!("hello{round}"), HELLO, "").await,
                bed.deploy(&format!("standard{round}"), STANDARD, "").await,
                bed.deploy_files(&format!("node{round}"), &node, in_node)
                    .await,
            ];
            for (function, times) in functions.iter().zip(times) {
                until_prepared(bed).await;
                let start = Instant::now();
                let outcome = bed.call(function, json!({"name": "Ada"})).await;
                times.push(start.elapsed());
                assert_eq!(outcome.status, Status::Ok, "{}", text(&outcome));
                assert!(outcome.usage.cold);
            }
        }
    }
    for (bed, times) in beds {
        for (name, times) in ["hello", "standard", "node"].iter().zip(times) {
            show(&format!("{name} on {}", bed.pool.rootfs()), times);
        }
        bed.stop().await;
    }
}

//! Building a root file system: at the same time, over what a killed builder left, and of packages that are not what the
//! list says. The mirror is the test's own, with one package that has just enough for the build's own steps.

use std::{fs, path::Path, process::Command, sync::Arc};

use axum::{Router, extract::State, routing::get};
use bytes::Bytes;
use store::Digest;
use tempfile::TempDir;
use tokio::sync::Semaphore;
use worker::rootfs::{BuildError, Event, FetchError, Kept, List, build};

/// Programs that the build runs in the new root. These end well and do nothing.
const RUN_INSIDE: [&str; 2] = ["usr/bin/python3", "usr/sbin/ldconfig"];

/// A package with programs that run, if it is `whole`: else without the libraries that they need.
fn package(whole: bool) -> Bytes {
    let dir = TempDir::new().unwrap();
    let files = dir.path().join("files");
    let put = |path: &str, content: &[u8]| {
        let path = files.join(path.trim_start_matches('/'));
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, content).unwrap();
        path
    };
    let linked = Command::new("ldd").arg("/usr/bin/true").output().unwrap();
    let linked = String::from_utf8(linked.stdout).unwrap();
    let libraries = linked
        .split_whitespace()
        .filter(|word| whole && word.starts_with("/lib"));
    for path in libraries {
        set_executable(&put(path, &fs::read(path).unwrap()));
    }
    for path in RUN_INSIDE {
        set_executable(&put(path, &fs::read("/usr/bin/true").unwrap()));
    }
    put("usr/share/ca-certificates/mozilla/one.crt", b"certificate");
    put("etc/secret", b"left out");
    put(
        "DEBIAN/control",
        b"Package: one\nVersion: 1.0\nArchitecture: all\nMaintainer: x <x@x>\nDescription: x\n",
    );
    let deb = dir.path().join("one.deb");
    let made = Command::new("dpkg-deb")
        .args(["--root-owner-group", "--build"])
        .args([&files, &deb])
        .output()
        .unwrap();
    assert!(
        made.status.success(),
        "{}",
        String::from_utf8_lossy(&made.stderr)
    );
    fs::read(deb).unwrap().into()
}

fn set_executable(path: &Path) {
    use std::os::unix::fs::PermissionsExt;
    fs::set_permissions(path, fs::Permissions::from_mode(0o755)).unwrap();
}

/// A mirror that sends its package once for each permit that its gate has.
struct Mirror {
    url: String,
    gate: Arc<Semaphore>,
    package: Bytes,
}

impl Mirror {
    async fn start(package: Bytes) -> Self {
        let gate = Arc::new(Semaphore::new(0));
        let state = (package.clone(), Arc::clone(&gate));
        let routes = Router::new()
            .route("/debian/pool/one.deb", get(send))
            .with_state(state);
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        tokio::spawn(async move { axum::serve(listener, routes).await });
        Self { url, gate, package }
    }

    fn list(&self, sha256: &str) -> List {
        let size = self.package.len();
        let text = format!(
            "architecture all\nsuite test\nsnapshot none\n{sha256} {size} one 1.0 debian/pool/one.deb\n"
        );
        List::parse(&text).unwrap()
    }

    fn good_list(&self) -> List {
        self.list(Digest::of(&self.package).hex())
    }
}

async fn send(State((package, gate)): State<(Bytes, Arc<Semaphore>)>) -> Bytes {
    gate.acquire().await.unwrap().forget();
    package
}

/// What the folder has, but for its lock.
fn names(dir: &Path) -> Vec<String> {
    let entries = fs::read_dir(dir)
        .unwrap()
        .map(|entry| entry.unwrap().file_name());
    let mut names: Vec<String> = entries
        .map(|name| name.to_string_lossy().into_owned())
        .collect();
    names.retain(|name| name != "lock");
    names.sort();
    names
}

#[tokio::test(flavor = "multi_thread")]
async fn of_two_builders_one_builds_and_the_other_waits_for_it() {
    let (mirror, dir) = (Mirror::start(package(true)).await, TempDir::new().unwrap());
    let (list, waiting) = (mirror.good_list(), Semaphore::new(0));
    let builder = async || {
        let watch = |event| {
            if event == Event::Waiting {
                waiting.add_permits(1);
            }
        };
        build(dir.path(), &list, Some(&mirror.url), &watch)
            .await
            .unwrap()
    };
    // The first can only go on once the second has found it at work.
    let let_go = async {
        waiting.acquire().await.unwrap().forget();
        mirror.gate.add_permits(1);
    };
    let (one, other, ()) = tokio::join!(builder(), builder(), let_go);
    assert_eq!(u32::from(one.is_new) + u32::from(other.is_new), 1);
    assert_eq!(one.root, other.root);
    assert_eq!(names(dir.path()), std::slice::from_ref(&one.digest));
    let root = one.root;
    let bundle = fs::read_to_string(root.join("etc/ssl/certs/ca-certificates.crt")).unwrap();
    assert_eq!(bundle, "certificate\n");
    assert!(!root.join("etc/secret").exists());
    assert!(
        fs::metadata(root.join("usr/bin/python3"))
            .unwrap()
            .permissions()
            .readonly()
    );
    assert_eq!(Kept::new(dir.path()).verify(&one.digest).unwrap(), []);
    let again = builder().await;
    assert!(!again.is_new, "nothing is fetched: the gate is shut");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_builder_left_that_was_cut_short_is_cleared_away_and_built_anew() {
    let (mirror, dir) = (Mirror::start(package(true)).await, TempDir::new().unwrap());
    let list = mirror.good_list();
    let site = format!(".building-{}", list.digest().hex());
    let task = {
        let (dir, list, url) = (dir.path().to_owned(), list.clone(), mirror.url.clone());
        tokio::spawn(async move { build(&dir, &list, Some(&url), &|_| ()).await.map(drop) })
    };
    super::zygotes::until("it fetches", || dir.path().join(&site).exists()).await;
    task.abort();
    assert!(task.await.unwrap_err().is_cancelled());
    assert_eq!(names(dir.path()), [site]);
    fs::create_dir(dir.path().join(".removing-something")).unwrap();
    mirror.gate.add_permits(2);
    let built = build(dir.path(), &list, Some(&mirror.url), &|_| ())
        .await
        .unwrap();
    assert!(built.is_new);
    assert_eq!(names(dir.path()), [built.digest]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_package_that_is_not_what_the_list_says_builds_nothing() {
    let (mirror, dir) = (Mirror::start(package(true)).await, TempDir::new().unwrap());
    mirror.gate.add_permits(1);
    let list = mirror.list(&"0".repeat(64));
    let error = build(dir.path(), &list, Some(&mirror.url), &|_| ())
        .await
        .unwrap_err();
    let BuildError::Fetch(FetchError::Nowhere { name, tried, .. }) = error else {
        panic!("{error:?}");
    };
    assert!(
        name == "one" && tried.contains("another SHA-256"),
        "{tried}"
    );
    assert_eq!(names(dir.path()), Vec::<String>::new());
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_no_package_is_named() {
    let nonsense = Bytes::from_static(b"no package");
    let (mirror, dir) = (Mirror::start(nonsense).await, TempDir::new().unwrap());
    mirror.gate.add_permits(1);
    let list = mirror.good_list();
    let error = build(dir.path(), &list, Some(&mirror.url), &|_| ())
        .await
        .unwrap_err();
    assert!(error.to_string().contains("package one"), "{error:?}");
    assert_eq!(names(dir.path()), Vec::<String>::new());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_root_whose_own_programs_fail_is_not_published() {
    let (mirror, dir) = (Mirror::start(package(false)).await, TempDir::new().unwrap());
    mirror.gate.add_permits(1);
    let list = mirror.good_list();
    let error = build(dir.path(), &list, Some(&mirror.url), &|_| ())
        .await
        .unwrap_err();
    assert!(matches!(error, BuildError::Inside { .. }), "{error:?}");
    assert_eq!(names(dir.path()), Vec::<String>::new());
}

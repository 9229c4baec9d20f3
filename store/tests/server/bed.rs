//! A running store, and what is put into it.

use std::{
    net::{Ipv4Addr, SocketAddr},
    path::Path,
    sync::atomic::{AtomicU8, Ordering},
    time::Duration,
};

use bytes::Bytes;
use flate2::{Compression, write::GzEncoder};
use store::{ClientError, Config, ErrorBody, Published, RunError, StoreClient};
use tempfile::TempDir;
use tokio::{net::TcpListener, sync::watch, task::JoinHandle};

/// A bundle of a function `name` whose code is `code`.
pub(crate) fn bundle(name: &str, code: &str) -> Bytes {
    archive(&[
        (
            "warmpath.toml",
            &format!("name = \"{name}\"\naffinity = \"session\""),
        ),
        ("f.py", code),
    ])
}

pub(crate) fn archive(files: &[(&str, &str)]) -> Bytes {
    let mut builder = tar::Builder::new(GzEncoder::new(Vec::new(), Compression::fast()));
    for (path, content) in files {
        let mut header = tar::Header::new_gnu();
        header.set_size(content.len() as u64);
        header.set_mode(0o644);
        builder
            .append_data(&mut header, path, content.as_bytes())
            .unwrap();
    }
    builder.into_inner().unwrap().finish().unwrap().into()
}

/// A running store role.
pub(crate) struct Store {
    pub(crate) client: StoreClient,
    pub(crate) base: String,
    stop: watch::Sender<bool>,
    role: JoinHandle<Result<(), RunError>>,
}

/// A free port on a loopback address that no other call gives away: a port that was free a moment ago may
/// by now be another test's.
pub(crate) async fn free_address() -> SocketAddr {
    static NEXT: AtomicU8 = AtomicU8::new(1);
    let address = Ipv4Addr::new(127, 77, 0, NEXT.fetch_add(1, Ordering::Relaxed));
    let listener = TcpListener::bind((address, 0)).await.unwrap();
    listener.local_addr().unwrap()
}

pub(crate) fn config(dir: &Path, listen: SocketAddr, more: &str) -> Config {
    let path = dir.join("store.toml");
    let objects = dir.join("objects");
    let text = format!(
        "listen = \"{listen}\"\npath = \"{}\"\n{more}",
        objects.display()
    );
    std::fs::write(&path, text).unwrap();
    Config::load(&path).unwrap()
}

pub(crate) async fn start(dir: &TempDir, more: &str) -> Store {
    let listen = free_address().await;
    let (stop, stopped) = watch::channel(false);
    let role = tokio::spawn(store::run(config(dir.path(), listen, more), stopped));
    let base = format!("http://{listen}");
    let client = StoreClient::new(&base).unwrap();
    let answers = async {
        while client.catalog().await.is_err() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(20), answers)
        .await
        .expect("the store did not come up");
    Store {
        client,
        base,
        stop,
        role,
    }
}

impl Store {
    pub(crate) async fn stop(self) {
        self.stop.send(true).unwrap();
        tokio::time::timeout(Duration::from_secs(10), self.role)
            .await
            .expect("the store did not stop")
            .unwrap()
            .unwrap();
    }

    pub(crate) async fn publish(&self, name: &str, code: &str) -> Published {
        self.client.publish(None, bundle(name, code)).await.unwrap()
    }

    /// `qualified` and version of every catalog entry.
    pub(crate) async fn entries(&self) -> Vec<(String, u32)> {
        let catalog = self.client.catalog().await.unwrap();
        let entries = catalog.entries.into_iter();
        entries
            .map(|entry| (entry.qualified, entry.version))
            .collect()
    }
}

pub(crate) fn refused(outcome: Result<impl std::fmt::Debug, ClientError>) -> ErrorBody {
    match outcome {
        Err(ClientError::Refused { body, .. }) => body,
        other => panic!("{other:?}"),
    }
}

/// Every file below `dir`.
pub(crate) fn files(dir: &Path) -> Vec<std::path::PathBuf> {
    let mut found = Vec::new();
    let mut folders = vec![dir.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else {
                found.push(path);
            }
        }
    }
    found
}

//! Packages from Debian's mirrors, or from its archive of all that it ever had. Over plain HTTP: what arrives is
//! compared with the list's SHA-256, and that is the only proof that counts.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use store::Digest;
use tokio::{sync::Semaphore, task::JoinSet};

use super::list::{List, NO_SNAPSHOT, Package};

/// What Debian's own `sources.list` names.
const MIRROR: &str = "http://deb.debian.org";
/// Has every version that ever was, where a mirror has the newest only.
const SNAPSHOT: &str = "http://snapshot.debian.org/archive";
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// For one package.
const TIMEOUT: Duration = Duration::from_secs(300);
const AT_A_TIME: usize = 4;

/// A package cannot be had.
#[derive(Debug, thiserror::Error)]
pub enum FetchError {
    /// Nobody has it.
    #[error(
        "{name} {version} cannot be fetched ({tried}): if the mirrors have newer versions only, renew the list with \
         `warmpath worker rootfs renew`; else see to the network, or give a mirror with --mirror"
    )]
    Nowhere {
        /// The package.
        name: String,
        /// Its version.
        version: String,
        /// Where it was looked for, and what came of it.
        tried: String,
    },
    /// It cannot be written.
    #[error("cannot write {path}")]
    Write {
        /// The file.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: std::io::Error,
    },
    /// The client cannot be made.
    #[error("cannot make an HTTP client")]
    Client(#[source] reqwest::Error),
    /// A task of ours ended by itself.
    #[error("fetching was cut short")]
    CutShort,
}

/// Fetches every package of `list` into the folder `to`, each under its SHA-256; `fetched` is told of the bytes of each.
///
/// # Errors
/// The first package that nobody has as the list pins it.
pub(super) async fn fetch(
    list: &List,
    mirror: Option<&str>,
    to: &Path,
    fetched: &(dyn Fn(u64) + Sync),
) -> Result<(), FetchError> {
    let client = reqwest::Client::builder()
        .connect_timeout(CONNECT_TIMEOUT)
        .timeout(TIMEOUT)
        .build()
        .map_err(FetchError::Client)?;
    let places = Arc::new(Semaphore::new(AT_A_TIME));
    let mut tasks = JoinSet::new();
    for package in &list.packages {
        let (client, places, package) = (client.clone(), Arc::clone(&places), package.clone());
        let urls = urls(&package, &list.snapshot, mirror);
        let path = to.join(&package.sha256);
        tasks.spawn(async move {
            let _place = places.acquire().await;
            let content = first(&client, &urls, &package).await?;
            let written = tokio::fs::write(&path, &content).await;
            written.map_err(|source| FetchError::Write { path, source })?;
            Ok(package.size)
        });
    }
    // The others end with the first that fails: dropping the set aborts them.
    while let Some(done) = tasks.join_next().await {
        fetched(done.unwrap_or(Err(FetchError::CutShort))?);
    }
    Ok(())
}

/// Where a package may be, best first.
fn urls(package: &Package, snapshot: &str, mirror: Option<&str>) -> Vec<String> {
    let mirror = mirror.unwrap_or(MIRROR).trim_end_matches('/');
    let mut urls = vec![format!("{mirror}/{}", package.path)];
    if let Some((archive, rest)) = package.path.split_once('/')
        && snapshot != NO_SNAPSHOT
    {
        urls.push(format!("{SNAPSHOT}/{archive}/{snapshot}/{rest}"));
    }
    urls
}

async fn first(
    client: &reqwest::Client,
    urls: &[String],
    package: &Package,
) -> Result<Vec<u8>, FetchError> {
    let mut tried = Vec::new();
    for url in urls {
        match one(client, url, package).await {
            Ok(content) => return Ok(content),
            Err(problem) => tried.push(format!("{url}: {problem}")),
        }
    }
    Err(FetchError::Nowhere {
        name: package.name.clone(),
        version: package.version.clone(),
        tried: tried.join("; "),
    })
}

/// The file at `url`, if it is the package; or what is there instead.
async fn one(client: &reqwest::Client, url: &str, package: &Package) -> Result<Vec<u8>, String> {
    let said = |error: reqwest::Error| match std::error::Error::source(&error) {
        Some(cause) => cause.to_string(),
        None => error.to_string(),
    };
    let mut response = client.get(url).send().await.map_err(said)?;
    if !response.status().is_success() {
        return Err(response.status().to_string());
    }
    let mut content = Vec::new();
    while let Some(chunk) = response.chunk().await.map_err(said)? {
        content.extend_from_slice(&chunk);
        if content.len() as u64 > package.size {
            return Err("it is longer than the list says".to_owned());
        }
    }
    if Digest::of(&content).hex() != package.sha256 {
        return Err("it has another SHA-256".to_owned());
    }
    Ok(content)
}

#[cfg(test)]
mod tests {
    use axum::{Router, routing::get};

    use super::*;

    const CONTENT: &[u8] = b"a package";

    fn package(path: &str, content: &[u8]) -> Package {
        Package {
            name: "one".to_owned(),
            version: "1.0".to_owned(),
            sha256: Digest::of(content).hex().to_owned(),
            size: content.len() as u64,
            path: path.to_owned(),
        }
    }

    fn list(package: Package) -> List {
        List {
            architecture: "amd64".to_owned(),
            suite: "bookworm".to_owned(),
            snapshot: "20261130T080000Z".to_owned(),
            packages: vec![package],
        }
    }

    /// A mirror with one file.
    async fn mirror() -> String {
        let routes = Router::new().route("/debian/pool/one.deb", get(|| async { CONTENT }));
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/", listener.local_addr().unwrap());
        tokio::spawn(async move { axum::serve(listener, routes).await });
        url
    }

    #[tokio::test]
    async fn a_package_is_what_its_hash_says_or_is_not_taken() {
        let (mirror, folder) = (mirror().await, tempfile::tempdir().unwrap());
        let good = package("debian/pool/one.deb", CONTENT);
        fetch(&list(good.clone()), Some(&mirror), folder.path(), &|_| ())
            .await
            .unwrap();
        assert_eq!(
            std::fs::read(folder.path().join(&good.sha256)).unwrap(),
            CONTENT
        );

        let client = reqwest::Client::new();
        let url = format!("{mirror}debian/pool/one.deb");
        let problem =
            async |content: &[u8]| one(&client, &url, &package("", content)).await.unwrap_err();
        assert!(problem(b"b package").await.contains("SHA-256"));
        assert!(problem(b"short").await.contains("longer"));
        assert!(problem(b"one that has more").await.contains("SHA-256"));
        let gone = one(&client, &format!("{mirror}debian/gone"), &good).await;
        assert!(gone.unwrap_err().contains("404"));
    }

    #[tokio::test]
    async fn a_package_that_is_nowhere_says_where_it_was_looked_for_and_what_to_do() {
        let gone = package("debian/pool/gone.deb", CONTENT);
        let mirror = mirror().await;
        let urls = [
            format!("{mirror}debian/pool/gone.deb"),
            "http://127.0.0.1:1/x".to_owned(),
        ];
        let error = first(&reqwest::Client::new(), &urls, &gone)
            .await
            .unwrap_err()
            .to_string();
        for part in ["one 1.0", "404", "127.0.0.1:1", "rootfs renew"] {
            assert!(error.contains(part), "{part}: {error}");
        }
    }

    #[test]
    fn the_second_place_is_the_archive_of_all_versions() {
        let package = package("debian-security/pool/updates/one.deb", CONTENT);
        let expected = [
            "http://deb.debian.org/debian-security/pool/updates/one.deb",
            "http://snapshot.debian.org/archive/debian-security/20261130T080000Z/pool/updates/one.deb",
        ];
        assert_eq!(urls(&package, "20261130T080000Z", None), expected);
        assert_eq!(urls(&package, NO_SNAPSHOT, None), expected[..1]);
    }
}

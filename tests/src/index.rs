//! A package index (PEP 503) that a test serves: made-up packages, or the real ones that `cargo xtask wheels` fetched.

use std::{
    collections::BTreeMap,
    fs,
    net::TcpListener,
    path::{Path, PathBuf},
    sync::Arc,
};

use anyhow::{Context as _, Result, bail};
use axum::{
    Router,
    body::Bytes,
    extract::{Path as UrlPath, State},
    http::StatusCode,
    response::{Html, IntoResponse, Response},
    routing::get,
};
use store::Digest;
use tokio::runtime::Runtime;

/// What pins the real packages: a requirements file with hashes.
const LOCK: &str = include_str!("../platform/wheels.lock");

/// How an index behaves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mood {
    /// As it should.
    Honest,
    /// Sends other files than it has hashes of.
    Lying,
    /// Answers 503.
    Broken,
    /// Never answers.
    Silent,
    /// Has its files elsewhere.
    Elsewhere,
}

/// A running index; it ends when dropped.
#[derive(Debug)]
pub struct Index {
    url: String,
    runtime: Option<Runtime>,
}

#[derive(Debug)]
struct Shelf {
    files: BTreeMap<String, Bytes>,
    mood: Mood,
}

impl Index {
    /// Serves `files`, by their names, on `listener`: in the namespace that the listener was made in.
    ///
    /// # Errors
    /// When no thread can be started.
    pub fn serve(
        listener: TcpListener,
        mood: Mood,
        files: BTreeMap<String, Bytes>,
    ) -> Result<Self> {
        let address = listener
            .local_addr()
            .context("asking for the index's address")?;
        listener
            .set_nonblocking(true)
            .context("preparing the index's socket")?;
        let routes = Router::new()
            .route("/simple/{name}/", get(page))
            .route("/files/{file}", get(file))
            .with_state(Arc::new(Shelf { files, mood }));
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .context("starting the index's runtime")?;
        runtime.spawn(async move {
            axum::serve(tokio::net::TcpListener::from_std(listener)?, routes).await
        });
        Ok(Self {
            url: format!("http://{address}/simple"),
            runtime: Some(runtime),
        })
    }

    /// Its URL, as pip takes it.
    #[must_use]
    pub fn url(&self) -> &str {
        &self.url
    }
}

impl Drop for Index {
    fn drop(&mut self) {
        // Also where waiting for it would be an error: within another runtime.
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

/// The wheels in `target/wheels`, each of which must be one that the lock pins.
///
/// # Errors
/// They are not there, or are not what was pinned.
pub fn real_wheels(target: &Path) -> Result<BTreeMap<String, Bytes>> {
    let folder = target.join("wheels");
    let wheels = wheels_in(&folder).with_context(|| {
        format!(
            "the packages of {} (`cargo xtask wheels` fetches them)",
            folder.display()
        )
    })?;
    let mut files = BTreeMap::new();
    for path in wheels {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        let content = fs::read(&path).with_context(|| format!("reading {}", path.display()))?;
        if !LOCK.contains(&format!("--hash=sha256:{}", Digest::of(&content).hex())) {
            bail!("{name} is not what tests/platform/wheels.lock pins: run `cargo xtask wheels`");
        }
        files.insert(name.into_owned(), content.into());
    }
    Ok(files)
}

fn wheels_in(folder: &Path) -> Result<Vec<PathBuf>> {
    // The fetcher's own copy of the lock: there when all are, and of the same lock.
    if fs::read_to_string(folder.join("wheels.lock"))? != LOCK {
        bail!("they are those of another lock");
    }
    let mut paths = Vec::new();
    for entry in fs::read_dir(folder)? {
        paths.push(entry?.path());
    }
    paths.retain(|path| path.extension().is_some_and(|extension| extension == "whl"));
    Ok(paths)
}

/// A project's name as PEP 503 compares them.
fn normalised(name: &str) -> String {
    name.to_lowercase().replace(['_', '.'], "-")
}

async fn page(State(shelf): State<Arc<Shelf>>, UrlPath(name): UrlPath<String>) -> Response {
    match shelf.mood {
        Mood::Broken => return StatusCode::SERVICE_UNAVAILABLE.into_response(),
        Mood::Silent => std::future::pending().await,
        Mood::Honest | Mood::Lying | Mood::Elsewhere => {}
    }
    let base = match shelf.mood {
        Mood::Elsewhere => "http://elsewhere.invalid",
        _ => "",
    };
    // The first hyphen of a wheel's name ends the project's.
    let belongs = |file: &str| normalised(file.split('-').next().unwrap_or_default()) == name;
    let files = shelf.files.iter().filter(|(file, _)| belongs(file));
    let links: Vec<String> = files
        .map(|(file, content)| {
            let digest = Digest::of(content);
            format!(
                "<a href=\"{base}/files/{file}#sha256={}\">{file}</a>",
                digest.hex()
            )
        })
        .collect();
    if links.is_empty() {
        return StatusCode::NOT_FOUND.into_response();
    }
    Html(links.join("\n")).into_response()
}

async fn file(State(shelf): State<Arc<Shelf>>, UrlPath(file): UrlPath<String>) -> Response {
    match shelf.files.get(&file) {
        Some(_) if shelf.mood == Mood::Lying => b"something else".into_response(),
        Some(content) => content.clone().into_response(),
        None => StatusCode::NOT_FOUND.into_response(),
    }
}

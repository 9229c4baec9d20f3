//! What can be called: follows the store's catalog and adds the configuration's own functions.

use std::time::Duration;

use ebpf_common::{
    ids::{DEFERRED_FUNCTION, FunctionId},
    maps::Affinity,
    schema::SchemaEntry,
};
use store::{AffinityKind, Schema, StoreClient};
use tokio::{sync::mpsc, time::sleep};
use tracing::{info, warn};

use crate::{config::StaticFunction, id_map::IdMap, rate_limit::RateLimit};

/// Longest that the store may hold an answer back.
const LONG_POLL: Duration = Duration::from_secs(20);
/// Pause after the store could not be asked.
const RETRY_AFTER: Duration = Duration::from_millis(200);
const LOG_EVERY: Duration = Duration::from_secs(10);

/// What the data plane must know of a function.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Function {
    /// `hello@latest`, `hello@3`.
    pub qualified: String,
    /// What its manifest asks for.
    pub affinity: Affinity,
    /// Where payloads hold the session or the slot of requests that do not name it.
    pub schema: Option<SchemaEntry>,
}

impl Function {
    fn new(qualified: String, kind: AffinityKind, schema: Option<&Schema>) -> Self {
        let affinity = match kind {
            AffinityKind::None => Affinity::None,
            AffinityKind::Session => Affinity::Session,
            AffinityKind::Shard => Affinity::Shard,
        };
        // Configuration and store refuse what does not compile; a later store's is left out, and headers alone count.
        let schema = schema.and_then(|schema| match schema.compile(kind) {
            Ok(entry) => Some(entry),
            Err(error) => {
                warn!(
                    function = qualified,
                    error = &error as &dyn std::error::Error,
                    "schema left out"
                );
                None
            }
        });
        Self {
            qualified,
            affinity,
            schema,
        }
    }
}

/// Every function, by id.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Catalog {
    /// The store's revision; none if there is no store.
    pub revision: Option<u64>,
    /// The functions.
    pub functions: IdMap<Function>,
    /// Those of which instances are to be kept whether or not anyone calls, and how many.
    pub kept: Vec<(FunctionId, u32)>,
}

impl Catalog {
    /// The functions of the configuration alone.
    #[must_use]
    pub fn of_config(functions: &[StaticFunction]) -> Self {
        let functions = functions.iter().map(|function| {
            let qualified = if function.name.contains('@') {
                function.name.clone()
            } else {
                format!("{}@{}", function.name, store::api::types::LATEST)
            };
            let id = FunctionId::of(&qualified);
            let schema = function.schema.as_ref();
            (id, Function::new(qualified, function.affinity, schema))
        });
        Self {
            revision: None,
            functions: functions.collect(),
            kept: Vec::new(),
        }
    }

    /// These and the platform's own, which no store has: without a row the program would refuse its requests.
    #[must_use]
    pub fn with_platform(mut self) -> Self {
        let qualified = format!("{DEFERRED_FUNCTION}@{}", store::api::types::LATEST);
        let function = Function::new(qualified, AffinityKind::Shard, None);
        let id = FunctionId::of(DEFERRED_FUNCTION);
        self.functions.insert(id, function);
        self
    }

    /// The store's functions over those of the configuration.
    #[must_use]
    pub fn merged(&self, store: &store::Catalog) -> Self {
        let mut merged = self.clone();
        merged.revision = Some(store.revision);
        merged.kept = store.entries.iter().filter_map(kept).collect();
        merged.functions.extend(store.entries.iter().map(|entry| {
            let manifest = &entry.manifest;
            let schema = manifest.schema.as_ref();
            let qualified = entry.qualified.clone();
            (
                entry.id,
                Function::new(qualified, manifest.affinity, schema),
            )
        }));
        merged
    }
}

/// How many instances of a function are to be kept. A bare version counts for nothing: with the next one, its
/// instances would be kept for ever.
fn kept(entry: &store::CatalogEntry) -> Option<(FunctionId, u32)> {
    let (_, version) = entry.qualified.rsplit_once('@')?;
    let is_alias = version.parse::<u64>().is_err();
    let count = entry.manifest.min_warm;
    (is_alias && count > 0).then_some((entry.id, count))
}

/// Follows the store for ever and sends each catalog that differs from the one before. Ends when
/// nobody listens any more.
pub async fn follow(store: StoreClient, base: Catalog, catalogs: mpsc::Sender<Catalog>) {
    let mut revision = None;
    let mut log = RateLimit::new(LOG_EVERY);
    loop {
        let answer = tokio::select! {
            () = catalogs.closed() => return,
            answer = async {
                match revision {
                    None => store.catalog().await,
                    Some(revision) => store.wait_for_change(revision, LONG_POLL).await,
                }
            } => answer,
        };
        match answer {
            Ok(catalog) if revision != Some(catalog.revision) => {
                revision = Some(catalog.revision);
                info!(
                    revision = catalog.revision,
                    functions = catalog.entries.len(),
                    "catalog changed"
                );
                if catalogs.send(base.merged(&catalog)).await.is_err() {
                    return;
                }
            }
            Ok(_unchanged) => {}
            Err(error) => {
                if let Some(suppressed) = log.allow() {
                    warn!(
                        error = &error as &dyn std::error::Error,
                        suppressed, "cannot follow the catalog; the last one stays in force"
                    );
                }
                sleep(RETRY_AFTER).await;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use axum::{
        Json, Router, extract::State, http::StatusCode, response::IntoResponse, routing::get,
    };
    use serde_json::{Value, json};

    use super::*;

    /// A store that gives one answer after another, and then the last one for ever.
    async fn fake_store(answers: Vec<Option<Value>>) -> String {
        type Answers = Arc<Mutex<Vec<Option<Value>>>>;
        let next = |State(answers): State<Answers>| async move {
            let mut answers = answers.lock().unwrap();
            let answer = if answers.len() > 1 {
                answers.remove(0)
            } else {
                answers[0].clone()
            };
            match answer {
                Some(catalog) => Json(catalog).into_response(),
                None => StatusCode::INTERNAL_SERVER_ERROR.into_response(),
            }
        };
        let router = Router::new()
            .route("/v1/catalog", get(next))
            .with_state(Arc::new(Mutex::new(answers)));
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        tokio::spawn(async { axum::serve(listener, router).await });
        url
    }

    fn catalog(revision: u64, affinity: &str) -> Value {
        json!({
            "revision": revision,
            "entries": [{
                "id": FunctionId::of("hello").to_string(),
                "name": "hello",
                "qualified": "hello@latest",
                "version": 1,
                "digest": format!("sha256:{}", "0".repeat(64)),
                "manifest": {
                    "name": "hello", "runtime": "python3", "entry": "f.py", "affinity": affinity,
                },
            }],
        })
    }

    #[tokio::test]
    async fn each_change_is_sent_once_and_an_error_keeps_the_last_catalog() {
        let own = Catalog::of_config(&[StaticFunction {
            name: "own".to_owned(),
            affinity: AffinityKind::None,
            schema: None,
        }]);
        let url = fake_store(vec![
            None,
            Some(catalog(9, "none")),
            Some(catalog(9, "none")),
            None,
            // Revisions are names of contents: a later one may be the smaller number.
            Some(catalog(5, "shard")),
        ])
        .await;
        let (catalogs, mut received) = mpsc::channel(1);
        tokio::spawn(follow(StoreClient::new(&url).unwrap(), own, catalogs));
        let first = received.recv().await.unwrap();
        assert_eq!(first.revision, Some(9));
        assert_eq!(
            first.functions.len(),
            2,
            "the configuration's own are there too"
        );
        let second = received.recv().await.unwrap();
        assert_eq!(second.revision, Some(5));
        assert_eq!(
            second.functions[&FunctionId::of("hello")].affinity,
            Affinity::Shard
        );
    }

    #[test]
    fn instances_are_kept_of_aliases_and_not_of_every_version_there_ever_was() {
        let mut answer = catalog(1, "none");
        answer["entries"][0]["manifest"]["min_warm"] = json!(3);
        let mut version = answer["entries"][0].clone();
        version["qualified"] = json!("hello@1");
        version["id"] = json!(FunctionId::of("hello@1").to_string());
        answer["entries"].as_array_mut().unwrap().push(version);
        let store: store::Catalog = serde_json::from_value(answer).unwrap();
        let merged = Catalog::default().merged(&store);
        assert_eq!(merged.kept, [(FunctionId::of("hello"), 3)]);
        assert_eq!(merged.functions.len(), 2);
    }

    #[test]
    fn the_platforms_own_function_goes_to_the_owner_of_its_slot_whatever_the_store_has() {
        let store: store::Catalog = serde_json::from_value(catalog(1, "none")).unwrap();
        let merged = Catalog::default().with_platform().merged(&store);
        let own = &merged.functions[&FunctionId::of("warmpath.async")];
        assert_eq!(own.affinity, Affinity::Shard);
        assert_eq!(merged.functions.len(), 2);
    }

    #[test]
    fn a_bare_name_in_the_configuration_means_its_latest_version() {
        let catalog = Catalog::of_config(&[StaticFunction {
            name: "hello".to_owned(),
            affinity: AffinityKind::Session,
            schema: None,
        }]);
        let function = &catalog.functions[&FunctionId::of("hello")];
        assert_eq!(function.qualified, "hello@latest");
        assert_eq!(function.affinity, Affinity::Session);
    }
}

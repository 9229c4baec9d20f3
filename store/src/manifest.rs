//! `warmpath.toml`: what a bundle says of its function. Read once, at publishing; from then on the
//! parsed form travels in the catalog.
//!
//! Unknown keys are refused, and each number has a range, so that a typo never becomes a default.

use std::{
    collections::BTreeMap,
    path::{Component, Path},
};

use serde::{Deserialize, Serialize};

use crate::{
    digest::Digest,
    egress::{EGRESS_MAX, Egress, EgressError},
    environment::{self, EnvironmentError},
    schema::{Schema, SchemaError},
};

/// Where the manifest lies in a bundle.
pub const MANIFEST_PATH: &str = "warmpath.toml";
/// Longest manifest read.
pub const MANIFEST_BYTES_MAX: u64 = 64 * 1024;
/// Longest function name: one DNS label, so that a name can be a host name as well.
pub const NAME_LEN_MAX: usize = 63;

/// Most package layers of one function.
pub const LAYERS_MAX: usize = 64;

/// The parsed manifest of one version of a function.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Manifest {
    /// The function's name: `[a-z0-9][a-z0-9-]{0,62}`.
    pub name: String,
    /// What runs the code.
    #[serde(default)]
    pub runtime: Runtime,
    /// The file that holds the handler, relative to the bundle's root.
    #[serde(default = "default_entry")]
    pub entry: String,
    /// How the handler is called.
    #[serde(default)]
    pub interface: Interface,
    /// The application's name in the entry, for the interfaces that have one.
    #[serde(default = "default_app")]
    pub app: String,
    /// HTTP methods that the function takes; absent, what its interface says.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub methods: Option<Vec<String>>,
    /// Which requests should meet the same worker.
    #[serde(default)]
    pub affinity: AffinityKind,
    /// How long one request may run.
    #[serde(default = "default_timeout_ms")]
    pub timeout_ms: u32,
    /// Memory of one instance.
    #[serde(default = "default_memory_mb")]
    pub memory_mb: u32,
    /// Processes and threads of one instance.
    #[serde(default = "default_pids")]
    pub pids: u32,
    /// CPU of one instance, in per cent of one core.
    #[serde(default = "default_cpu_percent")]
    pub cpu_percent: u32,
    /// Size of the private `/tmp` of one instance.
    #[serde(default = "default_tmp_mb")]
    pub tmp_mb: u32,
    /// Requests that one instance serves at a time.
    #[serde(default = "default_concurrency")]
    pub concurrency: u32,
    /// Instances that are kept whether or not anyone calls, over all workers.
    #[serde(default)]
    pub min_warm: u32,
    /// Most instances on one worker; absent: as many as the worker allows.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_instances: Option<u32>,
    /// How the handler takes its event and gives its reply.
    #[serde(default)]
    pub payload: PayloadKind,
    /// The package layers it runs with, in the order in which they are searched.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub layers: Vec<Digest>,
    /// Whose function it is. Tenants see nothing of each other: secrets are looked up under this name.
    #[serde(default = "default_tenant")]
    pub tenant: String,
    /// Environment variables, as they are.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub env: BTreeMap<String, String>,
    /// Environment variables whose values are secrets of the tenant, by the secrets' names.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub secrets: BTreeMap<String, String>,
    /// Where it may connect to; nowhere by default.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub network: Vec<Egress>,
    /// Where the payload holds the session or shard key of requests that do not name it in their header.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub schema: Option<Schema>,
}

/// What runs the code.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Runtime {
    /// CPython 3: `entry` defines `f(event)` or `f(event, context)`.
    #[default]
    Python3,
    /// Node.js: `entry` exports `f(event, context)`.
    Node,
    /// `entry` is executed, and speaks the runtime protocol itself.
    Native,
}

/// How the handler is called.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Interface {
    /// With the event, which is the body of a POST; it returns the reply.
    #[default]
    Event,
    /// With a request of HTTP; it returns status, headers and body.
    Http,
    /// As a WSGI application (PEP 3333).
    Wsgi,
    /// As an ASGI application.
    Asgi,
    /// As OpenLambda does: `f` with the event if the entry has one, else `app`, as ASGI or WSGI.
    Auto,
}

/// Methods of HTTP that a function can take.
pub const METHODS: [&str; 7] = ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"];

/// Which requests should meet the same worker (DESIGN §5).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum AffinityKind {
    /// Any warm worker will do.
    #[default]
    None,
    /// Requests of one session.
    Session,
    /// Requests of one slot go to the worker that owns it, and nowhere else.
    Shard,
}

/// How the handler takes its event and gives its reply.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum PayloadKind {
    /// Decoded and encoded as JSON by the runtime.
    #[default]
    Json,
    /// Bytes, as they are.
    Bytes,
}

fn default_entry() -> String {
    "f.py".to_owned()
}

fn default_app() -> String {
    "app".to_owned()
}

const fn default_timeout_ms() -> u32 {
    3_000
}

const fn default_memory_mb() -> u32 {
    128
}

const fn default_pids() -> u32 {
    32
}

const fn default_cpu_percent() -> u32 {
    100
}

const fn default_tmp_mb() -> u32 {
    16
}

const fn default_concurrency() -> u32 {
    1
}

fn default_tenant() -> String {
    "default".to_owned()
}

/// Why a manifest is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ManifestError {
    /// Not UTF-8.
    #[error("{MANIFEST_PATH} is not UTF-8 text")]
    Encoding,
    /// Not TOML, an unknown or missing key, or a value of the wrong kind.
    #[error("{MANIFEST_PATH} cannot be read: {reason}")]
    Syntax {
        /// What the parser said, with line and column.
        reason: String,
    },
    /// A number outside its range.
    #[error("{MANIFEST_PATH}: `{key} = {given}` is outside the allowed range {min} to {max}")]
    OutOfRange {
        /// The key.
        key: &'static str,
        /// Its value.
        given: u32,
        /// Smallest value allowed.
        min: u32,
        /// Largest value allowed.
        max: u32,
    },
    /// A name that breaks the rule for function names.
    #[error(
        "`name = \"{given}\"` is no function name: 1 to 63 of a-z, 0-9 and `-`, \
         beginning with a letter or digit"
    )]
    Name {
        /// The refused name.
        given: String,
    },
    /// An entry that is no plain relative path.
    #[error("`entry = \"{given}\"` must be a path inside the bundle, such as `f.py`")]
    Entry {
        /// The refused path.
        given: String,
    },
    /// More layers than a sandbox mounts.
    #[error("{MANIFEST_PATH}: `layers` has {given} entries, more than the {LAYERS_MAX} allowed")]
    TooManyLayers {
        /// How many.
        given: usize,
    },
    /// A layer that stands there twice.
    #[error("{MANIFEST_PATH}: `layers` holds {digest} twice")]
    DuplicateLayer {
        /// Which.
        digest: Digest,
    },
    /// An entry that its runtime cannot load.
    #[error(
        "`entry = \"{given}\"`: `runtime = \"node\"` loads files that end in .js, .cjs or .mjs"
    )]
    EntryKind {
        /// The refused path.
        given: String,
    },
    /// An interface that its runtime does not have.
    #[error(
        "`interface`: only `runtime = \"python3\"` has wsgi, asgi and auto; the others have event and http"
    )]
    Interface,
    /// An application that is no name.
    #[error("`app = \"{given}\"` must be the name of a variable of the entry, such as `app`")]
    App {
        /// The refused name.
        given: String,
    },
    /// A method that is none, or is there twice, or no method at all.
    #[error("`methods` must be one or more of {}, each once: `{given}` is not", METHODS.join(", "))]
    Method {
        /// The refused method.
        given: String,
    },
    /// A tenant that breaks the rule for names.
    #[error(
        "`tenant = \"{given}\"` is no name of a tenant: 1 to 63 of a-z, 0-9 and `-`, \
         beginning with a letter or digit"
    )]
    Tenant {
        /// The refused name.
        given: String,
    },
    /// An environment that cannot be.
    #[error(transparent)]
    Environment(#[from] EnvironmentError),
    /// Too many networks.
    #[error(transparent)]
    Network(#[from] EgressError),
    /// A schema that cannot be compiled.
    #[error(transparent)]
    Schema(#[from] SchemaError),
}

/// Checks a function's name.
///
/// # Errors
/// [`ManifestError::Name`] when it is not `[a-z0-9][a-z0-9-]{0,62}`.
pub fn check_name(name: &str) -> Result<(), ManifestError> {
    let is_plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    let fits = (1..=NAME_LEN_MAX).contains(&name.len())
        && name.bytes().next().is_some_and(is_plain)
        && name.bytes().all(|byte| is_plain(byte) || byte == b'-');
    if fits {
        Ok(())
    } else {
        Err(ManifestError::Name {
            given: name.chars().take(NAME_LEN_MAX + 1).collect(),
        })
    }
}

fn check_layers(layers: &[Digest]) -> Result<(), ManifestError> {
    if layers.len() > LAYERS_MAX {
        return Err(ManifestError::TooManyLayers {
            given: layers.len(),
        });
    }
    let duplicate = (1..layers.len()).find(|&at| layers[..at].contains(&layers[at]));
    match duplicate {
        Some(at) => Err(ManifestError::DuplicateLayer {
            digest: layers[at].clone(),
        }),
        None => Ok(()),
    }
}

impl Manifest {
    /// Reads and checks the bytes of a `warmpath.toml`.
    ///
    /// # Errors
    /// [`ManifestError`], naming the key and what it allows.
    pub fn parse(bytes: &[u8]) -> Result<Self, ManifestError> {
        let text = str::from_utf8(bytes).or(Err(ManifestError::Encoding))?;
        let manifest: Self = toml::from_str(text).map_err(|error| ManifestError::Syntax {
            reason: error.to_string().trim_end().to_owned(),
        })?;
        manifest.check()?;
        Ok(manifest)
    }

    /// Checks every value against its range.
    ///
    /// # Errors
    /// [`ManifestError`] for the first value that breaks its rule.
    pub fn check(&self) -> Result<(), ManifestError> {
        check_name(&self.name)?;
        let entry = Path::new(&self.entry);
        let is_plain = !self.entry.is_empty()
            && !self.entry.contains('\0')
            && entry
                .components()
                .all(|part| matches!(part, Component::Normal(_)));
        if !is_plain {
            return Err(ManifestError::Entry {
                given: self.entry.clone(),
            });
        }
        for (key, given, min, max) in [
            ("timeout_ms", self.timeout_ms, 1, 900_000),
            ("memory_mb", self.memory_mb, 16, 10_240),
            ("pids", self.pids, 1, 4_096),
            ("cpu_percent", self.cpu_percent, 1, 6_400),
            ("tmp_mb", self.tmp_mb, 1, 4_096),
            ("concurrency", self.concurrency, 1, 256),
            ("min_warm", self.min_warm, 0, 1_024),
            ("max_instances", self.max_instances.unwrap_or(1), 1, 4_096),
        ] {
            if !(min..=max).contains(&given) {
                return Err(ManifestError::OutOfRange {
                    key,
                    given,
                    min,
                    max,
                });
            }
        }
        check_layers(&self.layers)?;
        environment::check_tenant(&self.tenant)?;
        environment::check(&self.env, &self.secrets)?;
        if self.network.len() > EGRESS_MAX {
            return Err(EgressError::TooMany {
                given: self.network.len(),
            }
            .into());
        }
        if let Some(schema) = &self.schema {
            schema.compile(self.affinity)?;
        }
        self.check_interface()
    }

    fn check_interface(&self) -> Result<(), ManifestError> {
        let is_name = !self.app.starts_with(|c: char| c.is_ascii_digit())
            && (1..=NAME_LEN_MAX).contains(&self.app.len())
            && self
                .app
                .bytes()
                .all(|byte| byte.is_ascii_alphanumeric() || byte == b'_');
        if !is_name {
            return Err(ManifestError::App {
                given: self.app.chars().take(NAME_LEN_MAX + 1).collect(),
            });
        }
        let is_of_python = matches!(
            self.interface,
            Interface::Wsgi | Interface::Asgi | Interface::Auto
        );
        if is_of_python && self.runtime != Runtime::Python3 {
            return Err(ManifestError::Interface);
        }
        let is_script = [".js", ".cjs", ".mjs"]
            .iter()
            .any(|end| self.entry.ends_with(end));
        if self.runtime == Runtime::Node && !is_script {
            return Err(ManifestError::EntryKind {
                given: self.entry.clone(),
            });
        }
        let methods = self.methods.as_deref().unwrap_or(&[]);
        let is_empty = self.methods.is_some() && methods.is_empty();
        let bad = methods.iter().enumerate().find(|(index, method)| {
            !METHODS.contains(&method.as_str())
                || methods.iter().take(*index).any(|it| it == *method)
        });
        match bad {
            Some((_, method)) => Err(ManifestError::Method {
                given: method.chars().take(NAME_LEN_MAX).collect(),
            }),
            None if is_empty => Err(ManifestError::Method {
                given: String::new(),
            }),
            None => Ok(()),
        }
    }

    /// Whether the function takes this HTTP method. One that takes GET takes HEAD (RFC 9110 §9.1).
    #[must_use]
    pub fn takes(&self, method: &str) -> bool {
        let method = if method == "HEAD" && self.is_listed("GET") {
            "GET"
        } else {
            method
        };
        self.is_listed(method)
    }

    /// The methods that it takes, as the header Allow says it.
    #[must_use]
    pub fn allow(&self) -> String {
        let taken = METHODS.into_iter().filter(|method| self.takes(method));
        taken.collect::<Vec<_>>().join(", ")
    }

    fn is_listed(&self, method: &str) -> bool {
        match (&self.methods, self.interface) {
            (Some(methods), _) => methods.iter().any(|it| it == method),
            (None, Interface::Event) => method == "POST",
            (None, _) => METHODS.contains(&method),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<Manifest, ManifestError> {
        Manifest::parse(text.as_bytes())
    }

    #[test]
    fn a_name_is_all_a_manifest_needs() {
        let manifest = parse("name = \"hello\"").unwrap();
        assert_eq!(manifest.entry, "f.py");
        assert_eq!(manifest.runtime, Runtime::Python3);
        assert_eq!(manifest.affinity, AffinityKind::None);
        assert_eq!(manifest.payload, PayloadKind::Json);
        assert_eq!((manifest.timeout_ms, manifest.memory_mb), (3_000, 128));
        assert_eq!((manifest.pids, manifest.cpu_percent), (32, 100));
        assert_eq!((manifest.tmp_mb, manifest.concurrency), (16, 1));
        assert_eq!((manifest.min_warm, manifest.max_instances), (0, None));
    }

    #[test]
    fn every_key_can_be_set() {
        let manifest = parse(
            "name = \"k\"\nruntime = \"python3\"\nentry = \"src/app.py\"\naffinity = \"shard\"\n\
             timeout_ms = 10\nmemory_mb = 64\npids = 8\ncpu_percent = 50\ntmp_mb = 1\n\
             payload = \"bytes\"\nconcurrency = 8\nmin_warm = 2\nmax_instances = 5\n",
        )
        .unwrap();
        assert_eq!(manifest.affinity, AffinityKind::Shard);
        assert_eq!(manifest.payload, PayloadKind::Bytes);
        assert_eq!(manifest.entry, "src/app.py");
        assert_eq!(manifest.concurrency, 8);
        assert_eq!((manifest.min_warm, manifest.max_instances), (2, Some(5)));
    }

    #[test]
    fn an_unknown_key_is_named_in_the_refusal() {
        let error = parse("name = \"a\"\nmemory = 128").unwrap_err();
        assert!(error.to_string().contains("memory"), "{error}");
    }

    #[test]
    fn a_number_out_of_range_is_refused_with_key_and_range() {
        for (key, max) in [
            ("timeout_ms", "900000"),
            ("memory_mb", "10240"),
            ("pids", "4096"),
            ("cpu_percent", "6400"),
            ("tmp_mb", "4096"),
            ("concurrency", "256"),
        ] {
            for value in ["0", "999999999"] {
                let error = parse(&format!("name = \"a\"\n{key} = {value}")).unwrap_err();
                assert!(matches!(error, ManifestError::OutOfRange { .. }));
                let text = error.to_string();
                assert!(text.contains(key) && text.contains(max), "{text}");
            }
        }
    }

    #[test]
    fn none_kept_warm_is_allowed_and_none_at_most_is_not() {
        assert!(parse("name = \"a\"\nmin_warm = 0").is_ok());
        for line in [
            "min_warm = 1025",
            "max_instances = 0",
            "max_instances = 5000",
        ] {
            let error = parse(&format!("name = \"a\"\n{line}")).unwrap_err();
            assert!(matches!(error, ManifestError::OutOfRange { .. }), "{line}");
        }
    }

    #[test]
    fn a_name_that_could_not_be_a_path_or_host_is_refused() {
        for bad in [
            "",
            "-a",
            "A",
            "a_b",
            "a/b",
            "..",
            "a@b",
            "ä",
            &"a".repeat(64),
        ] {
            let error = parse(&format!("name = \"{bad}\"")).unwrap_err();
            assert!(matches!(error, ManifestError::Name { .. }), "{bad}");
        }
        for good in ["a", "0", "a-b-3", &"a".repeat(63)] {
            assert!(check_name(good).is_ok(), "{good}");
        }
    }

    #[test]
    fn layers_are_digests_and_no_two_are_the_same() {
        let of = |number: usize| format!("\"{}\"", Digest::of(number.to_string().as_bytes()));
        let with =
            |layers: &[String]| parse(&format!("name = \"a\"\nlayers = [{}]", layers.join(",")));
        assert_eq!(with(&[of(1), of(2)]).unwrap().layers.len(), 2);
        let twice = with(&[of(1), of(2), of(1)]).unwrap_err();
        assert!(matches!(twice, ManifestError::DuplicateLayer { .. }));
        let many: Vec<String> = (0..=LAYERS_MAX).map(of).collect();
        assert!(matches!(
            with(&many).unwrap_err(),
            ManifestError::TooManyLayers { given: 65 }
        ));
        let error = with(&["\"numpy\"".to_owned()]).unwrap_err();
        assert!(error.to_string().contains("no digest"), "{error}");
    }

    #[test]
    fn an_entry_outside_the_bundle_is_refused() {
        for bad in ["", "/f.py", "../f.py", "a/../f.py", "./f.py"] {
            let error = parse(&format!("name = \"a\"\nentry = \"{bad}\"")).unwrap_err();
            assert!(matches!(error, ManifestError::Entry { .. }), "{bad}");
        }
    }

    #[test]
    fn an_event_takes_post_and_the_others_every_method_unless_they_say() {
        let event = parse("name = \"a\"").unwrap();
        assert!(event.takes("POST") && !event.takes("GET") && !event.takes("HEAD"));
        assert_eq!(event.allow(), "POST");
        let wsgi = parse("name = \"a\"\ninterface = \"wsgi\"\napp = \"my_app\"").unwrap();
        assert_eq!(
            (wsgi.app.as_str(), wsgi.allow()),
            ("my_app", METHODS.join(", "))
        );
        assert!(!wsgi.takes("TRACE"));
        let said = parse("name = \"a\"\nmethods = [\"GET\", \"PUT\"]").unwrap();
        assert_eq!(said.allow(), "GET, HEAD, PUT");
        assert!(!said.takes("POST"));
    }

    #[test]
    fn methods_and_applications_that_are_none_are_refused() {
        for bad in [
            "[]",
            "[\"get\"]",
            "[\"GET\", \"GET\"]",
            "[\"BREW\"]",
            "[\"\"]",
        ] {
            let error = parse(&format!("name = \"a\"\nmethods = {bad}")).unwrap_err();
            assert!(
                matches!(error, ManifestError::Method { .. }),
                "{bad}: {error}"
            );
        }
        for bad in ["", "1a", "a.b", "a:b", "ä", &"a".repeat(64)] {
            let error = parse(&format!("name = \"a\"\napp = \"{bad}\"")).unwrap_err();
            assert!(matches!(error, ManifestError::App { .. }), "{bad}: {error}");
        }
        assert!(parse("name = \"a\"\ninterface = \"cgi\"").is_err());
    }

    #[test]
    fn what_a_runtime_cannot_load_is_refused() {
        let of = |more: &str| parse(&format!("name = \"a\"\n{more}"));
        for good in [
            "runtime = \"node\"\nentry = \"f.mjs\"",
            "runtime = \"native\"\nentry = \"bin/f\"\ninterface = \"http\"",
        ] {
            assert!(of(good).is_ok(), "{good}");
        }
        assert!(matches!(
            of("runtime = \"node\""),
            Err(ManifestError::EntryKind { .. })
        ));
        let wsgi = "runtime = \"native\"\nentry = \"f\"\ninterface = \"wsgi\"";
        assert_eq!(of(wsgi), Err(ManifestError::Interface));
        assert!(of("runtime = \"ruby\"").is_err());
    }

    #[test]
    fn text_that_is_not_utf8_is_refused() {
        assert_eq!(Manifest::parse(&[0xff]), Err(ManifestError::Encoding));
    }
}

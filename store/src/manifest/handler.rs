//! The handler, as the manifest describes it: what runs it, how it is called, and what it takes by HTTP.

use serde::{Deserialize, Serialize};

use super::{Manifest, ManifestError, NAME_LEN_MAX};

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

impl Manifest {
    pub(super) fn check_interface(&self) -> Result<(), ManifestError> {
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
        // Who is called by triggers need not be called by HTTP.
        let is_empty = self.methods.is_some() && methods.is_empty() && self.triggers.is_empty();
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

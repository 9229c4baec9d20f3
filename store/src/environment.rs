//! What a manifest says of a function's environment: plain values, and secrets by name. The store, the catalog and
//! everything that shows them know names of secrets only; their values are files on the workers.

use std::collections::BTreeMap;

use crate::manifest::{ManifestError, check_name};

/// Most variables of one function, secrets included.
const VARIABLES_MAX: usize = 128;
/// Most bytes of names and plain values together.
const BYTES_MAX: usize = 32 * 1024;
/// Longest name of a variable.
const NAME_LEN_MAX: usize = 256;

/// Why a manifest's `[env]` or `secrets` is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum EnvironmentError {
    /// No name of an environment variable.
    #[error(
        "`{given}` is no name for an environment variable: letters, digits and `_`, no digit first"
    )]
    Variable {
        /// The refused name.
        given: String,
    },
    /// A value that no environment can hold.
    #[error("the value of `{variable}` holds a zero byte")]
    Value {
        /// Whose value.
        variable: String,
    },
    /// A name that no file of a secret has.
    #[error(
        "`{given}` is no name for a secret: 1 to 63 of a-z, 0-9 and `-`, beginning with a letter or digit"
    )]
    Secret {
        /// The refused name.
        given: String,
    },
    /// Set plainly and as a secret.
    #[error("`{variable}` stands in `[env]` and in `secrets`: in one of them it would not count")]
    Twice {
        /// Which.
        variable: String,
    },
    /// More than an environment should hold.
    #[error("{given} {unit}, and {most} are the most")]
    TooMuch {
        /// How much there is.
        given: usize,
        /// The most allowed.
        most: usize,
        /// Of what.
        unit: &'static str,
    },
}

/// Checks both tables against each other and their rules.
pub(crate) fn check(
    env: &BTreeMap<String, String>,
    secrets: &BTreeMap<String, String>,
) -> Result<(), EnvironmentError> {
    for variable in env.keys().chain(secrets.keys()) {
        check_variable(variable)?;
    }
    if let Some(variable) = env.iter().find(|(_, value)| value.contains('\0')) {
        return Err(EnvironmentError::Value {
            variable: variable.0.clone(),
        });
    }
    if let Some(name) = secrets.values().find(|name| check_name(name).is_err()) {
        return Err(EnvironmentError::Secret {
            given: name.chars().take(NAME_LEN_MAX).collect(),
        });
    }
    if let Some(variable) = secrets.keys().find(|variable| env.contains_key(*variable)) {
        return Err(EnvironmentError::Twice {
            variable: variable.clone(),
        });
    }
    let bytes = env.iter().map(|(name, value)| name.len() + value.len());
    for (given, most, unit) in [
        (env.len() + secrets.len(), VARIABLES_MAX, "variables"),
        (bytes.sum(), BYTES_MAX, "bytes in `[env]`"),
    ] {
        if given > most {
            return Err(EnvironmentError::TooMuch { given, most, unit });
        }
    }
    Ok(())
}

fn check_variable(name: &str) -> Result<(), EnvironmentError> {
    let is_good = (1..=NAME_LEN_MAX).contains(&name.len())
        && name
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || byte == b'_')
        && !name.starts_with(|first: char| first.is_ascii_digit());
    if is_good {
        Ok(())
    } else {
        Err(EnvironmentError::Variable {
            given: name.chars().take(NAME_LEN_MAX).collect(),
        })
    }
}

/// Checks the name of a tenant, which follows the rule for names of functions.
pub(crate) fn check_tenant(tenant: &str) -> Result<(), ManifestError> {
    if check_name(tenant).is_ok() {
        return Ok(());
    }
    Err(ManifestError::Tenant {
        given: tenant.chars().take(NAME_LEN_MAX).collect(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Manifest;

    fn parse(text: &str) -> Result<Manifest, ManifestError> {
        Manifest::parse(format!("name = \"a\"\n{text}").as_bytes())
    }

    #[test]
    fn plain_values_and_names_of_secrets_are_read() {
        let text = "tenant = \"acme\"\nsecrets = { DB_PASSWORD = \"db-password\" }\n[env]\nMODE = \"fast\"\n";
        let manifest = parse(text).unwrap();
        assert_eq!(manifest.tenant, "acme");
        assert_eq!(manifest.env["MODE"], "fast");
        assert_eq!(manifest.secrets["DB_PASSWORD"], "db-password");
        let plain = parse("").unwrap();
        assert_eq!(plain.tenant, "default");
        assert!(plain.env.is_empty() && plain.secrets.is_empty());
    }

    #[test]
    fn names_that_would_be_paths_or_no_variables_are_refused() {
        for bad in ["../shadow", "a/b", "", "A", ".hidden", &"a".repeat(64)] {
            let error = parse(&format!("secrets = {{ A = {bad:?} }}")).unwrap_err();
            assert!(error.to_string().contains("secret"), "{bad}: {error}");
            let error = parse(&format!("tenant = {bad:?}")).unwrap_err();
            assert!(matches!(error, ManifestError::Tenant { .. }), "{bad}");
        }
        for bad in ["1A", "A-B", "A=B", "", "ä"] {
            let error = parse(&format!("[env]\n{bad:?} = \"x\"")).unwrap_err();
            assert!(error.to_string().contains("variable"), "{bad}: {error}");
        }
    }

    #[test]
    fn what_contradicts_itself_or_is_too_much_is_refused() {
        let twice = parse("secrets = { A = \"a\" }\n[env]\nA = \"x\"").unwrap_err();
        assert!(twice.to_string().contains("`A`"), "{twice}");
        let zero = parse("[env]\nA = \"a\\u0000b\"").unwrap_err();
        assert!(zero.to_string().contains("zero byte"), "{zero}");
        let long = parse(&format!("[env]\nA = \"{}\"", "x".repeat(BYTES_MAX))).unwrap_err();
        assert!(long.to_string().contains("32768"), "{long}");
        let many: String = (0..=VARIABLES_MAX)
            .map(|number| format!("V{number} = \"\"\n"))
            .collect();
        let many = parse(&format!("[env]\n{many}")).unwrap_err();
        assert!(many.to_string().contains("129 variables"), "{many}");
        let number = parse("[env]\nA = 1").unwrap_err();
        assert!(matches!(number, ManifestError::Syntax { .. }));
    }
}

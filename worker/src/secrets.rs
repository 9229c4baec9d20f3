//! Secrets of functions: files on the worker's host that only their owner, root, can read.
//!
//! ```text
//! <dir>/<tenant>/<name>     mode 0600, the value as UTF-8; one line end behind it is not part of it
//! ```
//!
//! They are read when an instance is started, so that a changed one needs no restart; an instance that was started with
//! another value serves no more requests ([`Environment::is_current`]). A value goes into the load frame and nowhere
//! else: not into logs, metrics, messages or the catalog, and nothing here shows one.
//!
//! Invariant: a function gets secrets of its own tenant only. Names are those of the manifest's rule, so that they are
//! never paths, and no symbolic link is followed.

use std::{
    collections::BTreeMap,
    fmt,
    fs::File,
    io::{self, Read as _},
    os::unix::fs::MetadataExt as _,
    path::PathBuf,
};

use rustix::fs::{CWD, Mode, OFlags, ResolveFlags, openat2};
use serde::{Deserialize, Serialize};
use store::Manifest;

/// Longest secret: a chain of certificates fits.
const SECRET_BYTES_MAX: u64 = 64 * 1024;
/// Bits of a mode that let others than the owner do anything.
const OTHERS: u32 = 0o077;

/// `[secrets]`: where they are.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct SecretsConfig {
    /// The directory with one directory for each tenant.
    pub dir: PathBuf,
}

impl Default for SecretsConfig {
    fn default() -> Self {
        Self {
            dir: PathBuf::from("/etc/warmpath/secrets"),
        }
    }
}

/// Why a function does not get one of its secrets. Callers read this: it has neither values nor paths of the host.
#[derive(Debug, thiserror::Error)]
pub enum SecretError {
    /// There is none of that name.
    #[error("this worker has no secret `{name}` of tenant `{tenant}`: its operator has to add it")]
    Missing {
        /// Whose.
        tenant: String,
        /// Which.
        name: String,
    },
    /// Others than root could read or exchange it.
    #[error(
        "the secret `{name}` of tenant `{tenant}` is not used, for others than its owner can read or change it: it has to be \
         a plain file of the worker's user with mode 0600"
    )]
    Exposed {
        /// Whose.
        tenant: String,
        /// Which.
        name: String,
    },
    /// No environment variable can hold it.
    #[error(
        "the secret `{name}` of tenant `{tenant}` cannot be an environment variable: it has to be UTF-8 text without a zero \
         byte, of at most {SECRET_BYTES_MAX} bytes"
    )]
    Unfit {
        /// Whose.
        tenant: String,
        /// Which.
        name: String,
    },
    /// The file is there and cannot be read.
    #[error("the secret `{name}` of tenant `{tenant}` cannot be read")]
    Read {
        /// Whose.
        tenant: String,
        /// Which.
        name: String,
        /// What the system said.
        #[source]
        source: io::Error,
    },
}

/// What a change of a file changes: where it lies, and when its content or mode was written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Stamp {
    inode: u64,
    changed: (i64, i64),
}

impl Stamp {
    fn of(metadata: &std::fs::Metadata) -> Self {
        Self {
            inode: metadata.ino(),
            changed: (metadata.ctime(), metadata.ctime_nsec()),
        }
    }
}

/// The environment of one instance, secrets included.
#[derive(Default, Serialize)]
#[serde(transparent)]
pub struct Environment {
    variables: BTreeMap<String, String>,
    #[serde(skip)]
    files: Vec<(PathBuf, Stamp)>,
}

impl fmt::Debug for Environment {
    /// Names only.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.variables.keys()).finish()
    }
}

impl Environment {
    /// Reads what `manifest` asks for. Blocks for as long as the files take to be read.
    ///
    /// # Errors
    /// Says of the first secret that cannot be had what is wrong with it.
    pub fn read(config: &SecretsConfig, manifest: &Manifest) -> Result<Self, SecretError> {
        let mut environment = Self {
            variables: manifest.env.clone(),
            files: Vec::with_capacity(manifest.secrets.len()),
        };
        for (variable, name) in &manifest.secrets {
            let path = config.dir.join(&manifest.tenant).join(name);
            let secret = Secret {
                tenant: &manifest.tenant,
                name,
            };
            let (value, stamp) = secret.read(&path)?;
            environment.variables.insert(variable.clone(), value);
            environment.files.push((path, stamp));
        }
        Ok(environment)
    }

    /// The values that `manifest` calls secrets, not to be kept when they are printed.
    pub fn secrets_of(&self, manifest: &Manifest) -> impl Iterator<Item = &str> {
        let names = manifest.secrets.keys();
        names.filter_map(|name| self.variables.get(name).map(String::as_str))
    }

    /// Whether there is nothing in it.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.variables.is_empty()
    }

    /// Whether all secrets are still those that were read. Costs a system call for each, and nothing without any.
    #[must_use]
    pub fn is_current(&self) -> bool {
        self.files.iter().all(|(path, stamp)| {
            std::fs::symlink_metadata(path).is_ok_and(|metadata| Stamp::of(&metadata) == *stamp)
        })
    }

    /// Forgets the values, once the instance has them.
    pub fn forget(&mut self) {
        self.variables.clear();
    }
}

/// One secret, by name.
#[derive(Clone, Copy)]
struct Secret<'a> {
    tenant: &'a str,
    name: &'a str,
}

impl Secret<'_> {
    fn read(self, path: &std::path::Path) -> Result<(String, Stamp), SecretError> {
        let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NOFOLLOW | OFlags::NONBLOCK;
        let file = openat2(CWD, path, flags, Mode::empty(), ResolveFlags::NO_MAGICLINKS);
        let mut file = match file {
            Ok(file) => File::from(file),
            Err(rustix::io::Errno::NOENT | rustix::io::Errno::NOTDIR) => return Err(self.missing()),
            Err(rustix::io::Errno::LOOP) => return Err(self.exposed()),
            Err(error) => return Err(self.unreadable(error.into())),
        };
        let metadata = file.metadata().map_err(|source| self.unreadable(source))?;
        let is_private = metadata.is_file()
            && metadata.mode() & OTHERS == 0
            && metadata.uid() == rustix::process::geteuid().as_raw();
        if !is_private {
            return Err(self.exposed());
        }
        let mut bytes = Vec::new();
        let read = file
            .by_ref()
            .take(SECRET_BYTES_MAX + 1)
            .read_to_end(&mut bytes);
        read.map_err(|source| self.unreadable(source))?;
        if bytes.len() as u64 > SECRET_BYTES_MAX || bytes.contains(&0) {
            return Err(self.unfit());
        }
        let Ok(mut value) = String::from_utf8(bytes) else {
            return Err(self.unfit());
        };
        if value.ends_with('\n') {
            value.pop();
        }
        Ok((value, Stamp::of(&metadata)))
    }

    fn missing(self) -> SecretError {
        let (tenant, name) = self.names();
        SecretError::Missing { tenant, name }
    }

    fn exposed(self) -> SecretError {
        let (tenant, name) = self.names();
        SecretError::Exposed { tenant, name }
    }

    fn unfit(self) -> SecretError {
        let (tenant, name) = self.names();
        SecretError::Unfit { tenant, name }
    }

    fn unreadable(self, source: io::Error) -> SecretError {
        let (tenant, name) = self.names();
        SecretError::Read {
            tenant,
            name,
            source,
        }
    }

    fn names(self) -> (String, String) {
        (self.tenant.to_owned(), self.name.to_owned())
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    struct Dir {
        dir: tempfile::TempDir,
        config: SecretsConfig,
    }

    impl Dir {
        fn new() -> Self {
            let dir = tempfile::tempdir().unwrap();
            let config = SecretsConfig {
                dir: dir.path().to_owned(),
            };
            Self { dir, config }
        }

        fn write(&self, tenant: &str, name: &str, value: &[u8], mode: u32) -> PathBuf {
            let path = self.dir.path().join(tenant).join(name);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(&path, value).unwrap();
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
            path
        }

        fn read(&self, tenant: &str) -> Result<Environment, SecretError> {
            let text = format!(
                "name = \"f\"\ntenant = {tenant:?}\nsecrets = {{ KEY = \"key\" }}\n[env]\nMODE = \"fast\"\n"
            );
            Environment::read(&self.config, &Manifest::parse(text.as_bytes()).unwrap())
        }
    }

    #[test]
    fn a_secret_is_read_for_its_own_tenant_only() {
        let dir = Dir::new();
        dir.write("acme", "key", b"s3cret\n", 0o600);
        let environment = dir.read("acme").unwrap();
        assert_eq!(environment.variables["KEY"], "s3cret");
        assert_eq!(environment.variables["MODE"], "fast");
        let other = dir.read("other").unwrap_err();
        assert!(matches!(other, SecretError::Missing { .. }), "{other}");
        assert!(other.to_string().contains("`key` of tenant `other`"));
    }

    #[test]
    fn nothing_that_can_be_printed_shows_a_value() {
        let dir = Dir::new();
        dir.write("acme", "key", b"s3cret", 0o600);
        let shown = format!("{:?}", dir.read("acme").unwrap());
        assert_eq!(shown, r#"{"KEY", "MODE"}"#);
    }

    #[test]
    fn a_secret_that_others_can_read_or_exchange_is_not_used() {
        let dir = Dir::new();
        for mode in [0o640, 0o604, 0o620, 0o610] {
            dir.write("acme", "key", b"x", mode);
            let error = dir.read("acme").unwrap_err();
            assert!(
                matches!(error, SecretError::Exposed { .. }),
                "{mode:o}: {error}"
            );
        }
        let real = dir.write("acme", "real", b"x", 0o600);
        let link = dir.dir.path().join("acme/key");
        std::fs::remove_file(&link).unwrap();
        std::os::unix::fs::symlink(&real, &link).unwrap();
        assert!(matches!(dir.read("acme"), Err(SecretError::Exposed { .. })));
        std::fs::remove_file(&link).unwrap();
        std::fs::create_dir(&link).unwrap();
        assert!(matches!(dir.read("acme"), Err(SecretError::Exposed { .. })));
    }

    #[test]
    fn what_no_variable_can_hold_is_refused() {
        let dir = Dir::new();
        let long = vec![b'x'; SECRET_BYTES_MAX as usize + 1];
        for value in [&b"a\0b"[..], b"\xff\xfe", &long] {
            dir.write("acme", "key", value, 0o600);
            assert!(matches!(dir.read("acme"), Err(SecretError::Unfit { .. })));
        }
    }

    #[test]
    fn a_change_is_noticed_also_of_mode_and_existence() {
        let dir = Dir::new();
        let path = dir.write("acme", "key", b"one", 0o600);
        let mut environment = dir.read("acme").unwrap();
        assert!(environment.is_current());
        environment.forget();
        assert!(environment.is_empty() && environment.is_current());
        let other = dir.write("acme", "new", b"two", 0o600);
        std::fs::rename(&other, &path).unwrap();
        assert!(!environment.is_current());
        let environment = dir.read("acme").unwrap();
        std::fs::remove_file(&path).unwrap();
        assert!(!environment.is_current());
    }
}

//! `[sandbox] rootfs`: which system the sandboxes of a worker have.

use std::{
    fs::File,
    path::{Path, PathBuf},
};

use serde::Deserialize;

use super::{
    kept::{Kept, KeptError},
    list::{List, ListError},
};

/// Digits of a digest that people are shown.
const SHOWN_LEN: usize = 16;

/// What a worker's configuration says.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub enum Choice {
    /// `host`: the host's own `/usr`.
    #[default]
    Host,
    /// `pinned`: the one that this binary's list makes.
    Pinned,
    /// One that was built, by its digest or the first 12 or more digits of it.
    Digest(String),
    /// Any folder that holds a root file system.
    Path(PathBuf),
}

impl TryFrom<String> for Choice {
    type Error = &'static str;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        let is_digest =
            (12..=64).contains(&text.len()) && text.bytes().all(|c| c.is_ascii_hexdigit());
        match text.as_str() {
            "host" => Ok(Self::Host),
            "pinned" => Ok(Self::Pinned),
            _ if text.starts_with('/') => Ok(Self::Path(text.into())),
            _ if is_digest => Ok(Self::Digest(text.to_lowercase())),
            _ => Err(
                "`rootfs` is \"host\", \"pinned\", a digest of 12 to 64 digits, or a path from /",
            ),
        }
    }
}

/// What was chosen cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// It is not built.
    #[error(transparent)]
    Kept(#[from] KeptError),
    /// There is no list for this processor.
    #[error(transparent)]
    List(#[from] ListError),
    /// The one that this binary's list makes is not built.
    #[error("the pinned root file system is not built: run `warmpath worker rootfs build --dir {}`", dir.display())]
    NotBuilt {
        /// Where it would be.
        dir: PathBuf,
    },
    /// The folder holds none.
    #[error("{path} is no root file system: it has no folder usr")]
    NoRoot {
        /// The folder.
        path: PathBuf,
    },
}

/// A system for sandboxes, which nobody removes for as long as this lives.
#[derive(Debug)]
pub struct System {
    /// The folder that its `/usr` is in.
    pub path: PathBuf,
    /// What people are told: `host`, the first digits of its digest, or its path.
    pub name: String,
    _held: Option<File>,
}

impl Choice {
    /// The system that was chosen; `dir` is where built ones are kept.
    ///
    /// # Errors
    /// [`OpenError`] says what is missing, and what to do.
    pub fn open(&self, dir: &Path) -> Result<System, OpenError> {
        let kept = Kept::new(dir);
        let digest = match self {
            Self::Host => return Ok(System::unheld(PathBuf::from("/"), "host")),
            Self::Path(path) if path.join("usr").is_dir() => {
                return Ok(System::unheld(path.clone(), &path.to_string_lossy()));
            }
            Self::Path(path) => return Err(OpenError::NoRoot { path: path.clone() }),
            Self::Digest(name) => kept.find(name)?,
            Self::Pinned => {
                let digest = List::own()?.digest().hex().to_owned();
                if !kept.has(&digest) {
                    return Err(OpenError::NotBuilt {
                        dir: dir.to_owned(),
                    });
                }
                digest
            }
        };
        let root = kept.root(&digest);
        Ok(System {
            _held: Some(kept.hold(&digest)?),
            // Those who build on it are elsewhere.
            path: root.canonicalize().unwrap_or(root),
            name: digest.chars().take(SHOWN_LEN).collect(),
        })
    }
}

impl System {
    fn unheld(path: PathBuf, name: &str) -> Self {
        Self {
            path,
            name: name.to_owned(),
            _held: None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_choice_is_one_of_four_words() {
        let of = |text: &str| Choice::try_from(text.to_owned());
        assert_eq!(of("host"), Ok(Choice::Host));
        assert_eq!(of("pinned"), Ok(Choice::Pinned));
        assert_eq!(
            of("0123456789AB"),
            Ok(Choice::Digest("0123456789ab".to_owned()))
        );
        assert_eq!(of("/srv/root"), Ok(Choice::Path("/srv/root".into())));
        for bad in [
            "",
            "Host",
            "root",
            "./root",
            "0123456789a",
            &"a".repeat(65),
            "0123456789xy",
        ] {
            assert!(of(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn what_is_not_there_says_what_to_do() {
        let dir = tempfile::tempdir().unwrap();
        let said = |choice: Choice| choice.open(dir.path()).unwrap_err().to_string();
        assert!(said(Choice::Pinned).contains("worker rootfs build --dir"));
        assert!(said(Choice::Digest("a".repeat(12))).contains("rootfs list"));
        assert!(said(Choice::Path(dir.path().to_owned())).contains("no folder usr"));
        std::fs::create_dir(dir.path().join("usr")).unwrap();
        let system = Choice::Path(dir.path().to_owned())
            .open(dir.path())
            .unwrap();
        assert_eq!(system.path, dir.path());
        assert_eq!(Choice::Host.open(dir.path()).unwrap().name, "host");
    }
}

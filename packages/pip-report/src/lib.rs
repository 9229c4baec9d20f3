//! What `pip install --report` writes, as far as it matters here: to the deployer, and to `cargo xtask wheels`, which builds
//! nothing of the platform and so shares nothing else with it.

use serde::Deserialize;

/// A package that pip chose.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Chosen {
    /// Its name, as its author writes it.
    pub name: String,
    /// Its version.
    pub version: String,
    /// What the index says is the SHA-256 of its file, if it says one.
    pub sha256: Option<String>,
}

#[derive(Debug, Deserialize)]
struct Report {
    install: Vec<Install>,
}

#[derive(Debug, Deserialize)]
struct Install {
    metadata: Metadata,
    download_info: Download,
}

#[derive(Debug, Deserialize)]
struct Metadata {
    name: String,
    version: String,
}

#[derive(Debug, Deserialize)]
struct Download {
    #[serde(default)]
    archive_info: Archive,
}

#[derive(Debug, Default, Deserialize)]
struct Archive {
    #[serde(default)]
    hash: Option<String>,
}

/// The packages of pip's report `json`, in its order.
///
/// # Errors
/// When it is none.
pub fn read(json: &[u8]) -> Result<Vec<Chosen>, serde_json::Error> {
    let report: Report = serde_json::from_slice(json)?;
    let chosen = report.install.into_iter().map(|install| {
        let Metadata { name, version } = install.metadata;
        let hash = install.download_info.archive_info.hash;
        let sha256 = hash.and_then(|hash| Some(hash.strip_prefix("sha256=")?.to_owned()));
        Chosen {
            name,
            version,
            sha256,
        }
    });
    Ok(chosen.collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_pip_chose_is_read_and_the_rest_is_passed_over() {
        let json = br#"{"version": "1", "install": [
            {"metadata": {"name": "A_b", "version": "1.0"}, "download_info": {"url": "x", "archive_info": {"hash": "sha256=aa"}}},
            {"metadata": {"name": "c", "version": "2"}, "download_info": {"archive_info": {"hash": "md5=bb"}}},
            {"metadata": {"name": "d", "version": "3"}, "download_info": {}}
        ]}"#;
        let chosen = |name: &str, version: &str, sha256: Option<&str>| Chosen {
            name: name.to_owned(),
            version: version.to_owned(),
            sha256: sha256.map(str::to_owned),
        };
        let expected = [
            chosen("A_b", "1.0", Some("aa")),
            chosen("c", "2", None),
            chosen("d", "3", None),
        ];
        assert_eq!(read(json).unwrap(), expected);
    }

    #[test]
    fn what_is_no_report_is_an_error() {
        for json in ["", "[]", "{}", r#"{"install": [{}]}"#] {
            assert!(read(json.as_bytes()).is_err(), "{json}");
        }
    }
}

//! Packs a function's directory into the tar.gz that the store takes.

use std::{fs, path::Path};

use anyhow::{Context, Result, ensure};
use packages::archive;
use store::{Digest, manifest::MANIFEST_PATH};
use toml::{Table, Value};

use crate::openlambda;

/// Directories and files that are never part of a function.
const LEFT_OUT: [&str; 3] = ["__pycache__", ".git", "node_modules/.cache"];
/// What is in a layer is not in the bundle too.
const IN_LAYER: &str = "node_modules";

/// The bundle of `dir`, whose packages are in `layers`, if it requires any. The same files always give the
/// same bytes, so that publishing twice does not store twice.
///
/// A directory without a manifest may be a function of OpenLambda: then its manifest is derived, for the
/// function `name` or that of the directory's name.
pub(crate) fn pack(dir: &Path, name: Option<&str>, layers: Option<&[Digest]>) -> Result<Vec<u8>> {
    let path = dir.join(MANIFEST_PATH);
    let mut manifest = if path.is_file() {
        fs::read_to_string(&path).with_context(|| format!("read {}", path.display()))?
    } else {
        derive(dir, name)?
    };
    if let Some(layers) = layers {
        manifest = with_layers(&manifest, layers, dir)?;
    }
    let is_left_out = |path: &Path| {
        LEFT_OUT.iter().any(|left_out| path.ends_with(left_out))
            || (layers.is_some() && path.ends_with(IN_LAYER))
    };
    let instead = [(MANIFEST_PATH, manifest.into_bytes())];
    Ok(archive::pack(dir, &is_left_out, &instead)?)
}

/// The manifest with the layers that were made for it.
fn with_layers(manifest: &str, layers: &[Digest], dir: &Path) -> Result<String> {
    let mut manifest: Table = toml::from_str(manifest)
        .with_context(|| format!("read the manifest of {}", dir.display()))?;
    ensure!(
        !manifest.contains_key("layers"),
        "the manifest of {} sets `layers`, and there are requirements to make layers of: remove one of both",
        dir.display()
    );
    let layers = layers.iter().map(|layer| Value::from(layer.as_str()));
    manifest.insert("layers".to_owned(), Value::Array(layers.collect()));
    Ok(toml::to_string(&manifest)?)
}

/// The manifest of a directory that has none, if OpenLambda would run it.
fn derive(dir: &Path, name: Option<&str>) -> Result<String> {
    let config = dir.join(openlambda::CONFIG);
    ensure!(
        config.is_file() || dir.join(openlambda::ENTRY).is_file(),
        "{} has no {MANIFEST_PATH}, nor the {} or {} of a function of OpenLambda: a function is a directory with a \
         manifest (see examples/hello)",
        dir.display(),
        openlambda::ENTRY,
        openlambda::CONFIG,
    );
    let text = match config.is_file() {
        true => Some(
            fs::read_to_string(&config).with_context(|| format!("read {}", config.display()))?,
        ),
        false => None,
    };
    let absolute = dir
        .canonicalize()
        .with_context(|| format!("find {}", dir.display()))?;
    let directory = absolute.file_name().unwrap_or_default().to_string_lossy();
    openlambda::manifest(name.unwrap_or(&directory), text.as_deref())
        .with_context(|| format!("derive the manifest of {}", dir.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn function() -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("warmpath.toml"), "name = \"x\"").unwrap();
        fs::create_dir(dir.path().join("lib")).unwrap();
        fs::write(dir.path().join("lib/a.py"), "").unwrap();
        dir
    }

    #[test]
    fn the_same_files_give_the_same_bytes() {
        assert_eq!(
            pack(function().path(), None, None).unwrap(),
            pack(function().path(), None, None).unwrap()
        );
    }

    #[test]
    fn a_link_is_refused_by_name() {
        let dir = function();
        std::os::unix::fs::symlink("/etc/passwd", dir.path().join("link")).unwrap();
        assert!(
            pack(dir.path(), None, None)
                .unwrap_err()
                .to_string()
                .contains("link")
        );
    }

    #[test]
    fn the_layers_stand_in_the_packed_manifest_alone() {
        let dir = function();
        let manifest = "name = \"x\"\n[env]\nA = \"1\"\n";
        fs::write(dir.path().join("warmpath.toml"), manifest).unwrap();
        let digest = Digest::of(b"layer");
        let with = with_layers(manifest, std::slice::from_ref(&digest), dir.path()).unwrap();
        let table: Table = toml::from_str(&with).unwrap();
        assert_eq!(table["layers"][0].as_str(), Some(digest.as_str()));
        assert_eq!(table["env"]["A"].as_str(), Some("1"));
        let on_disk = fs::read_to_string(dir.path().join("warmpath.toml")).unwrap();
        assert_eq!(on_disk, manifest);
        fs::write(
            dir.path().join("warmpath.toml"),
            "name = \"x\"\nlayers = []",
        )
        .unwrap();
        assert!(pack(dir.path(), None, Some(&[])).is_err());
    }

    #[test]
    fn a_directory_without_a_manifest_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        assert!(
            pack(dir.path(), None, None)
                .unwrap_err()
                .to_string()
                .contains("warmpath.toml")
        );
    }

    #[test]
    fn a_function_of_openlambda_gets_its_manifest() {
        let dir = tempfile::tempdir().unwrap();
        let function = dir.path().join("Echo_1");
        fs::create_dir(&function).unwrap();
        fs::write(function.join("f.py"), "def f(event):\n    return event\n").unwrap();
        let limits = store::Limits::default();
        let unpacked = tempfile::tempdir().unwrap();
        let to = unpacked.path().join("function");
        let manifest = store::unpack(&pack(&function, None, None).unwrap(), &to, &limits).unwrap();
        assert_eq!(manifest.manifest.name, "echo-1");
        assert!(
            !function.join("warmpath.toml").exists(),
            "the directory stays as it is"
        );
        fs::write(function.join("ol.yaml"), "nonsense: 1").unwrap();
        let error = format!("{:#}", pack(&function, None, None).unwrap_err());
        assert!(error.contains("nonsense"), "{error}");
    }
}

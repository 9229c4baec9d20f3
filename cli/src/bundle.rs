//! Packs a function's directory into the tar.gz that the store takes.

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result, bail, ensure};
use flate2::{Compression, write::GzEncoder};
use store::manifest::MANIFEST_PATH;

use crate::openlambda;

/// Directories and files that are never part of a function.
const LEFT_OUT: [&str; 3] = ["__pycache__", ".git", "node_modules/.cache"];

/// The bundle of `dir`. The same files always give the same bytes, so that publishing twice does not
/// store twice: names are sorted, owner and times are zero, modes are 0644 or 0755.
///
/// A directory without a manifest may be a function of OpenLambda: then its manifest is derived, for the
/// function `name` or that of the directory's name.
pub(crate) fn pack(dir: &Path, name: Option<&str>) -> Result<Vec<u8>> {
    let derived = if dir.join(MANIFEST_PATH).is_file() {
        None
    } else {
        Some(derive(dir, name)?)
    };
    let mut files = Vec::new();
    collect(dir, Path::new(""), &mut files)?;
    files.sort();
    let mut archive = tar::Builder::new(GzEncoder::new(Vec::new(), Compression::default()));
    if let Some(manifest) = &derived {
        let mut header = tar::Header::new_gnu();
        header.set_size(manifest.len() as u64);
        header.set_mode(0o644);
        archive.append_data(&mut header, MANIFEST_PATH, manifest.as_bytes())?;
    }
    for file in &files {
        append(&mut archive, dir, file)
            .with_context(|| format!("pack {}", dir.join(file).display()))?;
    }
    Ok(archive.into_inner()?.finish()?)
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

fn append(archive: &mut tar::Builder<GzEncoder<Vec<u8>>>, dir: &Path, file: &Path) -> Result<()> {
    use std::os::unix::fs::PermissionsExt;
    let path = dir.join(file);
    let content = fs::read(&path)?;
    let is_executable = fs::metadata(&path)?.permissions().mode() & 0o100 != 0;
    let mut header = tar::Header::new_gnu();
    header.set_size(content.len() as u64);
    header.set_mode(if is_executable { 0o755 } else { 0o644 });
    Ok(archive.append_data(&mut header, file, content.as_slice())?)
}

/// The regular files below `dir`/`below`, relative to `dir`.
fn collect(dir: &Path, below: &Path, files: &mut Vec<PathBuf>) -> Result<()> {
    let folder = dir.join(below);
    let entries = fs::read_dir(&folder).with_context(|| format!("read {}", folder.display()))?;
    for entry in entries {
        let entry = entry?;
        let name = below.join(entry.file_name());
        if LEFT_OUT.iter().any(|left_out| name.ends_with(left_out)) {
            continue;
        }
        let kind = entry.file_type()?;
        if kind.is_dir() {
            collect(dir, &name, files)?;
        } else if kind.is_file() {
            files.push(name);
        } else {
            bail!(
                "{} is not a regular file: copy what it points to into the function",
                dir.join(name).display()
            );
        }
    }
    Ok(())
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
            pack(function().path(), None).unwrap(),
            pack(function().path(), None).unwrap()
        );
    }

    #[test]
    fn a_link_is_refused_by_name() {
        let dir = function();
        std::os::unix::fs::symlink("/etc/passwd", dir.path().join("link")).unwrap();
        assert!(
            pack(dir.path(), None)
                .unwrap_err()
                .to_string()
                .contains("link")
        );
    }

    #[test]
    fn a_directory_without_a_manifest_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        assert!(
            pack(dir.path(), None)
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
        let manifest = store::unpack(&pack(&function, None).unwrap(), &to, &limits).unwrap();
        assert_eq!(manifest.manifest.name, "echo-1");
        assert!(
            !function.join("warmpath.toml").exists(),
            "the directory stays as it is"
        );
        fs::write(function.join("ol.yaml"), "nonsense: 1").unwrap();
        let error = format!("{:#}", pack(&function, None).unwrap_err());
        assert!(error.contains("nonsense"), "{error}");
    }
}

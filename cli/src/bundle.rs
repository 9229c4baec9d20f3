//! Packs a function's directory into the tar.gz that the store takes.

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result, bail, ensure};
use flate2::{Compression, write::GzEncoder};

/// Directories and files that are never part of a function.
const LEFT_OUT: [&str; 3] = ["__pycache__", ".git", "node_modules/.cache"];

/// The bundle of `dir`. The same files always give the same bytes, so that publishing twice does not
/// store twice: names are sorted, owner and times are zero, modes are 0644 or 0755.
pub(crate) fn pack(dir: &Path) -> Result<Vec<u8>> {
    ensure!(
        dir.join("warmpath.toml").is_file(),
        "{} has no warmpath.toml: a function is a directory with a manifest (see examples/hello)",
        dir.display()
    );
    let mut files = Vec::new();
    collect(dir, Path::new(""), &mut files)?;
    files.sort();
    let mut archive = tar::Builder::new(GzEncoder::new(Vec::new(), Compression::default()));
    for file in &files {
        append(&mut archive, dir, file)
            .with_context(|| format!("pack {}", dir.join(file).display()))?;
    }
    Ok(archive.into_inner()?.finish()?)
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
            pack(function().path()).unwrap(),
            pack(function().path()).unwrap()
        );
    }

    #[test]
    fn a_link_is_refused_by_name() {
        let dir = function();
        std::os::unix::fs::symlink("/etc/passwd", dir.path().join("link")).unwrap();
        assert!(pack(dir.path()).unwrap_err().to_string().contains("link"));
    }

    #[test]
    fn a_directory_without_a_manifest_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        assert!(
            pack(dir.path())
                .unwrap_err()
                .to_string()
                .contains("warmpath.toml")
        );
    }
}

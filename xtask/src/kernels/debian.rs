//! Where the kernels come from: Debian's own packages, fetched by apt (which checks their signatures), unpacked
//! and not installed. What was fetched once is used again; deleting `target/kernels` gets the newest.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use anyhow::{Context as _, Result, bail};

use crate::shell;

/// A kernel of another series, unpacked.
#[derive(Debug, Clone)]
pub(crate) struct DebianKernel {
    /// What `uname -r` says there, for example `6.1.0-56-cloud-amd64`.
    pub(crate) release: String,
    /// The kernel itself.
    pub(crate) image: PathBuf,
    /// `/lib/modules/<release>/kernel`.
    pub(crate) modules: PathBuf,
}

/// The newest kernel of `series` (for example `6.1`) that apt knows, unpacked below `folder`.
///
/// # Errors
/// apt knows none, or cannot fetch it.
pub(crate) fn obtain(series: &str, folder: &Path) -> Result<DebianKernel> {
    if std::env::consts::ARCH != "x86_64" {
        bail!("the kernels for comparison are Debian's for amd64, and this machine is another");
    }
    let unpacked = folder.join("root");
    if let Ok(kernel) = unpacked_kernel(&unpacked) {
        return Ok(kernel);
    }
    fs::create_dir_all(folder).with_context(|| format!("creating {}", folder.display()))?;
    if fetched(folder)?.is_none() {
        fetch(series, folder)?;
    }
    let package = fetched(folder)?.context("apt-get download left no package")?;
    shell::run(
        Command::new("dpkg-deb")
            .arg("--extract")
            .args([&package, &unpacked])
            .stdout(std::io::stderr()),
    )?;
    unpacked_kernel(&unpacked)
}

fn fetch(series: &str, folder: &Path) -> Result<()> {
    let known = || newest(&known_packages(series), series);
    let package = match known() {
        Some(package) => package,
        None => {
            shell::run(
                Command::new("apt-get")
                    .args(["update", "--quiet"])
                    .stdout(std::io::stderr()),
            )?;
            known().with_context(|| {
                format!(
                    "apt knows no package linux-image-{series}.*-cloud-amd64: this series is in Debian 12 (bookworm); \
                     add its sources"
                )
            })?
        }
    };
    shell::say(&format!("kernels: fetching {package}"));
    let mut download = Command::new("apt-get");
    download
        .args(["download", "--quiet", &package])
        .current_dir(folder)
        .stdout(Stdio::null());
    shell::run(&mut download)
}

fn known_packages(series: &str) -> String {
    let prefix = format!("linux-image-{series}.");
    shell::output("apt-cache", &["pkgnames", &prefix]).unwrap_or_default()
}

/// The newest of `names` that is a signed cloud kernel of `series`: small, and it has all that we need.
fn newest(names: &str, series: &str) -> Option<String> {
    let prefix = format!("linux-image-{series}.");
    names
        .lines()
        .filter(|name| name.starts_with(&prefix) && name.ends_with("-cloud-amd64"))
        .max_by_key(|name| numbers(name))
        .map(str::to_owned)
}

/// The numbers in a name, by which kernels are ordered: `6.12.101` comes after `6.12.69`.
fn numbers(name: &str) -> Vec<u64> {
    name.split(|c: char| !c.is_ascii_digit())
        .filter_map(|digits| digits.parse().ok())
        .collect()
}

fn fetched(folder: &Path) -> Result<Option<PathBuf>> {
    let mut packages = list(folder)?;
    packages.retain(|path| path.extension().is_some_and(|extension| extension == "deb"));
    Ok(packages.pop())
}

fn unpacked_kernel(root: &Path) -> Result<DebianKernel> {
    let mut images = list(&root.join("boot"))?;
    images.retain(|path| file_name(path).starts_with("vmlinuz-"));
    let image = images.pop().context("the package holds no vmlinuz")?;
    let release = file_name(&image).trim_start_matches("vmlinuz-").to_owned();
    let modules = root.join("lib/modules").join(&release).join("kernel");
    if !modules.is_dir() {
        bail!("the package holds no modules for {release}");
    }
    Ok(DebianKernel {
        release,
        image,
        modules,
    })
}

/// What is in `folder`, in the order of its names.
fn list(folder: &Path) -> Result<Vec<PathBuf>> {
    let entries = fs::read_dir(folder).with_context(|| format!("reading {}", folder.display()))?;
    let mut paths = entries
        .map(|entry| entry.map(|entry| entry.path()))
        .collect::<Result<Vec<_>, _>>()
        .with_context(|| format!("reading {}", folder.display()))?;
    paths.sort();
    Ok(paths)
}

fn file_name(path: &Path) -> &str {
    path.file_name()
        .and_then(|name| name.to_str())
        .unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_signed_cloud_kernel_of_the_series_is_taken() {
        let names = "linux-image-6.12.69+deb12-cloud-amd64\n\
                     linux-image-6.12.101+deb12-cloud-amd64\n\
                     linux-image-6.12.117+deb12-amd64\n\
                     linux-image-6.12.117+deb12-cloud-amd64-unsigned\n\
                     linux-image-6.12.9+deb12-cloud-amd64\n";
        assert_eq!(
            newest(names, "6.12").as_deref(),
            Some("linux-image-6.12.101+deb12-cloud-amd64")
        );
        assert_eq!(newest(names, "6.1"), None, "6.12 is no 6.1");
        let abi = "linux-image-6.1.0-9-cloud-amd64\nlinux-image-6.1.0-56-cloud-amd64\n";
        assert_eq!(
            newest(abi, "6.1").as_deref(),
            Some("linux-image-6.1.0-56-cloud-amd64")
        );
    }
}

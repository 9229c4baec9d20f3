//! The file system of a virtual machine: busybox, the programs of the test with the libraries that they load, the
//! kernel modules, and an `init` that runs one script and says how it ended. All of it is in the initramfs:
//! the cloud kernels have no file system to share with the host.

use std::{
    collections::BTreeSet,
    fs::{self, File},
    io::Write as _,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use anyhow::{Context as _, Result, bail};

use super::modules;
use crate::{shell, toolchain::which};

/// What a virtual machine holds and does.
#[derive(Debug, Default)]
pub(crate) struct Guest {
    /// Programs of this machine by name or path, and where they are there.
    pub(crate) programs: Vec<(PathBuf, &'static str)>,
    /// Other files, and where they are there.
    pub(crate) files: Vec<(PathBuf, &'static str)>,
    /// Kernel modules, loaded in this order, each after those that it needs.
    pub(crate) modules: Vec<&'static str>,
    /// A shell script. Its output, and how it ended, come back by [`super::vm`].
    pub(crate) script: String,
}

/// The last line that `init` writes, with the script's exit status behind it.
pub(crate) const EXIT: &str = "warmpath-guest-exit=";
/// The static busybox of Debian's `busybox-static`.
pub(crate) const BUSYBOX: &str = "/bin/busybox";

const INIT_BEGIN: &str = r#"#!/bin/busybox sh
/bin/busybox --install -s /bin
export PATH=/sbin:/bin HOME=/tmp
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t devtmpfs devtmpfs /dev
mount -t tmpfs tmpfs /tmp
mount -t tmpfs tmpfs /run
mount -t bpf bpf /sys/fs/bpf
mount -t cgroup2 cgroup2 /sys/fs/cgroup
stty -F /dev/ttyS1 raw
exec > /dev/ttyS1 2>&1
while read -r module; do
    insmod "/modules/$module" || echo "init: cannot load $module"
done < /modules/order
ip link set lo up
echo 1 > /proc/sys/net/core/bpf_jit_enable
uname -r
sh /script
"#;

/// Stages `guest` for the kernel whose modules are in `kernel_modules`, and packs it into `archive`.
///
/// # Errors
/// Something that it needs is not on this machine.
pub(crate) fn build(guest: &Guest, kernel_modules: &Path, archive: &Path) -> Result<()> {
    let stage = archive.with_extension("d");
    if stage.exists() {
        fs::remove_dir_all(&stage).with_context(|| format!("removing {}", stage.display()))?;
    }
    for folder in ["bin", "sbin", "dev", "proc", "sys", "tmp", "run", "modules"] {
        let folder = stage.join(folder);
        fs::create_dir_all(&folder).with_context(|| format!("creating {}", folder.display()))?;
    }
    copy(Path::new(BUSYBOX), &stage, BUSYBOX)?;
    for (program, place) in &guest.programs {
        add_program(program, &stage, place)?;
    }
    for (file, place) in &guest.files {
        copy(file, &stage, place)?;
    }
    let order = modules::stage(kernel_modules, &guest.modules, &stage.join("modules"))?;
    write(&stage.join("modules/order"), &order)?;
    write(&stage.join("script"), &guest.script)?;
    // With -no-reboot qemu ends when the machine reboots; so it does after a panic (panic=-1).
    let init = format!("{INIT_BEGIN}echo \"{EXIT}$?\"\nsync\nreboot -f\n");
    write(&stage.join("init"), &init)?;
    shell::run(Command::new("chmod").arg("0755").arg(stage.join("init")))?;
    pack(&stage, archive)
}

/// Copies a program, and each library that its dynamic loader would map.
fn add_program(program: &Path, stage: &Path, place: &str) -> Result<()> {
    let name = program.to_string_lossy();
    let program = which(&name).with_context(|| format!("`{name}` is not on this machine"))?;
    copy(&program, stage, place)?;
    let listed = shell::output("ldd", &[&program.to_string_lossy()]).unwrap_or_default();
    if listed.contains("not found") {
        bail!("`{name}` misses a library:\n{listed}");
    }
    for library in libraries(&listed) {
        copy(Path::new(library), stage, library)?;
    }
    Ok(())
}

/// The absolute paths in what ldd prints.
fn libraries(listed: &str) -> BTreeSet<&str> {
    listed
        .split_whitespace()
        .filter(|word| word.starts_with('/'))
        .collect()
}

fn copy(from: &Path, stage: &Path, place: &str) -> Result<()> {
    let to = stage.join(place.trim_start_matches('/'));
    if let Some(folder) = to.parent() {
        fs::create_dir_all(folder).with_context(|| format!("creating {}", folder.display()))?;
    }
    fs::copy(from, &to)
        .with_context(|| format!("copying {} to {}", from.display(), to.display()))?;
    Ok(())
}

fn write(path: &Path, text: &str) -> Result<()> {
    fs::write(path, text).with_context(|| format!("writing {}", path.display()))
}

/// Packs a folder as the kernel wants it. Not compressed: unpacking costs more under emulation than reading.
fn pack(stage: &Path, archive: &Path) -> Result<()> {
    let mut names = Vec::new();
    walk(stage, Path::new(""), &mut names)?;
    let out = File::create(archive).with_context(|| format!("creating {}", archive.display()))?;
    let mut cpio = Command::new(BUSYBOX)
        .args(["cpio", "-o", "-H", "newc"])
        .current_dir(stage)
        .stdin(Stdio::piped())
        .stdout(out)
        .stderr(Stdio::null())
        .spawn()
        .context("starting busybox cpio")?;
    let mut input = cpio.stdin.take().context("busybox cpio has no input")?;
    for name in names {
        writeln!(input, "{}", name.display()).context("naming a file to busybox cpio")?;
    }
    drop(input);
    let status = cpio.wait().context("waiting for busybox cpio")?;
    if !status.success() {
        bail!("busybox cpio failed ({status})");
    }
    Ok(())
}

/// Everything below `folder`, parents first.
fn walk(folder: &Path, name: &Path, names: &mut Vec<PathBuf>) -> Result<()> {
    let path = folder.join(name);
    let entries = fs::read_dir(&path).with_context(|| format!("reading {}", path.display()))?;
    for entry in entries {
        let entry = entry.with_context(|| format!("reading {}", path.display()))?;
        let name = name.join(entry.file_name());
        let kind = entry.file_type().context("asking what a staged file is")?;
        names.push(name.clone());
        if kind.is_dir() {
            walk(folder, &name, names)?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn libraries_are_the_paths_that_ldd_shows() {
        let listed = "\tlinux-vdso.so.1 (0x00007ffd)\n\
                      \tlibc.so.6 => /lib/x86_64-linux-gnu/libc.so.6 (0x00007f)\n\
                      \t/lib64/ld-linux-x86-64.so.2 (0x00007f)\n";
        let found: Vec<_> = libraries(listed).into_iter().collect();
        assert_eq!(
            found,
            [
                "/lib/x86_64-linux-gnu/libc.so.6",
                "/lib64/ld-linux-x86-64.so.2"
            ]
        );
        assert!(libraries("\tnot a dynamic executable\n").is_empty());
    }
}

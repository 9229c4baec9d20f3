//! The file system of a virtual machine: busybox, the programs of the test with the libraries that they load, the
//! kernel modules, and an `init` that runs one script and says how it ended. All of it is in the initramfs:
//! the cloud kernels have no file system to share with the host.

use std::{
    collections::BTreeSet,
    fs::{self, File},
    io::Write as _,
    os::unix::fs::symlink,
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
    pub(crate) programs: Vec<(PathBuf, PathBuf)>,
    /// Other files, and where they are there.
    pub(crate) files: Vec<(PathBuf, PathBuf)>,
    /// Folders as they are (a module that Python compiled is of no use once its source looks newer), with what their
    /// shared objects load; in the same place there.
    pub(crate) folders: Vec<PathBuf>,
    /// Whether the time there is what was executed there, and not this machine's: what has a deadline keeps it
    /// however busy this machine is, and idle time takes none.
    pub(crate) own_time: bool,
    /// Memory in MiB, if it is more than [`super::vm`] gives every machine.
    pub(crate) memory_mib: Option<u32>,
    /// Whether something there exchanges its root, which nobody can do on an initramfs as it is.
    pub(crate) pivots: bool,
    /// Kernel modules, loaded in this order, each after those that it needs.
    pub(crate) modules: Vec<&'static str>,
    /// A shell script. Its output, and how it ended, come back by [`super::vm`].
    pub(crate) script: String,
}

/// The last line that `init` writes, with the script's exit status behind it.
pub(crate) const EXIT: &str = "warmpath-guest-exit=";
/// The static busybox of Debian's `busybox-static`.
pub(crate) const BUSYBOX: &str = "/bin/busybox";

/// Where something is mounted or written.
const FOLDERS: [&str; 13] = [
    "usr/bin",
    "usr/sbin",
    "usr/lib",
    "usr/lib64",
    "dev",
    "etc",
    "proc",
    "sys",
    "tmp",
    "run",
    "modules",
    "root",
    "var/tmp",
];
/// Links into `usr`, as everywhere in Debian: sandboxes take them over.
const MERGED: [&str; 4] = ["bin", "sbin", "lib", "lib64"];

const SHEBANG: &str = "#!/bin/busybox sh\n";

/// Runs `init` a second time, on the same files as a mount that can be exchanged: what the kernel unpacks an initramfs
/// on cannot.
const INIT_MOVE: &str = r#"
if [ ! -e /moved ]; then
    /bin/busybox mkdir /moved
    /bin/busybox mount --bind / /moved
    cd /moved
    /bin/busybox mount --move . /
    exec /bin/busybox chroot . /init
fi
"#;

const INIT_BEGIN: &str = r#"
/bin/busybox --install -s /bin 2> /dev/null
export PATH=/sbin:/bin HOME=/tmp
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t devtmpfs devtmpfs /dev
[ -e /moved ] || mount -t tmpfs tmpfs /tmp
/bin/busybox chmod 1777 /tmp /var/tmp
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
    for folder in FOLDERS {
        let folder = stage.join(folder);
        fs::create_dir_all(&folder).with_context(|| format!("creating {}", folder.display()))?;
    }
    for name in MERGED {
        let (link, target) = (stage.join(name), Path::new("usr").join(name));
        symlink(&target, &link).with_context(|| format!("linking {}", link.display()))?;
    }
    copy(Path::new(BUSYBOX), &stage, Path::new(BUSYBOX))?;
    for folder in &guest.folders {
        add_folder(folder, &stage)?;
    }
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
    let moved = if guest.pivots { INIT_MOVE } else { "" };
    let init = format!("{SHEBANG}{moved}{INIT_BEGIN}echo \"{EXIT}$?\"\nsync\nreboot -f\n");
    write(&stage.join("init"), &init)?;
    shell::run(Command::new("chmod").arg("0755").arg(stage.join("init")))?;
    pack(&stage, archive)
}

/// Copies a program, and each library that its dynamic loader would map.
fn add_program(program: &Path, stage: &Path, place: &Path) -> Result<()> {
    let name = program.to_string_lossy();
    let program = which(&name).with_context(|| format!("`{name}` is not on this machine"))?;
    copy(&program, stage, place)?;
    // Most of what was built here is for debuggers; what Debian installed has gone through this.
    if !["/usr", "/bin", "/sbin"]
        .iter()
        .any(|system| program.starts_with(system))
    {
        let mut strip = Command::new("strip");
        shell::run(strip.arg("--strip-debug").arg(inside(stage, place)))?;
    }
    add_libraries(&program, stage)
}

fn add_libraries(program: &Path, stage: &Path) -> Result<()> {
    let name = program.to_string_lossy();
    let listed = shell::output("ldd", &[&name]).unwrap_or_default();
    if listed.contains("not found") {
        bail!("`{name}` misses a library:\n{listed}");
    }
    for library in libraries(&listed).into_iter().map(Path::new) {
        if !inside(stage, library).exists() {
            copy(library, stage, library)?;
        }
    }
    Ok(())
}

/// Copies a folder as it is, and the libraries of the shared objects in it. Those of the machine's own `/usr` only: a
/// folder from elsewhere has its own.
fn add_folder(folder: &Path, stage: &Path) -> Result<()> {
    let to = inside(stage, folder);
    let parent = to.parent().context("a folder has no parent")?;
    fs::create_dir_all(parent).with_context(|| format!("creating {}", parent.display()))?;
    let mut cp = Command::new("cp");
    cp.args(["-a", "--reflink=auto", "--no-target-directory"]);
    shell::run(cp.arg(folder).arg(&to))?;
    if !folder.starts_with("/usr") {
        return Ok(());
    }
    let mut names = Vec::new();
    walk(folder, Path::new(""), &mut names)?;
    for name in names {
        let from = folder.join(name);
        if from.is_file() && from.extension().is_some_and(|extension| extension == "so") {
            add_libraries(&from, stage)?;
        }
    }
    Ok(())
}

/// Where `place` is below `stage`.
fn inside(stage: &Path, place: &Path) -> PathBuf {
    stage.join(place.strip_prefix("/").unwrap_or(place))
}

/// The absolute paths in what ldd prints.
fn libraries(listed: &str) -> BTreeSet<&str> {
    listed
        .split_whitespace()
        .filter(|word| word.starts_with('/'))
        .collect()
}

fn copy(from: &Path, stage: &Path, place: &Path) -> Result<()> {
    let to = inside(stage, place);
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

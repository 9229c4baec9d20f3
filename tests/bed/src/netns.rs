//! A network namespace as a host of the test bed, visible to `ip netns list`.
//!
//! Programs are started with `nsenter --net=…`: `ip netns exec` and `ip -n` remount `/sys` and so hide the
//! bpffs. The namespace is removed with the [`Run`] it was made in.

use std::{
    fs::{self, File},
    io,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    thread,
};

use anyhow::{Context as _, Result, anyhow, bail};
use nix::{
    mount::{MntFlags, MsFlags, mount, umount2},
    sched::{CloneFlags, setns, unshare},
};

use crate::run::{ROOT, Run, exclusive};

const DIR: &str = "/run/netns";

/// A network namespace. Only a handle: the [`Run`] owns it.
#[derive(Debug, Clone)]
pub struct Netns {
    name: String,
    path: PathBuf,
}

impl Netns {
    /// Makes the namespace `<run id>-<role>`, with `lo` up and IPv6 off.
    ///
    /// # Errors
    /// Not root, or the kernel refuses.
    pub fn create(run: &Run, role: &str) -> Result<Self> {
        let name = format!("{}-{role}", run.id());
        let path = Path::new(DIR).join(&name);
        run.note_namespace(&name)?;
        let lock = exclusive()?;
        make_dir()?;
        File::create(&path).with_context(|| format!("creating {}", path.display()))?;
        on_own_thread(|| {
            unshare(CloneFlags::CLONE_NEWNET).context("making a network namespace")?;
            mount(
                Some("/proc/thread-self/ns/net"),
                &path,
                None::<&str>,
                MsFlags::MS_BIND,
                None::<&str>,
            )
            .with_context(|| format!("binding the namespace to {}", path.display()))
        })?;
        drop(lock);
        let netns = Self { name, path };
        // No IPv6 chatter: the counters of a quiet test bed then stand still.
        netns.sysctl("net.ipv6.conf.all.disable_ipv6", "1")?;
        netns.sysctl("net.ipv6.conf.default.disable_ipv6", "1")?;
        netns.ip("link set lo up")?;
        Ok(netns)
    }

    /// The one that this process is in.
    #[must_use]
    pub fn own() -> Self {
        Self {
            name: "our own".to_owned(),
            path: PathBuf::from("/proc/self/ns/net"),
        }
    }

    /// Its name in `/run/netns`.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The file that stands for it.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// A command that will run inside.
    #[must_use]
    pub fn command(&self, program: impl AsRef<std::ffi::OsStr>) -> Command {
        let mut command = Command::new("nsenter");
        command
            .arg(format!("--net={}", self.path.display()))
            .arg("--")
            .arg(program);
        command
    }

    /// Runs `program` inside, to its end, and returns its standard output.
    ///
    /// # Errors
    /// When it cannot be started or ends with another code than 0; the message holds its standard error.
    pub fn run(&self, program: &str, args: &[&str]) -> Result<String> {
        let output = self
            .command(program)
            .args(args)
            .stdin(Stdio::null())
            .output()
            .with_context(|| format!("starting nsenter {program}"))?;
        if !output.status.success() {
            bail!(
                "`{program} {}` in {}: {}",
                args.join(" "),
                self.name,
                String::from_utf8_lossy(&output.stderr).trim()
            );
        }
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }

    /// Runs `ip` inside with `args`, split at spaces.
    ///
    /// # Errors
    /// As [`Self::run`].
    pub fn ip(&self, args: &str) -> Result<String> {
        self.run("ip", &args.split(' ').collect::<Vec<_>>())
    }

    /// Sets the sysctl `key` (with dots) of this namespace alone.
    ///
    /// # Errors
    /// When there is no such sysctl.
    pub fn sysctl(&self, key: &str, value: &str) -> Result<()> {
        let path = Path::new("/proc/sys").join(key.replace('.', "/"));
        self.enter(|| fs::write(&path, value))?
            .with_context(|| format!("setting {key}={value} in {}", self.name))
    }

    /// Runs `f` on a thread of its own inside the namespace: sockets and interfaces it opens are those in there.
    ///
    /// # Errors
    /// When the namespace cannot be entered.
    pub fn enter<T: Send>(&self, f: impl FnOnce() -> T + Send) -> Result<T> {
        let file =
            File::open(&self.path).with_context(|| format!("opening {}", self.path.display()))?;
        on_own_thread(move || {
            setns(file, CloneFlags::CLONE_NEWNET)
                .with_context(|| format!("entering {}", self.name))?;
            Ok(f())
        })
    }
}

/// The namespace of a thread is lost with it, so what changes it runs on a thread that ends here.
fn on_own_thread<T: Send>(f: impl FnOnce() -> Result<T> + Send) -> Result<T> {
    thread::scope(|scope| match scope.spawn(f).join() {
        Ok(result) => result,
        Err(panic) => std::panic::resume_unwind(panic),
    })
}

/// A file that says `/run/netns` was not there before us.
fn dir_mark() -> PathBuf {
    Path::new(ROOT).join("made-run-netns")
}

fn make_dir() -> Result<()> {
    match fs::create_dir(DIR) {
        Ok(()) => fs::write(dir_mark(), "").context("marking /run/netns as ours"),
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        Err(error) => Err(error).context(format!("creating {DIR}")),
    }
}

/// Removes `/run/netns` if a run of ours made it and it is empty again.
pub(crate) fn remove_dir_if_ours() -> Result<()> {
    if dir_mark().exists() && fs::remove_dir(DIR).is_ok() {
        fs::remove_file(dir_mark()).context("removing the mark of /run/netns")?;
    }
    Ok(())
}

/// Removes the namespace `name`, if it is there. Interfaces and routes inside go with it.
pub(crate) fn remove(name: &str) -> Result<()> {
    let path = Path::new(DIR).join(name);
    // EINVAL: nothing is mounted there, because its creation was cut short.
    match umount2(&path, MntFlags::MNT_DETACH) {
        Ok(()) | Err(nix::Error::EINVAL) => {}
        Err(nix::Error::ENOENT) => return Ok(()),
        Err(error) => return Err(anyhow!(error).context(format!("unmounting {}", path.display()))),
    }
    fs::remove_file(&path).with_context(|| format!("removing {}", path.display()))
}

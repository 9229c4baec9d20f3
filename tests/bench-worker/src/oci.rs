//! The same handler in a container of crun or runc: the same root file system, the same Python, the same library and
//! protocol, over a socket that is the container's stdin.
//!
//! A container gets what a sandbox of ours gets too: namespaces of its own, limits for memory, processes and CPU, a
//! read-only root, no capabilities, `no_new_privs`. In its favour it has no system call filter and no user namespace.

use std::{
    fs,
    io::{Read as _, Write as _},
    os::{
        fd::OwnedFd,
        unix::{fs::symlink, net::UnixStream, process::CommandExt as _},
    },
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use nix::{sys::wait::waitpid, unistd::Pid};
use serde_json::{Value, json};

use worker::code::Layer;

use crate::{
    hybrid::Borrowed,
    pools::{Imports, event, ms},
};

/// `type:u8 meta_len:u32 data_len:u32`, as docs/runtime-protocol.md draws it.
const HEADER_LEN: usize = 9;
const READY: u8 = 1;
const LOAD: u8 = 2;
const INVOKE: u8 = 3;
const RESULT: u8 = 4;
/// A container that says nothing for so long has failed.
const TIMEOUT: Duration = Duration::from_secs(20);
const PROGRAM: &str = "import sys, socket; sys.path.insert(0, '/warmpath'); \
     from warmpath import _runtime, _wire; _runtime.serve(_wire.Connection(socket.socket(fileno=0)))";

/// A container runtime of Debian.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Runtime {
    Crun,
    Runc,
}

impl Runtime {
    pub(crate) const ALL: [Self; 2] = [Self::Crun, Self::Runc];

    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Crun => "crun",
            Self::Runc => "runc",
        }
    }
}

/// Makes containers, one after the other.
#[derive(Debug)]
pub(crate) struct Containers {
    dir: PathBuf,
    number: u32,
    /// What numpy lies in, below `/layers`.
    layer: String,
    /// crun would refuse to run without.
    _controllers: Borrowed,
}

impl Containers {
    /// Prepares root file system and handlers in `dir`; `library` is the host directory of our Python library, `layer` has
    /// numpy, `group` is the cgroup for all containers.
    pub(crate) fn prepare(
        dir: PathBuf,
        library: &Path,
        layer: &Layer,
        group: &str,
    ) -> Result<Self> {
        skeleton(&dir.join("root"))?;
        fs::create_dir_all(dir.join("root/layers").join(&layer.name))?;
        for imports in Imports::ALL {
            let bundle = dir.join(imports.name());
            let handler = bundle.join("handler");
            fs::create_dir_all(&handler)
                .with_context(|| format!("making {}", handler.display()))?;
            fs::write(handler.join("f.py"), imports.code())?;
            let mut config = config(&dir.join("root"), library, &handler, group);
            config["linux"]["resources"]["memory"]["limit"] =
                (u64::from(imports.memory_mb()) << 20).into();
            if imports == Imports::Numpy {
                let mounts = config["mounts"].as_array_mut().context("no mounts")?;
                mounts.push(bind(&layer.place, &format!("/layers/{}", layer.name)));
            }
            fs::write(bundle.join("config.json"), config.to_string())?;
        }
        Ok(Self {
            _controllers: Borrowed::take(&dir.join("controllers"))?,
            dir,
            number: 0,
            layer: layer.name.clone(),
        })
    }

    /// One container from nothing to its first reply, and its removal; both in milliseconds.
    pub(crate) fn once(&mut self, runtime: Runtime, imports: Imports) -> Result<(f64, f64)> {
        self.number += 1;
        let id = format!("wp{}-{}", std::process::id(), self.number);
        let bundle = self.dir.join(imports.name());
        let state = self.dir.join("state");
        let pid_file = self.dir.join("pid");
        let name = runtime.name();
        let run = |args: &[&str], stdin: Stdio| -> Result<Pid> {
            let complaints = self.dir.join("complaints");
            let mut process = Command::new(runtime.name())
                .arg("--root")
                .arg(&state)
                .args(args)
                .stdin(stdin)
                .stdout(Stdio::null())
                // Not a pipe: the container has it as well, and would be waited for.
                .stderr(fs::File::create(&complaints)?)
                .process_group(0)
                .spawn()
                .with_context(|| format!("starting {name} (package {name})"))?;
            let status = process.wait().context("waiting for a runtime")?;
            ensure!(
                status.success(),
                "`{name} {}` fails: {}",
                args.join(" "),
                fs::read_to_string(&complaints).unwrap_or_default().trim()
            );
            Ok(Pid::from_raw(process.id().cast_signed()))
        };
        let (mut here, there) = UnixStream::pair().context("making a socket")?;
        here.set_read_timeout(Some(TIMEOUT))?;
        let bundle = bundle.to_string_lossy();
        let start = Instant::now();
        let of_run = run(
            &[
                "run",
                "--detach",
                "--pid-file",
                &pid_file.to_string_lossy(),
                "--bundle",
                &bundle,
                &id,
            ],
            Stdio::from(OwnedFd::from(there)),
        )?;
        let layers: &[&str] = match imports {
            Imports::None | Imports::Stdlib => &[],
            Imports::Numpy => &[&self.layer],
        };
        let answered = first_reply(&mut here, layers);
        let took = ms(start.elapsed());
        let start = Instant::now();
        run(&["delete", "--force", &id], Stdio::null())?;
        let removal = ms(start.elapsed());
        reap(of_run, &pid_file)?;
        answered.with_context(|| format!("in a container of {}", runtime.name()))?;
        Ok((took, removal))
    }
}

/// Takes the exit statuses of a container's init and of what its runtime forked on the way: with the runtime's end they
/// have become children of this process, the sandboxes' subreaper, whose pools would look at the dead ones at every turn.
fn reap(runtime: Pid, pid_file: &Path) -> Result<()> {
    let init = fs::read_to_string(pid_file).context("reading the pid of a container")?;
    let init = init.trim().parse().context("the pid of a container")?;
    // The first is the runtime's process group: init has left it.
    for whom in [-runtime.as_raw(), init] {
        while waitpid(Pid::from_raw(whom), None).is_ok() {}
    }
    Ok(())
}

/// The directories and files that a sandbox of ours has too.
fn skeleton(root: &Path) -> Result<()> {
    for dir in ["usr", "proc", "dev", "tmp", "etc", "handler", "warmpath"] {
        fs::create_dir_all(root.join(dir))?;
    }
    for name in ["bin", "sbin", "lib", "lib32", "lib64"] {
        if let Ok(target) = fs::read_link(Path::new("/").join(name)) {
            symlink(target, root.join(name))?;
        }
    }
    fs::write(
        root.join("etc/passwd"),
        "handler:x:1000:1000::/tmp:/usr/sbin/nologin\n",
    )?;
    fs::write(root.join("etc/group"), "handler:x:1000:\n")?;
    fs::copy("/etc/ld.so.cache", root.join("etc/ld.so.cache"))
        .context("copying /etc/ld.so.cache")?;
    Ok(())
}

fn bind(from: &Path, to: &str) -> Value {
    json!({
        "destination": to, "source": from, "type": "bind", "options": ["bind", "ro", "nosuid", "nodev"],
    })
}

fn config(root: &Path, library: &Path, handler: &Path, group: &str) -> Value {
    let namespaces = ["pid", "mount", "ipc", "uts", "network", "cgroup"];
    json!({
        "ociVersion": "1.0.2",
        "hostname": "sandbox",
        "root": {"path": root, "readonly": true},
        "process": {
            "user": {"uid": 1000, "gid": 1000},
            "cwd": "/",
            "env": ["PATH=/usr/bin:/bin", "HOME=/tmp", "LANG=C.UTF-8"],
            "args": ["/usr/bin/python3", "-I", "-S", "-c", PROGRAM],
            "noNewPrivileges": true,
            "capabilities": {},
        },
        "mounts": [
            bind(Path::new("/usr"), "/usr"),
            {"destination": "/proc", "source": "proc", "type": "proc", "options": ["nosuid", "nodev", "noexec"]},
            {"destination": "/dev", "source": "tmpfs", "type": "tmpfs", "options": ["nosuid", "mode=755", "size=64k"]},
            {"destination": "/tmp", "source": "tmpfs", "type": "tmpfs",
             "options": ["nosuid", "nodev", "mode=1777", "size=64m"]},
            bind(library, "/warmpath"),
            bind(handler, "/handler"),
        ],
        "linux": {
            "cgroupsPath": format!("/{group}/oci"),
            "namespaces": namespaces.map(|kind| json!({"type": kind})),
            "resources": {
                "memory": {},
                "pids": {"limit": 64},
                "cpu": {"quota": 100_000, "period": 100_000},
            },
        },
    })
}

/// What the worker says to an instance, from its start to its first reply.
fn first_reply(socket: &mut UnixStream, layers: &[&str]) -> Result<()> {
    receive(socket, READY)?;
    let load = json!({
        "entry": "f.py", "payload": "json", "interface": "event", "app": "app",
        "function": "hello@latest", "worker": "w", "instance": 1, "layers": layers,
    });
    send(socket, LOAD, &load, b"")?;
    receive(socket, READY)?;
    let invoke = json!({"request_id": 1, "deadline_ms": 1_000, "function": "hello@latest"});
    send(socket, INVOKE, &invoke, event().to_string().as_bytes())?;
    let greeting: Value = serde_json::from_slice(&receive(socket, RESULT)?)?;
    ensure!(
        greeting == json!({"greeting": "Hello, Ada!"}),
        "it answers {greeting}"
    );
    Ok(())
}

fn send(socket: &mut UnixStream, kind: u8, meta: &Value, data: &[u8]) -> Result<()> {
    let meta = meta.to_string();
    let mut frame = vec![kind];
    frame.extend(u32::try_from(meta.len())?.to_be_bytes());
    frame.extend(u32::try_from(data.len())?.to_be_bytes());
    frame.extend(meta.as_bytes());
    frame.extend(data);
    socket.write_all(&frame).context("writing a frame")
}

fn receive(socket: &mut UnixStream, kind: u8) -> Result<Vec<u8>> {
    let mut header = [0; HEADER_LEN];
    socket
        .read_exact(&mut header)
        .context("reading the head of a frame")?;
    let [found, m0, m1, m2, m3, d0, d1, d2, d3] = header;
    let meta_len = u32::from_be_bytes([m0, m1, m2, m3]) as usize;
    let data_len = u32::from_be_bytes([d0, d1, d2, d3]) as usize;
    let mut rest = vec![0; meta_len + data_len];
    socket.read_exact(&mut rest).context("reading a frame")?;
    ensure!(
        found == kind,
        "a frame {found} came instead of {kind}: {}",
        String::from_utf8_lossy(&rest)
    );
    Ok(rest.split_off(meta_len))
}

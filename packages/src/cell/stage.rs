//! Inside a cell: a founder that makes the namespaces, and an init, pid 1, that builds the root, gives up every
//! privilege, and runs one program after the other.

use std::{
    ffi::OsString,
    fs, io,
    net::TcpListener,
    os::{fd::AsFd, unix::fs::symlink},
    path::{Path, PathBuf},
    process::{Command, ExitCode, Stdio},
};

use nix::{
    mount::{MntFlags, MsFlags, mount, umount2},
    sched::{CloneFlags, unshare},
};
use rustix::{
    fs::StatVfsMountFlags,
    process::{Resource, Rlimit, Signal, set_parent_process_death_signal, setrlimit},
    thread::{
        remove_capability_from_bounding_set, set_no_new_privs, set_thread_res_gid,
        set_thread_res_uid,
    },
};
use worker::sandbox::{Channel, ChannelError};

use super::{Mapped, Mount, Plan, Program, Report, VERB};

const INIT: &str = "init";
/// Files of the host's `/etc` that programs and TLS need.
const ETC: [&str; 5] = [
    "/etc/ssl",
    "/etc/ca-certificates",
    "/etc/ld.so.cache",
    "/etc/alternatives",
    "/etc/localtime",
];
const DEVICES: [&str; 4] = ["null", "zero", "random", "urandom"];
/// Memory that is written to; address space alone costs nothing, and Node.js reserves much of it.
const DATA_BYTES_MAX: u64 = 4 << 30;
const FILE_BYTES_MAX: u64 = 4 << 30;
const OPEN_FILES_MAX: u64 = 4_096;
/// Switches loopback on: SIOCSIFFLAGS with IFF_UP, which only a process in the namespace can do.
const LOOPBACK_UP: &str = "\
import fcntl, socket, struct
fcntl.ioctl(socket.socket(socket.AF_INET, socket.SOCK_DGRAM), 0x8914, struct.pack('16sh22x', b'lo', 1))";

/// The hidden verb `warmpath package-cell …`: call it first thing in `main`, before any thread starts, with
/// the arguments after the program's name. Returns `None` when they do not ask for it, else the exit code
/// to end with.
#[must_use]
pub fn cell_main(args: impl IntoIterator<Item = OsString>) -> Option<ExitCode> {
    let mut args = args.into_iter();
    if args.next()? != VERB {
        return None;
    }
    let Ok(channel) = Channel::stdin() else {
        return Some(ExitCode::FAILURE);
    };
    let done = match args.next() {
        Some(stage) if stage == INIT => init(&channel, args.next().unwrap_or_default()),
        _ => found(&channel),
    };
    if let Err(error) = done {
        // The maker may be gone, and then nobody wants to know.
        drop(channel.send(&Report::Failed(error.to_string()), &[]));
        return Some(ExitCode::FAILURE);
    }
    Some(ExitCode::SUCCESS)
}

#[derive(Debug, thiserror::Error)]
enum StageError {
    #[error("cannot {doing} {}: {source}", path.display())]
    System {
        doing: &'static str,
        path: PathBuf,
        source: io::Error,
    },
    #[error(transparent)]
    Channel(#[from] ChannelError),
    #[error("the plan is malformed: {0}")]
    Plan(#[from] serde_json::Error),
}

fn failed<E: Into<io::Error>>(
    doing: &'static str,
    path: impl AsRef<Path>,
) -> impl FnOnce(E) -> StageError {
    let path = path.as_ref().to_owned();
    move |error| StageError::System {
        doing,
        path,
        source: error.into(),
    }
}

/// In the host's namespaces.
fn found(channel: &Channel) -> Result<(), StageError> {
    end_with_parent()?;
    let (plan, _) = channel.receive::<Plan>(None)?;
    let this = "namespaces";
    unshare(CloneFlags::CLONE_NEWUSER).map_err(failed("make user", this))?;
    channel.send(&Report::Unshared, &[])?;
    channel.receive::<Mapped>(None)?;
    let (user, group) = (rustix::fs::Uid::ROOT, rustix::fs::Gid::ROOT);
    set_thread_res_gid(group, group, group).map_err(failed("become the group of", this))?;
    set_thread_res_uid(user, user, user).map_err(failed("become the user of", this))?;
    // A change of user clears it.
    end_with_parent()?;
    let others = CloneFlags::CLONE_NEWNS
        | CloneFlags::CLONE_NEWPID
        | CloneFlags::CLONE_NEWNET
        | CloneFlags::CLONE_NEWIPC
        | CloneFlags::CLONE_NEWUTS;
    unshare(others).map_err(failed("make", this))?;
    let mut init = Command::new("/proc/self/exe")
        .args([VERB, INIT, &serde_json::to_string(&plan)?])
        .env_clear()
        .spawn()
        .map_err(failed("start", "init"))?;
    init.wait().map(drop).map_err(failed("wait for", "init"))
}

fn end_with_parent() -> Result<(), StageError> {
    set_parent_process_death_signal(Some(Signal::KILL)).map_err(failed("follow", "the maker"))
}

/// As pid 1.
fn init(channel: &Channel, plan: OsString) -> Result<(), StageError> {
    end_with_parent()?;
    let plan: Plan = serde_json::from_slice(plan.as_encoded_bytes())?;
    build(&plan)?;
    let up = Command::new("/usr/bin/python3")
        .args(["-I", "-S", "-c", LOOPBACK_UP])
        .stdin(Stdio::null())
        .status()
        .map_err(failed("run", "/usr/bin/python3"))?;
    if !up.success() {
        return Err(failed("switch on", "loopback")(io::Error::other(
            up.to_string(),
        )));
    }
    let listener = TcpListener::bind("127.0.0.1:0").map_err(failed("listen on", "loopback"))?;
    let port = listener
        .local_addr()
        .map_err(failed("listen on", "loopback"))?
        .port();
    restrict()?;
    channel.send(&Report::Ready, &[listener.as_fd()])?;
    drop(listener);
    loop {
        let program = match channel.receive::<Program>(None) {
            Ok((program, _)) => program,
            Err(ChannelError::Closed) => return Ok(()),
            Err(error) => return Err(error.into()),
        };
        channel.send(&Report::Ended(run(&program, port)?), &[])?;
    }
}

fn run(program: &Program, port: u16) -> Result<i32, StageError> {
    let open = || {
        fs::File::options()
            .append(true)
            .create(true)
            .open(&program.log)
    };
    let log = open().map_err(failed("write", &program.log))?;
    let also = log.try_clone().map_err(failed("write", &program.log))?;
    let (command, args) = program.argv.split_first().unzip();
    let command = command.map_or("", String::as_str);
    let proxy = format!("http://127.0.0.1:{port}");
    let status = Command::new(command)
        .args(args.unwrap_or_default())
        .env_clear()
        .envs(
            program
                .env
                .iter()
                .map(|(name, value)| (name, value.replace("{proxy}", &proxy))),
        )
        .current_dir(&program.dir)
        .stdin(Stdio::null())
        .stdout(log)
        .stderr(also)
        .status()
        .map_err(failed("run", command))?;
    Ok(status.code().unwrap_or(-1))
}

/// The programs that are run are the namespace's uid 0, and get no capability by that.
fn restrict() -> Result<(), StageError> {
    for (resource, max) in [
        (Resource::Data, DATA_BYTES_MAX),
        (Resource::Fsize, FILE_BYTES_MAX),
        (Resource::Nofile, OPEN_FILES_MAX),
        (Resource::Core, 0),
    ] {
        let limit = Rlimit {
            current: Some(max),
            maximum: Some(max),
        };
        setrlimit(resource, limit).map_err(failed("limit", "resources"))?;
    }
    for number in 0..u64::BITS {
        // The kernel knows fewer; the first unknown one ends the list.
        let capability = rustix::thread::CapabilitySet::from_bits_retain(1 << number);
        if remove_capability_from_bounding_set(capability).is_err() {
            break;
        }
    }
    set_no_new_privs(true).map_err(failed("set", "no_new_privs"))
}

const QUIET: MsFlags = MsFlags::MS_NOSUID.union(MsFlags::MS_NODEV);

/// Builds the root in a tmpfs and makes it the root.
fn build(plan: &Plan) -> Result<(), StageError> {
    let at = plan.root.as_path();
    let none = None::<&str>;
    mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_PRIVATE, none)
        .map_err(failed("make private", "/"))?;
    mount(
        Some("tmpfs"),
        at,
        Some("tmpfs"),
        QUIET,
        Some("mode=0755,size=1m"),
    )
    .map_err(failed("mount a tmpfs on", at))?;
    for name in ["bin", "sbin", "lib", "lib32", "lib64"] {
        if let Ok(target) = fs::read_link(Path::new("/").join(name)) {
            symlink(target, at.join(name)).map_err(failed("link", at.join(name)))?;
        } else if Path::new("/").join(name).is_dir() {
            bind(at, &same(&Path::new("/").join(name)))?;
        }
    }
    bind(at, &same(Path::new("/usr")))?;
    for path in ETC.map(Path::new).into_iter().filter(|path| path.exists()) {
        bind(at, &same(path))?;
    }
    for name in DEVICES {
        let mut device = same(&Path::new("/dev").join(name));
        device.writable = true;
        bind(at, &device)?;
    }
    // Not every host lets an unprivileged namespace have one; pip and npm do without.
    let proc = at.join("proc");
    fs::create_dir(&proc).map_err(failed("make", &proc))?;
    if mount(Some("proc"), &proc, Some("proc"), QUIET, none).is_err() {
        fs::remove_dir(&proc).map_err(failed("remove", &proc))?;
    }
    fs::create_dir(at.join("tmp")).map_err(failed("make", "/tmp"))?;
    for given in &plan.mounts {
        bind(at, given)?;
    }
    // It is there already if the host has any of those above.
    let etc = at.join("etc");
    fs::create_dir_all(&etc).map_err(failed("make", &etc))?;
    let hosts = etc.join("hosts");
    fs::write(&hosts, "127.0.0.1 localhost\n").map_err(failed("write", &hosts))?;
    let passwd = etc.join("passwd");
    fs::write(&passwd, "root:x:0:0::/tmp:/bin/sh\n").map_err(failed("write", &passwd))?;
    read_only(at)?;
    std::env::set_current_dir(at).map_err(failed("enter", at))?;
    rustix::process::pivot_root(".", ".").map_err(failed("pivot to", at))?;
    umount2(".", MntFlags::MNT_DETACH).map_err(failed("detach", "the old root"))?;
    std::env::set_current_dir("/").map_err(failed("enter", "/"))
}

fn same(path: &Path) -> Mount {
    Mount {
        host: path.to_owned(),
        inside: path.to_owned(),
        writable: false,
    }
}

fn bind(at: &Path, given: &Mount) -> Result<(), StageError> {
    let place = at.join(given.inside.strip_prefix("/").unwrap_or(&given.inside));
    let made = if given.host.is_dir() {
        fs::create_dir_all(&place)
    } else {
        let parent = place.parent().unwrap_or(at);
        fs::create_dir_all(parent).and_then(|()| fs::write(&place, ""))
    };
    made.map_err(failed("make", &place))?;
    let none = None::<&str>;
    mount(
        Some(&given.host),
        &place,
        none,
        MsFlags::MS_BIND | MsFlags::MS_REC,
        none,
    )
    .map_err(failed("bind", &given.host))?;
    if given.writable {
        return Ok(());
    }
    read_only(&place)
}

/// What the mount forbids already may not be allowed again in a user namespace, so it is asked for.
fn read_only(place: &Path) -> Result<(), StageError> {
    let now = rustix::fs::statvfs(place)
        .map_err(failed("look at", place))?
        .f_flag;
    let mut flags = MsFlags::MS_REMOUNT | MsFlags::MS_BIND | MsFlags::MS_RDONLY;
    for (is, keep) in [
        (StatVfsMountFlags::NOSUID, MsFlags::MS_NOSUID),
        (StatVfsMountFlags::NODEV, MsFlags::MS_NODEV),
        (StatVfsMountFlags::NOEXEC, MsFlags::MS_NOEXEC),
        (StatVfsMountFlags::NOATIME, MsFlags::MS_NOATIME),
        (StatVfsMountFlags::NODIRATIME, MsFlags::MS_NODIRATIME),
        (StatVfsMountFlags::RELATIME, MsFlags::MS_RELATIME),
    ] {
        if now.contains(is) {
            flags |= keep;
        }
    }
    let none = None::<&str>;
    mount(none, place, none, flags, none).map_err(failed("make read-only", place))
}

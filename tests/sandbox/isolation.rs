//! What a handler finds when it looks around, from the inside.

use serde_json::{Value, json};

use super::bed::Bed;

/// Runs `code`, which defines `f(event)`, and gives its reply.
async fn from_inside(code: &str) -> Value {
    let bed = Bed::start().await;
    let function = bed.deploy("probe", code, "timeout_ms = 60000").await;
    let found = bed.reply(&function, json!(null)).await;
    bed.stop().await;
    found
}

#[tokio::test(flavor = "multi_thread")]
async fn no_other_process_is_visible() {
    let found = from_inside(
        r#"
import os
def f(event):
    try:
        os.kill(1, 9)
        killed = "killed init"
    except PermissionError:
        killed = "denied"
    return {
        "pids": [int(name) for name in os.listdir("/proc") if name.isdigit()],
        "own": os.getpid(),
        "init": os.path.exists("/proc/1"),
        "kill_init": killed,
        "not_pids": [name for name in os.listdir("/proc") if not name.isdigit()],
    }
"#,
    )
    .await;
    assert_eq!(found["pids"], json!([found["own"]]));
    assert_eq!(found["init"], json!(false));
    assert_eq!(found["kill_init"], json!("denied"));
    // Nothing of the machine either: no meminfo, no kallsyms, no sys.
    for name in found["not_pids"].as_array().unwrap() {
        assert!(
            ["self", "thread-self"].contains(&name.as_str().unwrap()),
            "/proc/{name}"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn no_path_but_tmp_is_writable() {
    let found = from_inside(
        r#"
import os, stat

def writable(path):
    try:
        name = os.path.join(path, "probe")
        os.close(os.open(name, os.O_CREAT | os.O_WRONLY))
        os.unlink(name)
        return True
    except OSError:
        return False

def f(event):
    made, opened, special, seen = [], [], [], 0
    for top, folders, files in os.walk("/"):
        if top == "/proc" or top.startswith("/usr/share"):
            folders[:] = []
            continue
        seen += 1
        if writable(top):
            made.append(top)
        for name in files:
            path = os.path.join(top, name)
            mode = os.lstat(path).st_mode
            if not stat.S_ISREG(mode) and not stat.S_ISLNK(mode):
                special.append(path)
                continue
            if stat.S_ISLNK(mode):
                continue
            try:
                os.close(os.open(path, os.O_WRONLY))
                opened.append(path)
            except OSError:
                pass
    for path in ["/proc/self/oom_score_adj", "/proc/self/comm", "/proc/self/uid_map"]:
        try:
            os.close(os.open(path, os.O_WRONLY))
            opened.append(path)
        except OSError:
            pass
    with open("/proc/self/mounts") as mounts:
        mounts = [line.split() for line in mounts]
    return {
        "seen": seen,
        "made": made,
        "opened": opened,
        "special": sorted(special),
        "root": sorted(os.listdir("/")),
        "read_write": sorted(m[1] for m in mounts if "rw" in m[3].split(",")),
        "setuid_allowed": sorted(m[1] for m in mounts if "nosuid" not in m[3].split(",")),
        "kinds": sorted({m[2] for m in mounts}),
    }
"#,
    )
    .await;
    assert!(
        found["seen"].as_u64().unwrap() > 50,
        "it looked nowhere: {found}"
    );
    assert_eq!(found["made"], json!(["/tmp"]));
    assert_eq!(found["opened"], json!([]));
    let devices = [
        "/dev/full",
        "/dev/null",
        "/dev/random",
        "/dev/urandom",
        "/dev/zero",
    ];
    assert_eq!(found["special"], json!(devices));
    assert_eq!(found["setuid_allowed"], json!([]));
    for path in found["read_write"].as_array().unwrap() {
        let path = path.as_str().unwrap();
        assert!(
            path == "/tmp" || devices.contains(&path),
            "{path} is mounted read-write"
        );
    }
    for name in found["root"].as_array().unwrap() {
        let expected = [
            "bin",
            "dev",
            "etc",
            "handler",
            "lib",
            "lib32",
            "lib64",
            "proc",
            "sbin",
            "tmp",
            "usr",
            "layers",
            "node_modules",
            "warmpath",
        ];
        assert!(expected.contains(&name.as_str().unwrap()), "/{name}");
    }
    for kind in found["kinds"].as_array().unwrap() {
        let kind = kind.as_str().unwrap();
        assert!(
            !kind.starts_with("cgroup") && kind != "sysfs" && kind != "bpf",
            "{kind}"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn there_is_no_network() {
    let found = from_inside(
        r#"
import socket

def attempt(what):
    try:
        what()
        return "worked"
    except OSError as error:
        return type(error).__name__

def f(event):
    with open("/proc/self/net/dev") as devices:
        devices = [line.split(":")[0].strip() for line in devices if ":" in line]
    pair = socket.socketpair()
    pair[0].send(b"x")
    return {
        "inet": attempt(lambda: socket.socket(socket.AF_INET)),
        "inet6": attempt(lambda: socket.socket(socket.AF_INET6)),
        "netlink": attempt(lambda: socket.socket(socket.AF_NETLINK, socket.SOCK_RAW)),
        "packet": attempt(lambda: socket.socket(socket.AF_PACKET, socket.SOCK_RAW)),
        "vsock": attempt(lambda: socket.socket(socket.AF_VSOCK, socket.SOCK_STREAM)),
        "devices": devices,
        "local": pair[1].recv(1).decode(),
        "host": socket.gethostname(),
    }
"#,
    )
    .await;
    for family in ["inet", "inet6", "netlink", "packet", "vsock"] {
        assert_eq!(found[family], json!("PermissionError"), "{family}");
    }
    assert_eq!(found["devices"], json!(["lo"]));
    assert_eq!(
        found["local"],
        json!("x"),
        "sockets within the sandbox work"
    );
    assert_eq!(found["host"], json!("sandbox"));
}

#[tokio::test(flavor = "multi_thread")]
async fn there_are_no_privileges_to_use_or_to_gain() {
    let found = from_inside(
        r#"
import os, resource, subprocess

def attempt(what, *arguments):
    try:
        what(*arguments)
        return "worked"
    except OSError as error:
        return type(error).__name__

def f(event):
    with open("/proc/self/status") as status:
        status = dict(line.rstrip("\n").split(":\t", 1) for line in status if ":\t" in line)
    child = subprocess.run(["/usr/bin/grep", "Cap", "/proc/self/status"], capture_output=True)
    return {
        "status": status,
        "child": sorted(set(line.split()[1] for line in child.stdout.decode().splitlines())),
        "setuid": attempt(os.setuid, 0),
        "setgid": attempt(os.setgid, 0),
        "setgroups": attempt(os.setgroups, [0]),
        "chroot": attempt(os.chroot, "/tmp"),
        "mknod": attempt(os.mknod, "/tmp/disk", 0o60660, os.makedev(8, 0)),
        "nice": attempt(os.setpriority, os.PRIO_PROCESS, 0, -20),
        "fds": sorted(int(fd) for fd in os.listdir("/proc/self/fd"))[:4],
        "cwd": os.getcwd(),
        "environ": dict(os.environ),
        "core": resource.getrlimit(resource.RLIMIT_CORE),
    }
"#,
    )
    .await;
    let status = &found["status"];
    for set in ["CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"] {
        assert_eq!(status[set], json!("0000000000000000"), "{set}");
    }
    assert_eq!(
        found["child"],
        json!(["0000000000000000"]),
        "a program it starts has none either"
    );
    assert_eq!(status["NoNewPrivs"], json!("1"));
    assert_eq!(status["Seccomp"], json!("2"));
    assert_eq!(status["Uid"], json!("1000\t1000\t1000\t1000"));
    assert_eq!(status["Gid"], json!("1000\t1000\t1000\t1000"));
    assert_eq!(status["Groups"].as_str().unwrap().trim(), "");
    for attempt in ["setuid", "setgid", "setgroups", "chroot", "mknod", "nice"] {
        assert_eq!(found[attempt], json!("PermissionError"), "{attempt}");
    }
    // Nothing of the worker's: an empty stdin, the log, the log, the socket (the fourth is the listing's own).
    assert_eq!(
        found["fds"].as_array().unwrap()[..3],
        [json!(0), json!(1), json!(2)]
    );
    assert_eq!(found["cwd"], json!("/handler"));
    assert_eq!(
        found["environ"]
            .as_object()
            .unwrap()
            .keys()
            .collect::<Vec<_>>(),
        // The four of them keep a zygote that imports numpy at one thread, without which it could not fork.
        [
            "HOME",
            "LANG",
            "MKL_NUM_THREADS",
            "NUMEXPR_NUM_THREADS",
            "OMP_NUM_THREADS",
            "OPENBLAS_NUM_THREADS",
            "PATH"
        ]
    );
    assert_eq!(found["core"], json!([0, 0]));
}

#[tokio::test(flavor = "multi_thread")]
async fn forbidden_system_calls_are_denied() {
    let found = from_inside(
        r#"
import ctypes, errno, platform

CALLS = {
    "x86_64": {
        "ptrace": 101, "mount": 165, "umount2": 166, "pivot_root": 155, "chroot": 161, "reboot": 169,
        "init_module": 175, "kexec_load": 246, "add_key": 248, "request_key": 249, "keyctl": 250,
        "unshare": 272, "perf_event_open": 298, "open_by_handle_at": 304, "setns": 308,
        "process_vm_readv": 310, "finit_module": 313, "bpf": 321, "userfaultfd": 323,
        "io_uring_setup": 425, "open_tree": 428, "move_mount": 429, "fsopen": 430, "pidfd_getfd": 438,
        "mount_setattr": 442, "seccomp": 317, "personality": 135, "iopl": 172, "swapon": 167,
        "settimeofday": 164, "sethostname": 170, "syslog": 103, "acct": 163, "quotactl": 179,
        "clone3": 435, "x32_getpid": 0x40000000 + 39,
    },
    "aarch64": {
        "ptrace": 117, "mount": 40, "umount2": 39, "pivot_root": 41, "chroot": 51, "reboot": 142,
        "init_module": 105, "add_key": 217, "keyctl": 219, "unshare": 97, "perf_event_open": 241,
        "setns": 268, "finit_module": 273, "bpf": 280, "userfaultfd": 282, "io_uring_setup": 425,
        "open_tree": 428, "move_mount": 429, "fsopen": 430, "pidfd_getfd": 438, "seccomp": 277,
        "clone3": 435,
    },
}
CLONE = {"x86_64": 56, "aarch64": 220}
NAMESPACES = {
    "user": 0x10000000, "mount": 0x00020000, "pid": 0x20000000, "net": 0x40000000,
    "ipc": 0x08000000, "uts": 0x04000000, "cgroup": 0x02000000,
}

def f(event):
    libc = ctypes.CDLL(None, use_errno=True)
    machine = platform.machine()
    found = {}
    def call(name, number, *arguments):
        arguments = [ctypes.c_ulong(argument) for argument in (arguments + (0,) * 6)[:6]]
        returned = libc.syscall(ctypes.c_long(number), *arguments)
        if returned == 0 and name.startswith("clone"):
            import os
            os._exit(0)
        found[name] = errno.errorcode[ctypes.get_errno()] if returned == -1 else "worked"
    for name, number in CALLS[machine].items():
        call(name, number)
    for name, flag in NAMESPACES.items():
        call("clone_" + name, CLONE[machine], flag | 17)
    call("prctl_set_seccomp", 157 if machine == "x86_64" else 167, 22, 1)
    call("ioctl_tiocsti", 16 if machine == "x86_64" else 29, 0, 0x5412)
    call("getpid", 39 if machine == "x86_64" else 172)
    return found
"#,
    )
    .await;
    for (name, result) in found.as_object().unwrap() {
        let expected = match name.as_str() {
            "getpid" => "worked",
            // So that libc falls back to clone, whose flags can be seen.
            "clone3" => "ENOSYS",
            _ => "EPERM",
        };
        assert_eq!(result, expected, "{name}");
    }
    assert!(found.as_object().unwrap().len() > 30);
}

#[tokio::test(flavor = "multi_thread")]
async fn instances_of_one_function_do_not_share_tmp_or_random_numbers() {
    let bed = Bed::start_with(|config| config.limits.scale_up_after_us = 0).await;
    let code = r#"
import os, random, time, uuid
from warmpath import db
def f(event, context):
    before = os.listdir("/tmp")
    open("/tmp/mine", "w").close()
    # Until both are here.
    db.put("{both}:%d" % context.instance, "1")
    while len(db.scan("{both}:")) < 2: time.sleep(0.001)
    return [before, random.random(), str(uuid.uuid4()), os.stat("/tmp").st_uid]
"#;
    let function = bed.deploy("random", code, "timeout_ms = 20000").await;
    let (a, b) = tokio::join!(
        bed.call(&function, json!(null)),
        bed.call(&function, json!(null))
    );
    assert_ne!(
        a.usage.instance, b.usage.instance,
        "both were to run at once"
    );
    let (a, b) = (super::bed::json(&a), super::bed::json(&b));
    assert_eq!([&a[0], &b[0]], [&json!([]), &json!([])]);
    assert_ne!(a[1], b[1]);
    assert_ne!(a[2], b[2]);
    assert_eq!(a[3], json!(1000));
    bed.stop().await;
}

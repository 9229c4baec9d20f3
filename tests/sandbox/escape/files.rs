//! Attempts to read or write files that are not the handler's.

use std::{os::unix::fs::PermissionsExt, path::Path};

use serde_json::{Value, json};
use worker::sandbox::landlock;

use super::{super::leftovers::cgroups, Attempt, Wall};

/// Paths that the host has, none of which a handler can open.
async fn absent(paths: &[&str]) {
    let code = "def f(paths):\n    return {path: attempt(os.stat, path) for path in paths}\n";
    let attempt = Attempt::new(code).await;
    let inside = attempt.inside(json!(paths)).await;
    for path in paths {
        assert!(
            Path::new(path).exists(),
            "the host has no {path}: nothing is shown"
        );
        assert_eq!(inside[path], "ENOENT", "{path}");
    }
    attempt.bed.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn reading_files_of_the_host() {
    // The test's own binary stands for any file of an operator's: it lies outside of /usr.
    let own = std::env::current_exe().unwrap();
    absent(&["/root", "/var", "/run", own.to_str().unwrap()]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn turning_the_knobs_of_the_kernel() {
    absent(&[
        "/sys/kernel",
        "/sys/fs/cgroup",
        "/proc/sys/kernel/core_pattern",
        "/proc/sys/kernel/randomize_va_space",
        "/proc/kallsyms",
        "/proc/kmsg",
        "/proc/keys",
        "/dev/kmsg",
    ])
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn climbing_out_by_dot_dot_and_by_links() {
    let secret = tempfile::NamedTempFile::new_in("/").unwrap();
    std::fs::write(secret.path(), "host").unwrap();
    let code = r#"
def f(path):
    root = os.open("/", os.O_RDONLY)
    up = "../" * 40 + path.lstrip("/")
    os.symlink("/" + up, "/tmp/link")
    os.symlink("/proc/self/root/" + up, "/tmp/link-by-proc")
    def read(name, **options):
        os.close(os.open(name, os.O_RDONLY, **options))
    return {
        "dot dot": attempt(lambda: read("/handler/" + up)),
        "by descriptor": attempt(lambda: read(up, dir_fd=root)),
        "link": attempt(read, "/tmp/link"),
        "link by proc": attempt(read, "/tmp/link-by-proc"),
        "proc root": attempt(read, "/proc/self/root" + path),
        "proc cwd": attempt(read, "/proc/self/cwd/" + up),
        "the same way to a file that is here": attempt(read, "/handler/../handler/f.py"),
    }
"#;
    let attempt = Attempt::new(code).await;
    let inside = attempt.inside(json!(secret.path())).await;
    for (way, result) in inside.as_object().unwrap() {
        let here = way.ends_with("is here");
        assert_eq!(result, if here { "worked" } else { "ENOENT" }, "{way}");
    }
    attempt.bed.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn going_through_descriptors_left_open() {
    let code = r#"
def f(event):
    kinds = {}
    for fd in range(1024):
        try:
            kinds[fd] = os.readlink(f"/proc/self/fd/{fd}").split(":")[0]
        except OSError:
            pass
    return kinds
"#;
    let attempt = Attempt::new(code).await;
    // An empty stdin, the log twice, the worker's socket. No directory of the host to start from.
    let expected = json!({ "0": "/dev/null", "1": "pipe", "2": "pipe", "3": "socket" });
    assert_eq!(attempt.inside(Value::Null).await, expected);
    attempt.bed.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn writing_to_code_that_others_run() {
    let code = r#"
def f(event):
    def chmod(path):
        os.chmod(path, 0o777)
    files = ["/handler/f.py", "/warmpath/warmpath/_runtime.py", "/usr/bin/python3"]
    places = ["/handler", "/warmpath", "/usr", "/usr/bin", "/etc", "/"]
    return {
        "change": [attempt(os.truncate, path, 0) for path in files],
        "chmod": [attempt(chmod, path) for path in files],
        "add": [attempt(os.mkdir, place + "/new") for place in places],
        "own": attempt(os.mkdir, "/tmp/new"),
    }
"#;
    let attempt = Attempt::new(code).await;
    let inside = attempt.inside(Value::Null).await;
    assert_eq!(inside["own"], "worked");
    for way in ["chmod", "add"] {
        for result in inside[way].as_array().unwrap() {
            assert_eq!(result, "EROFS", "{way}: {inside}");
        }
    }
    // The files are another user's as well, which newer kernels look at first.
    for result in inside["change"].as_array().unwrap() {
        assert!(result == "EROFS" || result == "EACCES", "{inside}");
    }
    attempt.bed.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn writing_where_a_mount_is_writable_by_mistake() {
    assert!(
        landlock::version() > 0,
        "no Landlock in this kernel: see `warmpath doctor`"
    );
    let code = "
def f(path):
    def write(place):
        os.mkdir(place + '/new-by-escape')
        os.rmdir(place + '/new-by-escape')
    return [attempt(write, path), attempt(os.listdir, path), attempt(write, '/tmp')]
";
    let attempt = Attempt::new(code).await;
    let place = tempfile::tempdir_in("/var/tmp").unwrap();
    let outside = |wall| attempt.outside(wall, &json!(place.path()));
    assert_eq!(
        outside(Some(Wall::Landlock)),
        json!(["EACCES", "worked", "worked"])
    );
    // The handler's own code, mounted writable, and with a mode that lets everybody write.
    let in_code = json!("/handler");
    assert_eq!(attempt.inside(in_code.clone()).await[0], "EROFS");
    let code_dir = attempt
        .bed
        .dir
        .path()
        .join("code")
        .join(attempt.function.digest.hex());
    std::fs::set_permissions(&code_dir, std::fs::Permissions::from_mode(0o777)).unwrap();
    remount_writable(&attempt, "/handler");
    assert_eq!(
        attempt.inside(in_code).await,
        json!(["EACCES", "worked", "worked"])
    );
    attempt.bed.stop().await;
}

/// Makes the mount at `place` writable for the one instance there is.
fn remount_writable(attempt: &Attempt, place: &str) {
    let groups = cgroups(&attempt.bed.config.worker);
    let sandboxes = groups
        .iter()
        .flat_map(|group| std::fs::read_dir(group).unwrap().flatten());
    let processes = sandboxes
        .filter_map(|sandbox| std::fs::read_to_string(sandbox.path().join("cgroup.procs")).ok());
    let processes: String = processes.collect();
    let has_code = |pid: &&str| Path::new(&format!("/proc/{pid}/root/handler/f.py")).exists();
    let instance = processes.lines().find(has_code).expect("an instance runs");
    let remount = format!(
        "import ctypes\nassert ctypes.CDLL(None).mount(None, b'{place}', None, 32 | 4096, None) == 0"
    );
    let status = std::process::Command::new("nsenter")
        .args([
            "-t",
            instance,
            "-m",
            "/usr/bin/python3",
            "-I",
            "-c",
            &remount,
        ])
        .status()
        .unwrap();
    assert!(status.success());
}

#[tokio::test(flavor = "multi_thread")]
async fn reading_what_another_instance_wrote() {
    let code = r#"
import glob
def f(event):
    if event:
        open(f"/tmp/{event}", "w").write("of a tenant")
        os.environ["SECRET"] = event
        return os.path.exists(f"/tmp/{event}")
    return [os.listdir("/tmp"), os.environ.get("SECRET"), glob.glob("/proc/*/root/tmp/secret*"),
            [pid for pid in os.listdir("/proc") if pid.isdigit() and int(pid) != os.getpid()]]
"#;
    let attempt = Attempt::new(code).await;
    let bed = &attempt.bed;
    let other = bed.deploy("other", &attempt.code, "").await;
    assert_eq!(attempt.inside(json!("secret-1")).await, json!(true));
    assert_eq!(
        bed.reply(&other, Value::Null).await,
        json!([[], null, [], []])
    );
    // The control: its own instance has it.
    let own = attempt.inside(Value::Null).await;
    assert_eq!(
        (&own[0], &own[1]),
        (&json!(["secret-1"]), &json!("secret-1"))
    );
    attempt.bed.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn leaving_a_core_for_the_hosts_handler() {
    let code = "
def f(event):
    pid = os.fork()
    if pid == 0:
        os.abort()
    status = os.waitpid(pid, 0)[1]
    return [os.WTERMSIG(status), os.WCOREDUMP(status), os.listdir('/tmp')]
";
    let attempt = Attempt::new(code).await;
    assert_eq!(attempt.inside(Value::Null).await, json!([6, false, []]));
    attempt.bed.stop().await;
}

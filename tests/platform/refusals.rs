//! What cannot work is said in one line, with what to do about it.

use std::{
    fs,
    net::TcpListener,
    path::{Path, PathBuf},
    process::{Command, Output},
};

use crate::bed::{machine, warmpath};

/// Configurations and a copy of the binary that everybody may read and run.
struct Folder {
    dir: tempfile::TempDir,
}

impl Folder {
    fn new() -> Self {
        use std::os::unix::fs::PermissionsExt as _;
        let dir = tempfile::tempdir().unwrap();
        fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755)).unwrap();
        fs::copy(warmpath(), dir.path().join("warmpath")).unwrap();
        Self { dir }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn write(&self, name: &str, text: &str) -> PathBuf {
        let path = self.path(name);
        fs::write(&path, text).unwrap();
        path
    }

    fn balancer(&self) -> PathBuf {
        let dir = self.dir.path().display();
        let text = format!(
            "pin_path = \"{dir}/bpf\"\nadmin_socket = \"{dir}/admin.sock\"\n[[interface]]\nname = \"lo\"\n\
             mode = \"generic\"\n"
        );
        self.write("balancer.toml", &text)
    }

    /// Runs `setpriv SETPRIV warmpath ROLE --config CONFIG`.
    fn run(&self, setpriv: &[&str], role: &str, config: &Path) -> Output {
        Command::new("setpriv")
            .args(setpriv)
            .arg("--")
            .arg(self.path("warmpath"))
            .args([role, "--config"])
            .arg(config)
            .output()
            .unwrap()
    }
}

/// Exactly one line, an error, that holds all `words`.
fn expect_one_line(output: &Output, words: &[&str]) {
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(1), "{text}");
    assert_eq!(text.trim_end().lines().count(), 1, "{text}");
    for word in words {
        assert!(text.contains(word), "`{word}` is not in: {text}");
    }
}

const NOBODY: &[&str] = &["--reuid", "65534", "--regid", "65534", "--clear-groups"];

#[test]
fn a_balancer_without_root_says_so() {
    let _machine = machine();
    let folder = Folder::new();
    expect_one_line(
        &folder.run(NOBODY, "balancer", &folder.balancer()),
        &["root"],
    );
}

#[test]
fn a_worker_without_root_says_so() {
    let _machine = machine();
    let folder = Folder::new();
    let text = "name = \"w\"\ninterface = \"lo\"\naddress = \"127.0.0.1\"\ndirect_listen = \"127.0.0.1:0\"\n\
                store_url = \"http://127.0.0.1:1\"\nstate_dir = \"/tmp/warmpath-no-root\"\n";
    let config = folder.write("worker.toml", text);
    expect_one_line(&folder.run(NOBODY, "worker", &config), &["root"]);
}

#[test]
fn a_balancer_that_may_not_use_bpf_says_so() {
    let _machine = machine();
    let folder = Folder::new();
    let no_bpf = ["--bounding-set", "-bpf,-sys_admin,-perfmon,-net_admin"];
    let output = folder.run(&no_bpf, "balancer", &folder.balancer());
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    expect_one_line(&output, &[]);
    assert!(text.to_lowercase().contains("bpf"), "{text}");
}

#[test]
fn a_busy_port_is_named() {
    let _machine = machine();
    let folder = Folder::new();
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let data = folder.path("data");
    let store = format!("listen = \"{address}\"\npath = \"{}\"\n", data.display());
    let config = folder.write("store.toml", &store);
    expect_one_line(&folder.run(&[], "store", &config), &[&address]);
    let gateway = format!("listen = \"{address}\"\nvip = \"127.0.0.1:9000\"\n");
    let config = folder.write("gateway.toml", &gateway);
    expect_one_line(&folder.run(&[], "gateway", &config), &[&address]);
}

#[test]
fn an_unknown_key_and_a_missing_file_are_named() {
    let _machine = machine();
    let folder = Folder::new();
    let missing = folder.path("nowhere.toml");
    expect_one_line(&folder.run(&[], "gateway", &missing), &["nowhere.toml"]);
    let text = "listen = \"127.0.0.1:0\"\nvip = \"127.0.0.1:9000\"\nvipp = 1\n";
    let config = folder.write("typo.toml", text);
    let output = folder.run(&[], "gateway", &config);
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(1), "{text}");
    assert!(text.contains("vipp"), "{text}");
}

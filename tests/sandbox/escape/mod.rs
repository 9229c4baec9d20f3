//! Attempts to get out of a sandbox, made from inside a handler. `docs/security.md` lists them, with what stops each.
//!
//! That an attempt fails proves little: it may be wrong, or fail for another reason tomorrow. So each shows what
//! stopped it. Where a wall can be raised alone, the attempt is made three times: by root outside of any sandbox, where it
//! works (or gets as far as the kernel's own code); by root behind that one wall, where it is refused; and by a handler, where
//! it is refused in the same way. Where the wall is what a handler can see (mounts, processes, cgroups), the test looks at the
//! same thing from both sides.

mod files;
mod kernel;
mod mounts;
mod namespaces;
mod processes;
mod resources;
mod sockets;

use std::process::{Command, Stdio};

use serde_json::{Value, json};
use worker::sandbox::{landlock, seccomp};

use super::bed::Bed;

/// What every attempt begins with.
const PROBE: &str = include_str!("probe.py");

/// A wall that can be raised around a process without the others.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Wall {
    /// The system call list.
    Seccomp,
    /// Neither root nor any capability.
    Unprivileged,
    /// `no_new_privs`, around an unprivileged process.
    NoNewPrivs,
    /// Landlock's rules.
    Landlock,
    /// The resource limits.
    Rlimits,
}

impl Wall {
    const fn name(self) -> &'static str {
        match self {
            Self::Seccomp => "seccomp",
            Self::Unprivileged => "unprivileged",
            Self::NoNewPrivs => "no_new_privs",
            Self::Landlock => "landlock",
            Self::Rlimits => "rlimits",
        }
    }
}

/// A bed with the attempt deployed as a function.
pub(super) struct Attempt {
    pub(super) bed: Bed,
    pub(super) function: std::sync::Arc<store::CatalogEntry>,
    code: String,
}

impl Attempt {
    /// `code` defines `f(event)`; it may use what is in `probe.py`.
    pub(super) async fn new(code: &str) -> Self {
        Self::with_manifest(code, "timeout_ms = 60000").await
    }

    /// The same, with these lines in the manifest.
    pub(super) async fn with_manifest(code: &str, extra: &str) -> Self {
        let bed = Bed::start().await;
        let code = format!("{PROBE}\n\n{code}");
        let function = bed.deploy("attempt", &code, extra).await;
        Self {
            bed,
            function,
            code,
        }
    }

    /// What a handler gets.
    pub(super) async fn inside(&self, event: Value) -> Value {
        self.bed.reply(&self.function, event).await
    }

    /// What root gets on this machine, behind `wall` alone or behind none. In namespaces of its own, so
    /// that what works does no harm.
    pub(super) fn outside(&self, wall: Option<Wall>, event: &Value) -> Value {
        let filters = seccomp::programs(seccomp::Sockets::Local).unwrap();
        let filters = filters.map(|program| {
            let digits = program.iter().map(|byte| format!("{byte:02x}"));
            digits.collect::<String>()
        });
        let main = "\n\nimport json\n\
                    sys.path.insert(0, sys.argv[1])\n\
                    wall, filters, landlock, event = json.loads(sys.argv[2])\n\
                    raise_wall(wall, filters, landlock)\n\
                    print(json.dumps(f(event)))\n";
        let wall = wall.map_or("none", Wall::name);
        let output = Command::new("unshare")
            .args(["-m", "-p", "-n", "-i", "-u", "-f", "--mount-proc"])
            .args(["/usr/bin/python3", "-I", "-B", "-c"])
            .arg(format!("{}{main}", self.code))
            .arg(self.bed.config.state_dir.join("python"))
            .arg(json!([wall, filters, landlock::version(), event]).to_string())
            .stdin(Stdio::null())
            .stderr(Stdio::piped())
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        serde_json::from_slice(&output.stdout).unwrap_or_else(|_| panic!("{wall}: {said}"))
    }

    /// The attempt gets `control` (one of several, with `|` between them) as root; `with` behind each of `walls`
    /// alone; and `with` from a handler.
    pub(super) async fn must_be_refused(self, walls: &[Wall], with: &str, control: &str) {
        let event = Value::Null;
        let free = self.outside(None, &event);
        let got = free.as_str().unwrap_or_default();
        assert!(control.split('|').any(|any| any == got), "as root: {free}");
        assert_ne!(free, json!(with), "refused without any wall");
        for wall in walls {
            assert_eq!(self.outside(Some(*wall), &event), json!(with), "{wall:?}");
        }
        assert_eq!(self.inside(event).await, json!(with), "from a handler");
        self.bed.stop().await;
    }
}

/// The page is no older than the tests.
#[test]
fn every_attempt_is_listed_with_what_stops_it() {
    const PAGE: &str = include_str!("../../../docs/security.md");
    let files = [
        ("files", include_str!("files.rs")),
        ("kernel", include_str!("kernel.rs")),
        ("mounts", include_str!("mounts.rs")),
        ("namespaces", include_str!("namespaces.rs")),
        ("processes", include_str!("processes.rs")),
        ("resources", include_str!("resources.rs")),
        ("sockets", include_str!("sockets.rs")),
    ];
    let mut attempts = 0;
    for (file, text) in files {
        let tests = text.split("#[tokio::test").skip(1);
        for name in tests.filter_map(|test| test.split_once("async fn ")?.1.split('(').next()) {
            attempts += 1;
            let row = PAGE
                .lines()
                .find(|line| line.contains(&format!("`{file}::{name}`")));
            let row =
                row.unwrap_or_else(|| panic!("docs/security.md does not list {file}::{name}"));
            assert!(
                row.split('|')
                    .nth(3)
                    .is_some_and(|stops| stops.trim().len() > 3),
                "{row}"
            );
        }
    }
    let rows = PAGE
        .lines()
        .filter(|line| line.contains("::") && line.starts_with('|'));
    assert_eq!(
        rows.count(),
        attempts,
        "docs/security.md lists what is not tried"
    );
    assert!(attempts >= 25);
}

/// Makes an attempt that is one expression, and has it refused.
async fn refused(expression: &str, walls: &[Wall], with: &str, control: &str) {
    let code = format!("def f(event):\n    return {expression}\n");
    Attempt::new(&code)
        .await
        .must_be_refused(walls, with, control)
        .await;
}

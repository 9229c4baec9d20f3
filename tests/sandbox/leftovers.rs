//! Nothing stays behind: not after a stop, not after a worker was killed, not after a zygote was.

use std::{collections::BTreeSet, path::PathBuf, sync::Arc, time::Duration};

use ebpf_common::wire::Status;
use serde_json::json;
use tests::{proc, run::ProcessId};
use worker::{
    code::CodeCache,
    pool::{Pool, PoolError},
    sandbox::CgroupError,
};

use super::bed::{Bed, run_name, within};

/// The cgroup directories of the worker `name`, in every hierarchy.
pub(super) fn cgroups(name: &str) -> Vec<PathBuf> {
    let tail = PathBuf::from(run_name()).join(name);
    let mounted = std::fs::read_dir("/sys/fs/cgroup")
        .unwrap()
        .flatten()
        .map(|entry| entry.path());
    let roots = mounted.chain([PathBuf::from("/sys/fs/cgroup")]);
    roots
        .map(|root| root.join(&tail))
        .filter(|path| path.exists())
        .collect()
}

/// Processes that have `dir` in their command line or in their mounts.
fn processes_of(dir: &std::path::Path) -> BTreeSet<String> {
    let needle = dir.to_string_lossy().into_owned();
    let pids = std::fs::read_dir("/proc").unwrap().flatten();
    pids.filter(|entry| entry.file_name().to_string_lossy().parse::<u32>().is_ok())
        .filter(|entry| entry.file_name().to_string_lossy() != std::process::id().to_string())
        .filter(|entry| {
            let line = std::fs::read(entry.path().join("cmdline")).unwrap_or_default();
            String::from_utf8_lossy(&line).contains(&needle)
        })
        .map(|entry| entry.file_name().to_string_lossy().into_owned())
        .collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stopped_pool_leaves_no_process_mount_or_cgroup() {
    let mounts = || std::fs::read_to_string("/proc/self/mounts").unwrap();
    let bed = Bed::start_with(|config| config.limits.prepared = 2).await;
    let slow = bed
        .deploy(
            "slow",
            "import time\ndef f(event):\n    time.sleep(30)\n",
            "timeout_ms = 60000",
        )
        .await;
    let hello = bed
        .deploy("hello", "def f(event):\n    return 1\n", "")
        .await;
    bed.reply(&hello, json!(null)).await;
    let invocation = bed.invocation(&slow, &json!(null));
    let pool = Arc::clone(&bed.pool);
    let running = tokio::spawn(async move { pool.invoke(invocation).await });
    while bed.pool.snapshot().busy == 0 {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let (name, dir) = (bed.config.worker.clone(), bed.dir.path().to_owned());
    assert!(
        !cgroups(&name).is_empty() && !processes_of(&dir).is_empty(),
        "the test looks nowhere"
    );
    bed.pool.stop().await;
    assert_eq!(running.await.unwrap().status, Status::OutcomeUnknown);
    assert_eq!(bed.call(&hello, json!(null)).await.status, Status::Draining);
    assert_eq!(cgroups(&name), Vec::<PathBuf>::new());
    assert_eq!(processes_of(&dir), BTreeSet::new());
    assert!(!mounts().contains(&*dir.to_string_lossy()));
    bed.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn two_workers_of_one_name_do_not_share_a_host() {
    let bed = Bed::start().await;
    let code = CodeCache::new(bed.store.clone(), bed.dir.path().join("code-2"));
    let db = Arc::new(db::Router::new(None, db::Metrics::unregistered()));
    let second = Pool::start(bed.config.clone(), code, db).await;
    assert!(
        matches!(second, Err(PoolError::Cgroup(CgroupError::Taken(_)))),
        "{second:?}"
    );
    bed.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_zygote_is_replaced() {
    let bed = Bed::start_with(|config| config.limits.scale_up_after_us = 0).await;
    let function = bed
        .deploy("hello", "def f(event):\n    return 1\n", "")
        .await;
    bed.reply(&function, json!(null)).await;
    // Instances share its command line; only the zygote is our own child.
    let library = bed.dir.path().join("state/python");
    let own = format!("\nPPid:\t{}\n", std::process::id());
    let is_own = |pid: &&String| {
        std::fs::read_to_string(format!("/proc/{pid}/status"))
            .is_ok_and(|status| status.contains(&own))
            && std::fs::read(format!("/proc/{pid}/cmdline"))
                .is_ok_and(|line| line.starts_with(b"/usr/bin/python3\0"))
    };
    let children = processes_of(&library);
    let zygotes: Vec<_> = children.iter().filter(is_own).collect();
    assert_eq!(zygotes.len(), 1, "{children:?}");
    let zygote = nix::unistd::Pid::from_raw(zygotes[0].parse().unwrap());
    nix::sys::signal::kill(zygote, nix::sys::signal::Signal::SIGKILL).unwrap();
    let again = bed
        .deploy("again", "def f(event):\n    return 2\n", "")
        .await;
    for _ in 0..3 {
        assert_eq!(bed.reply(&again, json!(null)).await, json!(2));
        assert_eq!(
            bed.reply(&function, json!(null)).await,
            json!(1),
            "instances outlive their zygote"
        );
    }
    let (name, dir) = (bed.config.worker.clone(), bed.dir.path().to_owned());
    bed.pool.stop().await;
    assert_eq!(cgroups(&name), Vec::<PathBuf>::new());
    assert_eq!(processes_of(&dir), BTreeSet::new());
    bed.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_prepared_sandbox_that_was_killed_is_given_to_nobody() {
    let bed = Bed::start().await;
    let function = bed
        .deploy("hello", "def f(event):\n    return 1\n", "")
        .await;
    let prepared: BTreeSet<u32> = cgroups(&bed.config.worker)
        .iter()
        .flat_map(|group| proc::members(group))
        .collect();
    assert!(!prepared.is_empty(), "nothing is prepared");
    let lives = |pid: &u32| ProcessId::of(pid.cast_signed()).is_some();
    for pid in &prepared {
        let pid = nix::unistd::Pid::from_raw(pid.cast_signed());
        // It may have gone with another one, whose child it is.
        let (Ok(()) | Err(nix::errno::Errno::ESRCH)) =
            nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGKILL)
        else {
            panic!("process {pid} cannot be killed");
        };
    }
    let gone = async {
        while prepared.iter().any(lives) {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    tokio::time::timeout(within(10), gone)
        .await
        .expect("what is killed ends");
    assert_eq!(bed.reply(&function, json!(null)).await, json!(1));
    bed.stop().await;
}

/// Not a test of its own: [`a_killed_worker_leaves_nothing_that_its_successor_does_not_remove`] runs it in
/// a process that it then kills.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "a part of another test"]
async fn hosts_a_pool_until_killed() {
    let Some(parent) = std::env::var_os("WP_CGROUP_PARENT") else {
        return;
    };
    let bed = Bed::start_with(|config| {
        config.sandbox.cgroup_parent = parent.into_string().unwrap();
        config.worker = "killed".to_owned();
        config.limits.pause_after_ms = 20;
    })
    .await;
    let function = bed
        .deploy("hello", "def f(event):\n    return 1\n", "")
        .await;
    bed.reply(&function, json!(null)).await;
    // What is paused cannot see that its worker is gone.
    while bed.pool.snapshot().paused == 0 {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    println!("\nhosting {}", bed.dir.path().display());
    std::future::pending::<()>().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_worker_leaves_nothing_that_its_successor_does_not_remove() {
    use std::io::BufRead;
    let mut worker = std::process::Command::new(std::env::current_exe().unwrap())
        .args([
            "--ignored",
            "--exact",
            "--nocapture",
            "leftovers::hosts_a_pool_until_killed",
        ])
        .env("WP_CGROUP_PARENT", run_name())
        .stdout(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    let lines = std::io::BufReader::new(worker.stdout.take().unwrap()).lines();
    let dir = lines
        .map_while(Result::ok)
        .find_map(|line| line.strip_prefix("hosting ").map(PathBuf::from))
        .unwrap();
    assert!(!processes_of(&dir).is_empty() && !cgroups("killed").is_empty());
    worker.kill().unwrap();
    worker.wait().unwrap();
    let gone = async {
        while !processes_of(&dir).is_empty() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(within(10), gone)
        .await
        .expect("its processes end with it");
    let bed = Bed::start_with(|config| config.worker = "killed".to_owned()).await;
    let function = bed
        .deploy("hello", "def f(event):\n    return 1\n", "")
        .await;
    bed.reply(&function, json!(null)).await;
    bed.stop().await;
    assert_eq!(cgroups("killed"), Vec::<PathBuf>::new());
    std::fs::remove_dir_all(dir).unwrap();
}

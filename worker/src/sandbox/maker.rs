//! Makes sandboxes ahead of need, without a function.

use std::{
    fs::File,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    path::PathBuf,
    sync::{Arc, OnceLock, atomic::AtomicBool},
    time::Duration,
};

use rustix::process::{Pid, PidfdFlags, pidfd_open};

use super::{
    cgroup::{SandboxCgroup, WorkerCgroup},
    channel::Channel,
    end::{end, kill},
    error::{SandboxError, failed, out_of_turn},
    founders::{Founder, Founders},
    handle::{HANDLER_ID, Sandbox},
    init::{Build, Plan, Report},
    network::{Link, Network},
    rootfs::Root,
    uids::Uids,
};

/// Makes sandboxes, for one worker.
#[derive(Debug)]
pub struct SandboxMaker {
    /// What forks those that begin a sandbox.
    pub founders: Arc<Founders>,
    /// The root that each has.
    pub root: Root,
    /// The cgroup that holds those of the sandboxes.
    pub cgroup: Arc<WorkerCgroup>,
    /// The host user ids of handlers.
    pub uids: Arc<Uids>,
    /// What gives sandboxes a network, if these are to have one.
    pub network: Option<Arc<Network>>,
    /// How long init may take for a step.
    pub timeout: Duration,
}

impl SandboxMaker {
    /// Makes one sandbox: namespaces, root file system and cgroup, with an init in it and nothing else.
    /// Blocks for some tens of milliseconds.
    ///
    /// # Errors
    /// When any step fails; nothing of it is left then.
    pub fn make(&self, id: u64) -> Result<Sandbox, SandboxError> {
        let uid = self
            .uids
            .take()
            .ok_or_else(|| SandboxError::NoUid(self.uids.count()))?;
        let (founder, channel) = Founder::fork(&self.founders)?;
        let founder_pid = founder.pid();
        // Declared behind the channel, and dropped before it: an init that nobody knows of yet is there until then.
        let mut made = Unfinished {
            founder,
            init: None,
            link: None,
            init_pid: 0,
            cgroup: None,
        };
        let cgroup = made.cgroup.insert(self.cgroup.sandbox(&id.to_string())?);
        let consumption = cgroup.consumption()?;
        cgroup.join(founder_pid)?;
        let plan = Plan {
            root: self.root.clone(),
            handler_uid: uid.host_id(),
            init_uid: self.uids.init_id(),
            dns: self
                .network
                .iter()
                .flat_map(|it| it.dns().to_vec())
                .collect(),
        };
        channel.send(&plan, &[])?;
        let user = self.found(&channel, uid.host_id(), &mut made)?;
        let (Some(init), Some(cgroup)) = (made.init.take(), made.cgroup.take()) else {
            return Err(SandboxError::Init("no report of its start".to_owned()));
        };
        // The founder goes with `made`; the init stays, as a child of this subreaper.
        Ok(Sandbox {
            id,
            init,
            init_pid: made.init_pid,
            user,
            channel,
            cgroup,
            consumption,
            process: OnceLock::new(),
            is_paused: AtomicBool::new(false),
            link: made.link.take(),
            uid,
            timeout: self.timeout,
        })
    }

    /// Follows founder and init until the sandbox stands; its user namespace.
    fn found(
        &self,
        channel: &Channel,
        uid: u32,
        made: &mut Unfinished,
    ) -> Result<File, SandboxError> {
        let report = |processes: &[BorrowedFd<'_>]| match channel
            .receive_from::<Report>(processes, self.timeout)?
        {
            Report::Failed(what) => Err(SandboxError::Init(what)),
            report => Ok(report),
        };
        let Report::Founded(init_pid) = report(&[made.founder.process()])? else {
            return Err(out_of_turn());
        };
        let init = made.init.insert(open_process(init_pid)?).try_clone();
        let init = init.map_err(failed("keep hold of", "a sandbox's init"))?;
        if let Some(network) = &self.network {
            made.link = Some(network.attach(init_pid)?);
        }
        made.init_pid = init_pid;
        let user = map_user(made.founder.pid(), uid)?;
        channel.send(&Build {}, &[])?;
        match report(&[made.founder.process(), init.as_fd()])? {
            Report::Ready => Ok(user),
            _ => Err(out_of_turn()),
        }
    }
}

/// What exists of a sandbox in the making; dropped, it goes.
struct Unfinished {
    founder: Founder,
    init: Option<OwnedFd>,
    /// Goes after the namespace that it leads into.
    link: Option<Link>,
    init_pid: u32,
    cgroup: Option<SandboxCgroup>,
}

impl Drop for Unfinished {
    fn drop(&mut self) {
        if let Some(init) = self.init.take() {
            kill(&init);
            end(&init, None);
        }
        let Some(cgroup) = self.cgroup.take() else {
            return;
        };
        self.founder.end();
        // An init of which the founder could not tell any more; it is this subreaper's child now.
        for init in cgroup.processes() {
            if let Ok(init) = open_process(init) {
                kill(&init);
                end(&init, None);
            }
        }
        if let Err(error) = cgroup.remove() {
            tracing::warn!(%error, "a sandbox that failed to start leaves its cgroup");
        }
    }
}

fn open_process(pid: u32) -> Result<OwnedFd, SandboxError> {
    let path = format!("process {pid}");
    i32::try_from(pid)
        .ok()
        .and_then(Pid::from_raw)
        .ok_or(rustix::io::Errno::SRCH)
        .and_then(|pid| pidfd_open(pid, PidfdFlags::empty()))
        .map_err(failed("take hold of", path))
}

/// Makes `uid` the only user of the founder's user namespace, and takes hold of that.
fn map_user(founder_pid: u32, uid: u32) -> Result<File, SandboxError> {
    let process = PathBuf::from(format!("/proc/{founder_pid}"));
    let map = format!("{HANDLER_ID} {uid} 1\n");
    for file in ["uid_map", "gid_map"] {
        let path = process.join(file);
        std::fs::write(&path, &map).map_err(failed("write", &path))?;
    }
    let path = process.join("ns/user");
    File::open(&path).map_err(failed("open", &path))
}

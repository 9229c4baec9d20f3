//! Child processes in namespaces: started so that they cannot outlive us, with their output in a file.
//!
//! A child dies with this process even when this process is killed (`PR_SET_PDEATHSIG`). The kernel sends that
//! signal when the *thread* that started the child ends, so one thread of this module starts them all.

use std::{
    fs::{self, File},
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    sync::{OnceLock, mpsc},
    thread,
    time::Duration,
};

use anyhow::{Context as _, Result, bail};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};

use crate::{
    netns::Netns,
    run::{ProcessId, Run},
    wait,
};

const DEATH_TIMEOUT: Duration = Duration::from_secs(5);
/// Lines of a log that a failure shows.
const LOG_TAIL_LINES: usize = 15;

/// A child process. Dropping it kills it.
#[derive(Debug)]
pub struct Process {
    name: String,
    child: Child,
    log: PathBuf,
}

/// What to start.
#[derive(Debug)]
pub struct Spec<'a> {
    /// Its name in messages and of its log file.
    pub name: &'a str,
    /// Where it runs.
    pub netns: &'a Netns,
    /// The program.
    pub program: &'a Path,
    /// Its arguments.
    pub args: &'a [&'a str],
    /// Whether its standard output is for us ([`Process::stdout`]) instead of the log.
    pub piped: bool,
}

impl Process {
    /// Starts `spec`. It lives in a process group of its own, so that Ctrl-C reaches us and not it.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn start(run: &Run, spec: &Spec<'_>) -> Result<Self> {
        let log = run.dir().join(format!("{}.log", spec.name));
        let file = File::options()
            .create(true)
            .append(true)
            .open(&log)
            .with_context(|| format!("opening {}", log.display()))?;
        let output = if spec.piped {
            Stdio::piped()
        } else {
            file.try_clone().context("duplicating a log file")?.into()
        };
        let mut command = spec.netns.command("setpriv");
        command
            .args(["--pdeathsig", "KILL", "--"])
            .arg(spec.program)
            .args(spec.args)
            .stdin(Stdio::null())
            .stdout(output)
            .stderr(file);
        std::os::unix::process::CommandExt::process_group(&mut command, 0);
        let child = spawn(command).with_context(|| format!("starting {}", spec.name))?;
        let process = Self {
            name: spec.name.to_owned(),
            child,
            log,
        };
        if let Some(id) = ProcessId::of(process.pid()) {
            run.note_process(id)?;
        }
        Ok(process)
    }

    /// Its process id: that of the program itself, since `nsenter` and `setpriv` become it.
    #[must_use]
    pub fn pid(&self) -> i32 {
        // Linux has no pid beyond 2^22.
        self.child.id().cast_signed()
    }

    /// Its standard output, once, if it was started with a pipe.
    pub fn stdout(&mut self) -> Option<std::process::ChildStdout> {
        self.child.stdout.take()
    }

    /// Where its output goes.
    #[must_use]
    pub fn log(&self) -> &Path {
        &self.log
    }

    /// The end of its log, for messages.
    #[must_use]
    pub fn log_tail(&self) -> String {
        let text = fs::read_to_string(&self.log).unwrap_or_default();
        let lines: Vec<&str> = text.lines().collect();
        lines[lines.len().saturating_sub(LOG_TAIL_LINES)..].join("\n")
    }

    /// Fails if it has ended, with the end of its log.
    ///
    /// # Errors
    /// When it has ended.
    pub fn check(&mut self) -> Result<()> {
        match self.child.try_wait().context("looking at a child")? {
            None => Ok(()),
            Some(status) => bail!("{} has ended ({status}):\n{}", self.name, self.log_tail()),
        }
    }

    /// Waits until `ready` gives something; fails at once if the process ends before that.
    ///
    /// # Errors
    /// When it ends or is not ready within `timeout`.
    pub fn wait_ready<T>(
        &mut self,
        timeout: Duration,
        mut ready: impl FnMut() -> Result<Option<T>>,
    ) -> Result<T> {
        let what = format!("{} to be ready", self.name);
        let value = wait::until(&what, timeout, || {
            // An early end is final: hand it out as a value.
            match self.check() {
                Err(error) => Ok(Some(Err(error))),
                Ok(()) => ready().map(|value| value.map(Ok)),
            }
        });
        value.with_context(|| format!("its log ends:\n{}", self.log_tail()))?
    }

    /// Waits for its end.
    ///
    /// # Errors
    /// When it has not ended within `timeout`.
    pub fn wait_end(&mut self, timeout: Duration) -> Result<ExitStatus> {
        let what = format!("{} to end", self.name);
        wait::until(&what, timeout, || {
            self.child.try_wait().context("looking at a child")
        })
    }

    /// Sends `signal`.
    ///
    /// # Errors
    /// When it is gone.
    pub fn signal(&self, signal: Signal) -> Result<()> {
        kill(Pid::from_raw(self.pid()), signal)
            .with_context(|| format!("sending {signal} to {}", self.name))
    }

    /// Kills it with SIGKILL and waits until it is gone.
    ///
    /// # Errors
    /// When it does not die.
    pub fn kill(&mut self) -> Result<()> {
        self.child
            .kill()
            .with_context(|| format!("killing {}", self.name))?;
        self.wait_end(DEATH_TIMEOUT)?;
        Ok(())
    }

    /// Asks it to end (SIGTERM), and kills it if it does not within `timeout`.
    ///
    /// # Errors
    /// When it does not even die.
    pub fn stop(&mut self, timeout: Duration) -> Result<()> {
        if self
            .child
            .try_wait()
            .context("looking at a child")?
            .is_some()
        {
            return Ok(());
        }
        self.signal(Signal::SIGTERM)?;
        if self.wait_end(timeout).is_err() {
            tracing::warn!(process = %self.name, "did not end on SIGTERM: killed");
            self.kill()?;
        }
        Ok(())
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if let Err(error) = self.kill() {
            tracing::warn!(process = %self.name, "{error:#}");
        }
    }
}

type Order = (Command, mpsc::Sender<std::io::Result<Child>>);

/// Starts `command` on the one thread that never ends before the process does.
fn spawn(command: Command) -> Result<Child> {
    static STARTER: OnceLock<mpsc::Sender<Order>> = OnceLock::new();
    let starter = STARTER.get_or_init(|| {
        let (sender, orders) = mpsc::channel::<Order>();
        thread::spawn(move || {
            for (mut command, answer) in orders {
                if answer.send(command.spawn()).is_err() {
                    tracing::warn!("nobody waits for a child that was started");
                }
            }
        });
        sender
    });
    let (answer, child) = mpsc::channel();
    starter
        .send((command, answer))
        .context("the thread that starts children has ended")?;
    child
        .recv()
        .context("the thread that starts children has ended")?
        .context("spawning")
}

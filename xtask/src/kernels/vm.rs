//! A kernel under qemu's own emulation (TCG): slow, and needs nothing of the host. The machine's first serial line is
//! its console; the second carries the output of the guest's script, line by line, and its exit status.

use std::{
    fs::{self, File},
    io::Write as _,
    path::Path,
    process::{Command, Stdio},
    time::Duration,
};

use anyhow::{Context as _, Result, bail};

use super::{
    debian::DebianKernel,
    initramfs::{self, EXIT, Guest},
    lines::Lines,
};

/// The emulator.
pub(crate) const QEMU: &str = "qemu-system-x86_64";
/// Enough for the maps of a test and the initramfs itself.
const MEMORY_MIB: u32 = 2_048;
/// Two nanoseconds an instruction; what waits for a timer need not wait. See [`Guest::own_time`].
const OWN_TIME: &str = "shift=1,sleep=off";
/// Lines of the console that are shown when the machine died.
const CONSOLE_TAIL: usize = 25;

/// Boots `kernel` with `guest`, hands each line of its script's output to `on_line`, keeps all of it in `folder`
/// (`output.txt`, `console.txt`), and returns the script's exit status.
///
/// # Errors
/// The machine does not start, does not end within `timeout`, or ends without saying how the script ended.
pub(crate) fn run(
    kernel: &DebianKernel,
    guest: &Guest,
    folder: &Path,
    timeout: Duration,
    mut on_line: impl FnMut(&str),
) -> Result<i32> {
    let archive = folder.join("initramfs.cpio");
    initramfs::build(guest, &kernel.modules, &archive)?;
    let console = folder.join("console.txt");
    let mut command = Command::new(QEMU);
    command
        .args(["-M", "q35", "-accel", "tcg", "-cpu", "max", "-smp", "1"])
        .args(["-m", &guest.memory_mib.unwrap_or(MEMORY_MIB).to_string()])
        .args(["-nodefaults", "-no-reboot", "-display", "none"])
        .arg("-kernel")
        .arg(&kernel.image)
        .arg("-initrd")
        .arg(&archive)
        .args(["-append", "console=ttyS0 panic=-1 quiet"])
        .arg("-serial")
        .arg(format!("file:{}", console.display()))
        .args(["-chardev", "stdio,id=out,signal=off"])
        .args(["-serial", "chardev:out"])
        .stdin(Stdio::null())
        .stderr(Stdio::inherit());
    if guest.own_time {
        command.args(["-icount", OWN_TIME]);
    }
    let mut output = Saved::create(&folder.join("output.txt"))?;
    let mut lines = Lines::spawn(command, timeout)?;
    let mut exit = None;
    while let Some(line) = lines.next()? {
        match line.strip_prefix(EXIT) {
            Some(status) => exit = status.parse().ok(),
            None => on_line(&line),
        }
        output.line(&line)?;
    }
    lines.finish().context("waiting for qemu")?;
    match exit {
        Some(exit) => Ok(exit),
        None => bail!(
            "the machine ended before its script did; the last of {}:\n{}",
            console.display(),
            tail(
                &fs::read_to_string(&console).unwrap_or_default(),
                CONSOLE_TAIL
            )
        ),
    }
}

/// A file that gets each line as it comes.
#[derive(Debug)]
pub(crate) struct Saved {
    file: File,
}

impl Saved {
    pub(crate) fn create(path: &Path) -> Result<Self> {
        let file = File::create(path).with_context(|| format!("creating {}", path.display()))?;
        Ok(Self { file })
    }

    pub(crate) fn line(&mut self, line: &str) -> Result<()> {
        writeln!(self.file, "{line}").context("saving output")
    }
}

/// The last `count` lines of `text`.
pub(crate) fn tail(text: &str, count: usize) -> String {
    let lines: Vec<_> = text.lines().collect();
    let from = lines.len().saturating_sub(count);
    lines.get(from..).unwrap_or_default().join("\n")
}

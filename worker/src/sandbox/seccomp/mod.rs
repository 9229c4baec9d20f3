//! The system calls a handler may make: an allow-list by name, everything else fails with EPERM.
//!
//! The list is what CPython and ordinary libraries need: files, memory, threads, child processes, time,
//! signals, local sockets. Left out on purpose: everything that mounts, traces, loads code into the kernel,
//! makes or enters namespaces, watches the machine, or opens a socket that is not `AF_UNIX` (the network
//! namespace is empty anyway; this keeps the protocol code of the kernel out of reach as well; functions that ask for
//! a network may open TCP and UDP sockets). A call
//! unknown to this list fails with EPERM rather than kills, so that libraries can fall back.

mod search;

use seccompiler::{BpfProgram, TargetArch, compile_from_json};
use serde_json::{Value, json};

/// Calls allowed whatever their arguments, on every architecture.
const ALLOWED: [&str; 5] = [
    // Files and directories, within what the mounts allow.
    "read write readv writev pread64 pwrite64 preadv pwritev preadv2 pwritev2 openat close \
     close_range lseek fstat newfstatat statx statfs fstatfs ftruncate truncate fallocate \
     fsync fdatasync sync_file_range getdents64 getcwd chdir fchdir mkdirat unlinkat renameat \
     renameat2 linkat symlinkat readlinkat faccessat faccessat2 fchmod fchmodat fchown \
     fchownat utimensat umask fcntl flock dup dup3 pipe2 copy_file_range sendfile splice tee \
     fadvise64 readahead getxattr lgetxattr fgetxattr listxattr llistxattr flistxattr \
     inotify_init1 inotify_add_watch inotify_rm_watch memfd_create",
    // Memory.
    "brk mmap munmap mremap mprotect madvise mincore msync mlock munlock membarrier",
    // Processes and threads; how many is the cgroup's business. clone is below.
    "clone3 execve execveat exit exit_group wait4 waitid kill tgkill tkill pidfd_open \
     pidfd_send_signal getpid getppid gettid getpgid setpgid getsid setsid getuid geteuid \
     getgid getegid getresuid getresgid getgroups capget getrlimit setrlimit prlimit64 \
     getrusage times sysinfo uname getcpu getpriority setpriority sched_yield \
     sched_getaffinity sched_setaffinity sched_getparam sched_getscheduler \
     sched_get_priority_max sched_get_priority_min set_tid_address set_robust_list \
     get_robust_list rseq futex futex_waitv",
    // Signals and time.
    "rt_sigaction rt_sigprocmask rt_sigreturn rt_sigpending rt_sigsuspend rt_sigtimedwait \
     rt_sigqueueinfo sigaltstack signalfd4 restart_syscall clock_gettime clock_getres \
     clock_nanosleep gettimeofday nanosleep getitimer setitimer timer_create timer_settime \
     timer_gettime timer_getoverrun timer_delete timerfd_create timerfd_settime \
     timerfd_gettime",
    // Waiting, and sockets once they exist. socket and socketpair are below.
    "ppoll pselect6 epoll_create1 epoll_ctl epoll_pwait epoll_pwait2 eventfd2 bind listen \
     accept accept4 connect getsockname getpeername sendto recvfrom sendmsg recvmsg sendmmsg \
     recvmmsg shutdown getsockopt setsockopt getrandom",
];

/// Older spellings that only x86-64 has.
const ALLOWED_X86_64: &str = "\
    open creat stat lstat access readlink mkdir rmdir unlink rename link symlink chmod chown \
    lchown utime utimes futimesat getdents dup2 pipe poll select epoll_create epoll_wait \
    eventfd signalfd inotify_init fork vfork arch_prctl time alarm pause getpgrp";

/// Calls that a package zygote makes to lock in what it forks, besides `setns` and more of `prctl`.
const ALLOWED_ZYGOTE: &str = "setresuid setresgid setgroups capset landlock_create_ruleset \
     landlock_add_rule landlock_restrict_self";
/// The kinds of namespaces (`CLONE_NEW*`), one of which `setns` names.
const SETNS_ALLOWED: [u64; 7] = [
    0x0002_0000,
    0x0200_0000,
    0x0400_0000,
    0x0800_0000,
    0x1000_0000,
    0x2000_0000,
    0x4000_0000,
];
/// `prctl` options for the same: seccomp, bounding set, secure bits, `no_new_privs`, ambient set.
const PRCTL_ZYGOTE: [u64; 5] = [22, 24, 28, 38, 47];

/// The flags of `clone` that make namespaces (`CLONE_NEW*`).
const CLONE_NEW_FLAGS: u64 = 0x7E02_0000;
/// `AF_UNIX`.
const AF_UNIX: u64 = 1;
/// `AF_INET` and `AF_INET6`.
const INTERNET: [u64; 2] = [2, 10];
/// `SOCK_STREAM` and `SOCK_DGRAM`, and the bits that hold a socket's type: above them are flags.
const SOCKET_TYPES: [u64; 2] = [1, 2];
const SOCKET_TYPE_BITS: u64 = 0xF;
/// `prctl` options that only concern the caller: names, death signals, dumpability, memory names.
const PRCTL_ALLOWED: [u64; 8] = [1, 2, 3, 4, 15, 16, 39, 0x5356_4D41];
/// `ioctl` requests on descriptors the handler has: terminal size and settings (`isatty`), bytes ready,
/// blocking and close-on-exec.
const IOCTL_ALLOWED: [u64; 6] = [0x5401, 0x5413, 0x541B, 0x5421, 0x5450, 0x5451];
const EPERM: u32 = 1;
const ENOSYS: u32 = 38;

/// Why the filter could not be compiled.
#[derive(Debug, thiserror::Error)]
pub enum SeccompError {
    /// No list for this processor.
    #[error("no system call list for the processor architecture {0:?}: use x86_64 or aarch64")]
    Architecture(&'static str),
    /// A rule is malformed.
    #[error("cannot compile the system call filter")]
    Compile(#[source] seccompiler::Error),
    /// The list has too many gaps.
    #[error("the list of system calls has more gaps than one jump leads over")]
    Gaps,
}

/// The sockets that a process may make.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sockets {
    /// `AF_UNIX` only.
    Local,
    /// TCP and UDP as well: for functions whose manifest asks for a network.
    Internet,
}

/// The filters to install, in this order, each as the bytes of its `struct sock_filter`s.
///
/// The first answers ENOSYS to `clone3`, whose flags a filter cannot see, so that libc falls back to
/// `clone`; the second is the allow-list. They are two because a filter has one verdict for what it matches.
///
/// # Errors
/// When this processor has no list.
pub fn programs(sockets: Sockets) -> Result<[Vec<u8>; 2], SeccompError> {
    compile(Whose::Instance(sockets))
}

/// As [`programs`], for a package zygote: also what it takes to enter a sandbox, which is of use only with a
/// descriptor of one.
///
/// # Errors
/// As [`programs`].
pub fn zygote_programs() -> Result<[Vec<u8>; 2], SeccompError> {
    compile(Whose::PackageZygote)
}

/// Whom a filter is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Whose {
    Instance(Sockets),
    PackageZygote,
}

fn compile(whose: Whose) -> Result<[Vec<u8>; 2], SeccompError> {
    let arch = TargetArch::try_from(std::env::consts::ARCH)
        .or(Err(SeccompError::Architecture(std::env::consts::ARCH)))?;
    let [clone3, allowed] = compile_for(arch, whose)?;
    Ok([bytes(&clone3), bytes(&allowed)])
}

fn compile_for(arch: TargetArch, whose: Whose) -> Result<[BpfProgram; 2], SeccompError> {
    let policy = policy(arch, whose).to_string();
    let mut compiled = compile_from_json(policy.as_bytes(), arch).map_err(SeccompError::Compile)?;
    let mut take = |name| compiled.remove(name).unwrap_or_default();
    // Most calls are found by their number, before the others' conditions are looked at one by one.
    let always = search::allow(&search::numbers(&take("always"))).ok_or(SeccompError::Gaps)?;
    let mut allowed = take("allowed");
    allowed.splice(search::HEAD..search::HEAD, always);
    Ok([take("clone3"), allowed])
}

/// Three filters: what is answered ENOSYS, what is allowed whatever its arguments, and what by its arguments.
fn policy(arch: TargetArch, whose: Whose) -> Value {
    let clone3 = vec![json!({ "syscall": "clone3" })];
    let filter = |match_action: Value, otherwise: Value, rules: Vec<Value>| json!({ "mismatch_action": otherwise, "match_action": match_action, "filter": rules });
    let allow = || json!("allow");
    let errno = |number: u32| json!({ "errno": number });
    json!({
        "clone3": filter(errno(ENOSYS), allow(), clone3),
        "always": filter(allow(), errno(EPERM), always(arch, whose)),
        "allowed": filter(allow(), errno(EPERM), conditions(whose)),
    })
}

/// What is allowed whatever its arguments.
fn always(arch: TargetArch, whose: Whose) -> Vec<Value> {
    let of_zygote = match whose {
        Whose::PackageZygote => ALLOWED_ZYGOTE,
        Whose::Instance(_) => "",
    };
    names(matches!(arch, TargetArch::x86_64))
        .chain(of_zygote.split_whitespace())
        .map(|name| json!({ "syscall": name }))
        .collect()
}

/// What is allowed with some arguments.
fn conditions(whose: Whose) -> Vec<Value> {
    let mut rules = vec![
        when("clone", 0, &json!({ "masked_eq": CLONE_NEW_FLAGS }), 0),
        when("socket", 0, &json!("eq"), AF_UNIX),
        when("socketpair", 0, &json!("eq"), AF_UNIX),
    ];
    if whose == Whose::Instance(Sockets::Internet) {
        rules.extend(
            INTERNET
                .iter()
                .flat_map(|family| SOCKET_TYPES.map(|kind| internet(*family, kind))),
        );
    }
    rules.extend(PRCTL_ALLOWED.map(|option| when("prctl", 0, &json!("eq"), option)));
    rules.extend(IOCTL_ALLOWED.map(|request| when("ioctl", 1, &json!("eq"), request)));
    if whose == Whose::PackageZygote {
        rules.extend(SETNS_ALLOWED.map(|kind| when("setns", 1, &json!("eq"), kind)));
        rules.extend(PRCTL_ZYGOTE.map(|option| when("prctl", 0, &json!("eq"), option)));
    }
    rules
}

/// The names of all calls that are allowed whatever their arguments.
fn names(is_x86_64: bool) -> impl Iterator<Item = &'static str> {
    let old = is_x86_64.then_some(ALLOWED_X86_64);
    ALLOWED
        .into_iter()
        .chain(old)
        .flat_map(str::split_whitespace)
}

/// `syscall` is allowed when its argument `index` stands in relation `op` to `value`.
fn when(syscall: &str, index: u8, op: &Value, value: u64) -> Value {
    let condition = json!({ "index": index, "type": "dword", "op": op, "val": value });
    json!({ "syscall": syscall, "args": [condition] })
}

/// `socket` is allowed for this family and type, whatever the flags.
fn internet(family: u64, kind: u64) -> Value {
    json!({ "syscall": "socket", "args": [
        { "index": 0, "type": "dword", "op": "eq", "val": family },
        { "index": 1, "type": "dword", "op": { "masked_eq": SOCKET_TYPE_BITS }, "val": kind },
    ] })
}

fn bytes(program: &BpfProgram) -> Vec<u8> {
    program
        .iter()
        .flat_map(|one| {
            let [code_0, code_1] = one.code.to_ne_bytes();
            let [k_0, k_1, k_2, k_3] = one.k.to_ne_bytes();
            [code_0, code_1, one.jt, one.jf, k_0, k_1, k_2, k_3]
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALL: [Whose; 3] = [
        Whose::Instance(Sockets::Local),
        Whose::Instance(Sockets::Internet),
        Whose::PackageZygote,
    ];

    /// What `program` says of a call, and after how many steps: what of classic BPF these filters are made of, by
    /// Documentation/networking/filter.rst.
    pub(super) fn run(program: &BpfProgram, number: u32, args: [u64; 6]) -> (u32, usize) {
        const X86_64: u32 = 0xC000_003E;
        let word = |offset: u32| match offset {
            0 => number,
            4 => X86_64,
            16.. => {
                let arg = args[(offset as usize - 16) / 8];
                (if offset.is_multiple_of(8) {
                    arg
                } else {
                    arg >> 32
                }) as u32
            }
            _ => panic!("no such word: {offset}"),
        };
        let (mut at, mut accumulator) = (0, 0);
        for steps in 1.. {
            let one = &program[at];
            at += 1;
            let jump = |is_so: bool| usize::from(if is_so { one.jt } else { one.jf });
            match one.code {
                0x20 => accumulator = word(one.k),
                0x54 => accumulator &= one.k,
                0x05 => at += one.k as usize,
                0x15 => at += jump(accumulator == one.k),
                0x25 => at += jump(accumulator > one.k),
                0x35 => at += jump(accumulator >= one.k),
                0x06 => return (one.k, steps),
                other => panic!("not made of this: {other:#x}"),
            }
        }
        unreachable!()
    }

    #[test]
    fn compiles_for_both_architectures() {
        for arch in [TargetArch::x86_64, TargetArch::aarch64] {
            for whose in ALL {
                let [_, allowed] = compile_for(arch, whose).unwrap();
                // The kernel takes at most 4,096 instructions.
                assert!((100..4_096).contains(&allowed.len()));
            }
        }
        let [clone3, allowed] = programs(Sockets::Local).unwrap();
        assert_eq!(clone3.len() % 8 + allowed.len() % 8, 0);
    }

    /// As one list, as the compiler makes it: slow to install, and plain.
    fn plain(whose: Whose) -> BpfProgram {
        let arch = TargetArch::x86_64;
        let mut policy = policy(arch, whose);
        let mut rules = always(arch, whose);
        rules.extend(conditions(whose));
        policy["allowed"]["filter"] = rules.into();
        let mut compiled = compile_from_json(policy.to_string().as_bytes(), arch).unwrap();
        compiled.remove("allowed").unwrap()
    }

    #[test]
    fn the_search_allows_what_the_list_allows_and_takes_few_steps() {
        let x32 = 0x4000_0000;
        let values = [
            0,
            1,
            2,
            10,
            22,
            38,
            99,
            0x5401,
            0x5413,
            0x1000_0000,
            CLONE_NEW_FLAGS,
            1 << 32 | 1,
            u64::MAX,
        ];
        for whose in ALL {
            let [_, searched] = compile_for(TargetArch::x86_64, whose).unwrap();
            let list = plain(whose);
            let mut allowed = 0;
            for number in (0..1_024).chain(x32..x32 + 1_024).chain([u32::MAX]) {
                for value in values {
                    for args in [[value, value], [value, 1], [2, value]] {
                        let args = [args[0], args[1], 0, 0, 0, 0];
                        let (verdict, steps) = run(&searched, number, args);
                        let as_the_list = run(&list, number, args).0;
                        assert_eq!(verdict, as_the_list, "{whose:?}: call {number} {args:?}");
                        assert!(steps < 80, "{steps} steps for call {number}");
                        allowed += usize::from(verdict == 0x7FFF_0000);
                    }
                }
            }
            assert!(allowed > 200 * values.len(), "{whose:?}: {allowed}");
        }
    }

    #[test]
    fn names_nothing_that_reaches_the_kernel_or_other_processes() {
        let forbidden = "\
            mount umount2 pivot_root chroot unshare setns ptrace bpf kexec_load init_module \
            finit_module delete_module reboot perf_event_open keyctl add_key request_key \
            io_uring_setup userfaultfd process_vm_readv process_vm_writev open_by_handle_at \
            swapon acct quotactl syslog iopl ioperm personality setuid setgid setresuid \
            capset fsopen open_tree move_mount mknodat pidfd_getfd seccomp socket clone";
        for name in forbidden.split_whitespace() {
            assert!(names(true).all(|allowed| allowed != name), "{name}");
        }
    }
}

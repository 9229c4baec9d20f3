//! Attempts at parts of the kernel that a handler has no business with: each has been somebody's way out.

use super::{
    Attempt,
    Wall::{Seccomp, Unprivileged},
    refused,
};

/// Calls that any user may make otherwise, so that nothing but the list of system calls refuses them.
async fn listed(expression: &str, control: &str) {
    refused(expression, &[Seccomp], "EPERM", control).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn loading_a_bpf_program() {
    // BPF_MAP_CREATE of an array; a kernel that lets every user do so is refused by the list alone.
    listed(
        r#"attempt(call, "bpf", 0, struct.pack("=4I", 2, 4, 4, 1) + bytes(112), 128)"#,
        "worked",
    )
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn counting_events_of_the_processor() {
    // A software counter of one's own task, which takes no privilege where perf_event_paranoid is low.
    let open = r#"attempt(call, "perf_event_open", struct.pack("=IIQ", 1, 112, 0) + bytes(96), 0, -1, -1, 0)"#;
    listed(open, "worked").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn keeping_keys_in_the_kernel() {
    listed(
        r#"attempt(call, "add_key", b"user", b"escape", b"x", 1, -2)"#,
        "worked",
    )
    .await;
    listed(r#"attempt(call, "keyctl", 0, -2, 1)"#, "worked").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn having_io_uring_make_the_calls() {
    listed(
        r#"attempt(call, "io_uring_setup", 1, bytes(120))"#,
        "worked",
    )
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn stopping_the_kernel_at_a_page_fault() {
    listed(r#"attempt(call, "userfaultfd", 1)"#, "worked").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn loading_a_module() {
    let control = "ENOEXEC|EFAULT|ENOSYS|EINVAL";
    refused(
        r#"attempt(call, "init_module", 0, 0, 0)"#,
        &[Seccomp],
        "EPERM",
        control,
    )
    .await;
    let control = "EBADF|ENOEXEC|ENOSYS";
    refused(
        r#"attempt(call, "finit_module", -1, b"", 0)"#,
        &[Seccomp],
        "EPERM",
        control,
    )
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn loading_another_kernel() {
    let control = "worked|ENOSYS";
    refused(
        r#"attempt(call, "kexec_load", 0, 0, 0, 0)"#,
        &[Seccomp],
        "EPERM",
        control,
    )
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn restarting_the_machine() {
    // With a wrong magic number, or the control would do it.
    refused(
        r#"attempt(call, "reboot", 0, 0, 0, 0)"#,
        &[Seccomp, Unprivileged],
        "EPERM",
        "EINVAL",
    )
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn reading_the_kernel_log() {
    refused(
        r#"attempt(call, "syslog", 10, 0, 0)"#,
        &[Seccomp],
        "EPERM",
        "worked",
    )
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn changing_the_time() {
    // It only reads the clock's state, which every user may: the call as a whole is not on the list.
    listed(r#"attempt(call, "adjtimex", bytes(208))"#, "worked").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn touching_ports_of_the_hardware() {
    refused(
        r#"attempt(call, "ioperm", 0x80, 1, 1)"#,
        &[Seccomp],
        "EPERM",
        "worked|ENOSYS",
    )
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn changing_the_segment_table() {
    listed(
        r#"attempt(call, "modify_ldt", 0, bytes(16), 16)"#,
        "worked|ENOSYS",
    )
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn switching_off_address_randomisation() {
    listed(r#"attempt(call, "personality", 0x0040000)"#, "worked").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn going_round_the_list_by_32_bit_system_calls() {
    // mov eax, 20 (getpid); int 0x80; ret
    let code = r#"
import mmap
def f(event):
    def old_call():
        page = mmap.mmap(-1, 4096, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)
        page.write(bytes.fromhex("b814000000cd80c3"))
        address = ctypes.addressof(ctypes.c_char.from_buffer(page))
        ctypes.CFUNCTYPE(ctypes.c_int)(address)()
    return in_child(old_call)
"#;
    if cfg!(target_arch = "x86_64") {
        // SIGSYS from the filter; SIGSEGV where the kernel has no such calls to begin with.
        let attempt = Attempt::new(code).await;
        let free = attempt.outside(None, &serde_json::Value::Null);
        assert!(free == "worked" || free == "signal 11", "{free}");
        if free == "worked" {
            let filtered = attempt.outside(Some(Seccomp), &serde_json::Value::Null);
            assert_eq!(filtered, "signal 31");
            assert_eq!(attempt.inside(serde_json::Value::Null).await, "signal 31");
        } else {
            assert_eq!(attempt.inside(serde_json::Value::Null).await, "signal 11");
        }
        attempt.bed.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn going_round_the_list_by_x32_system_calls() {
    // The number of getpid with the bit of the x32 calls; kernels without them answer ENOSYS.
    let code = r#"
def f(event):
    return attempt(lambda: _number(0x40000000 + 39))

def _number(number):
    if _libc.syscall(ctypes.c_long(number)) == -1:
        raise OSError(ctypes.get_errno(), "x32")
"#;
    if cfg!(target_arch = "x86_64") {
        Attempt::new(code)
            .await
            .must_be_refused(&[Seccomp], "EPERM", "worked|ENOSYS")
            .await;
    }
}

//! Attempts to change what the file system looks like, or to leave it.

use super::{
    Wall::{Seccomp, Unprivileged},
    refused,
};

#[tokio::test(flavor = "multi_thread")]
async fn mounting_a_file_system() {
    let mount = r#"attempt(call, "mount", b"tmpfs", b"/tmp", b"tmpfs", 0, 0)"#;
    refused(mount, &[Seccomp, Unprivileged], "EPERM", "worked").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn mounting_a_cgroup_hierarchy_for_its_release_agent() {
    // As in CVE-2022-0492. Where the controller is version 2's already, the kernel itself has none to mount.
    let mount = r#"attempt(call, "mount", b"x", b"/tmp", b"cgroup", 0, b"none,name=escape")"#;
    refused(mount, &[Seccomp, Unprivileged], "EPERM", "worked|ENODEV").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn making_a_read_only_mount_writable() {
    // MS_REMOUNT | MS_BIND
    let remount = r#"attempt(call, "mount", 0, b"/proc", 0, 32 | 4096, 0)"#;
    refused(remount, &[Seccomp, Unprivileged], "EPERM", "worked").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn making_a_read_only_mount_writable_by_the_newer_call() {
    // struct mount_attr: MOUNT_ATTR_RDONLY is to be cleared.
    let set =
        r#"attempt(call, "mount_setattr", -100, b"/proc", 0, struct.pack("=4Q", 0, 1, 0, 0), 32)"#;
    refused(set, &[Seccomp, Unprivileged], "EPERM", "worked").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn taking_a_mount_away_to_see_what_is_under_it() {
    let detach = r#"attempt(call, "umount2", b"/proc", 2)"#;
    refused(detach, &[Seccomp, Unprivileged], "EPERM", "worked").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn making_mounts_that_are_attached_nowhere() {
    let open = r#"attempt(call, "open_tree", -100, b"/", 1)"#;
    refused(open, &[Seccomp, Unprivileged], "EPERM", "worked").await;
    let new = r#"attempt(call, "fsopen", b"tmpfs", 0)"#;
    refused(new, &[Seccomp, Unprivileged], "EPERM", "worked").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn exchanging_the_root() {
    // On a rootfs, as in an initramfs, nobody can.
    let pivot = r#"attempt(call, "pivot_root", b"/", b"/")"#;
    let control = "worked|EBUSY|EINVAL";
    refused(pivot, &[Seccomp, Unprivileged], "EPERM", control).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn climbing_out_of_a_chroot() {
    let chroot = r#"attempt(call, "chroot", b"/tmp")"#;
    refused(chroot, &[Seccomp, Unprivileged], "EPERM", "worked").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn making_the_device_file_of_a_disk() {
    let mknod = r#"attempt(call, "mknodat", -100, b"/tmp/warmpath-%d" % time.time_ns(), 0o60600, os.makedev(7, 0))"#;
    // The control leaves a file on the host otherwise.
    let code = format!(
        "def f(event):\n    if os.getuid() == 0:\n        call('mount', b'tmpfs', b'/tmp', b'tmpfs', 0, 0)\n    return {mknod}\n"
    );
    let attempt = super::Attempt::new(&code).await;
    assert_eq!(attempt.outside(None, &serde_json::Value::Null), "worked");
    assert_eq!(
        attempt.outside(Some(Unprivileged), &serde_json::Value::Null),
        "EPERM"
    );
    assert_eq!(attempt.inside(serde_json::Value::Null).await, "EPERM");
    attempt.bed.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn opening_a_file_of_the_host_by_its_handle() {
    // As "shocker" did with Docker: the handle of inode 2, the root of whatever file system /usr is on. That it is stale on
    // some file systems, or that they have no handles, is what root is told.
    let open = r#"attempt(call, "open_by_handle_at", os.open("/usr", os.O_RDONLY), struct.pack("=IiII", 8, 1, 2, 0), 0)"#;
    let control = "worked|ESTALE|EOPNOTSUPP|EINVAL";
    refused(open, &[Seccomp, Unprivileged], "EPERM", control).await;
}

//! Which cgroup controllers there are, and in which version's hierarchy.

use crate::doctor::facts::Cgroups;

/// From `/proc/self/mountinfo`; `read` reads a file of the kernel's.
pub(super) fn cgroups(mountinfo: &str, read: impl Fn(String) -> Option<String>) -> Cgroups {
    let mut found = Cgroups::default();
    for line in mountinfo.lines() {
        let Some((mount, filesystem)) = line.split_once(" - ") else {
            continue;
        };
        let mut filesystem = filesystem.split_whitespace();
        match filesystem.next() {
            // The options of the file system name its controllers.
            Some("cgroup") => {
                let options = filesystem.nth(1).unwrap_or_default();
                let controllers = options.split(',').filter(|word| is_controller(word));
                found.v1.extend(controllers.map(str::to_owned));
            }
            Some("cgroup2") => {
                found.has_v2 = true;
                let place = mount.split_whitespace().nth(4).unwrap_or_default();
                let list = read(format!("{place}/cgroup.controllers")).unwrap_or_default();
                found.v2.extend(list.split_whitespace().map(str::to_owned));
            }
            _ => {}
        }
    }
    found
}

fn is_controller(option: &str) -> bool {
    !matches!(
        option,
        "rw" | "ro" | "xattr" | "none" | "noprefix" | "clone_children" | "favordynmods"
    ) && !option.contains('=')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hybrid_host_has_both_hierarchies() {
        let mountinfo = "\
31 25 0:26 / /sys/fs/cgroup rw,relatime - tmpfs tmpfs rw,mode=755
32 31 0:27 / /sys/fs/cgroup/cpu rw,relatime - cgroup cgroup rw,cpu
33 31 0:28 / /sys/fs/cgroup/memory rw,relatime - cgroup cgroup rw,memory
34 31 0:29 / /sys/fs/cgroup/systemd rw,relatime - cgroup cgroup rw,xattr,name=systemd
35 31 0:30 / /sys/fs/cgroup/unified rw,relatime - cgroup2 cgroup2 rw
";
        let found = cgroups(mountinfo, |path| {
            (path == "/sys/fs/cgroup/unified/cgroup.controllers").then(|| "pids hugetlb".to_owned())
        });
        assert_eq!(found.v1, ["cpu", "memory"].map(str::to_owned).into());
        assert_eq!(found.v2, ["pids", "hugetlb"].map(str::to_owned).into());
        assert!(found.has_v2);
    }
}

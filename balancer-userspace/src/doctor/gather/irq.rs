//! Which CPUs may take the interrupts of an interface.

use super::{cpu_list, read};
use crate::doctor::facts::Irq;

/// The interrupts of the interface `name`, whose device on its bus is `parent`.
pub(super) fn irqs(name: &str, parent: Option<&str>) -> Vec<Irq> {
    let interrupts = read("/proc/interrupts").unwrap_or_default();
    parse(&interrupts, name, parent)
        .into_iter()
        .map(|(number, name)| Irq {
            number,
            name,
            cpus: read(format!("/proc/irq/{number}/smp_affinity_list"))
                .map(|list| cpu_list(&list))
                .unwrap_or_default(),
        })
        .collect()
}

/// Drivers name their interrupts by the interface (`eth0-rx-1`, `i40e-eth0-TxRx-3`), by the device
/// (`virtio2-input.0`) or by its address (`mlx5_comp1@pci:0000:03:00.0`). Those that carry no packets
/// (`virtio2-config`) are left out, as far as names tell.
fn parse(interrupts: &str, name: &str, parent: Option<&str>) -> Vec<(u32, String)> {
    let is_ours = |action: &str| {
        let words = || action.split(['-', '@', '.']);
        let by_device = parent.is_some_and(|parent| {
            action
                .strip_prefix(parent)
                .is_some_and(|rest| rest.starts_with('-'))
                || action.ends_with(&format!("@pci:{parent}"))
        });
        let carries_none = ["config", "async", "control", "misc", "mgmt"]
            .iter()
            .any(|word| action.contains(word));
        (words().any(|word| word == name) || by_device) && !carries_none
    };
    interrupts
        .lines()
        .filter_map(|line| {
            let (number, rest) = line.split_once(':')?;
            let number = number.trim().parse().ok()?;
            let action = rest.split_whitespace().next_back()?;
            is_ours(action).then(|| (number, action.to_owned()))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const INTERRUPTS: &str = "           CPU0       CPU1
 35:          0          1 PCI-MSIX-0000:00:02.0   0-edge      virtio1-config
 36:          0    1936400 PCI-MSIX-0000:00:02.0   1-edge      virtio1-req.0
 37:          0          0 PCI-MSIX-0000:00:03.0   0-edge      virtio2-config
 38:          0      17335 PCI-MSIX-0000:00:03.0   1-edge      virtio2-input.0
 39:      12090          0 PCI-MSIX-0000:00:03.0   2-edge      virtio2-output.0
 50:          7          0 PCI-MSI 524288-edge      i40e-eth0-TxRx-0
 51:          7          0 PCI-MSI 524289-edge      mlx5_comp1@pci:0000:03:00.0
 52:          7          0 PCI-MSI 524290-edge      mlx5_async0@pci:0000:03:00.0
NMI:          0          0   Non-maskable interrupts
";

    fn numbers(name: &str, parent: Option<&str>) -> Vec<u32> {
        let found = parse(INTERRUPTS, name, parent);
        found.into_iter().map(|(number, _)| number).collect()
    }

    #[test]
    fn interrupts_are_found_by_interface_device_or_address() {
        assert_eq!(numbers("eth1", Some("virtio2")), [38, 39]);
        assert_eq!(numbers("eth0", None), [50]);
        assert_eq!(numbers("ens3", Some("0000:03:00.0")), [51]);
        assert_eq!(numbers("lo", None), Vec::<u32>::new());
        // virtio20 is not virtio2.
        assert_eq!(numbers("eth1", Some("virtio")), Vec::<u32>::new());
    }
}

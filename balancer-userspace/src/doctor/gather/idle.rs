//! How idle processors wait.

use crate::doctor::facts::Idle;

const CPUIDLE: &str = "/sys/devices/system/cpu";

/// `read` reads a file of the kernel's, trimmed.
pub(super) fn idle(read: impl Fn(String) -> Option<String>) -> Idle {
    let driver = read(format!("{CPUIDLE}/cpuidle/current_driver")).filter(|name| name != "none");
    Idle {
        halt_poll_ns: driver
            .as_deref()
            .filter(|name| *name == "haltpoll")
            .and_then(|_| read("/sys/module/haltpoll/parameters/guest_halt_poll_ns".to_owned()))
            .and_then(|text| text.parse().ok()),
        driver,
        exit_us: deepest(&read),
    }
}

/// The exit latency of the deepest state that the first processor may enter; all processors of a machine have the same.
fn deepest(read: impl Fn(String) -> Option<String>) -> Option<u32> {
    let states = (0..).map_while(|state| {
        let of = |what: &str| read(format!("{CPUIDLE}/cpu0/cpuidle/state{state}/{what}"));
        let exit_us: u32 = of("latency")?.parse().ok()?;
        Some((exit_us, of("disable").is_some_and(|it| it != "0")))
    });
    states
        .filter_map(|(exit_us, is_disabled)| (!is_disabled).then_some(exit_us))
        .max()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    fn found(files: &[(&str, &str)]) -> Idle {
        let files: BTreeMap<String, &str> = files
            .iter()
            .map(|(path, text)| {
                let whole = if path.starts_with('/') {
                    (*path).to_owned()
                } else {
                    format!("{CPUIDLE}/{path}")
                };
                (whole, *text)
            })
            .collect();
        idle(|path| files.get(&path).map(|text| (*text).to_owned()))
    }

    #[test]
    fn a_virtual_machine_that_halts_at_once() {
        let idle = found(&[
            ("cpuidle/current_driver", "haltpoll"),
            ("/sys/module/haltpoll/parameters/guest_halt_poll_ns", "0"),
            ("cpu0/cpuidle/state0/latency", "0"),
            ("cpu0/cpuidle/state0/disable", "0"),
            ("cpu0/cpuidle/state1/latency", "1"),
            ("cpu0/cpuidle/state1/disable", "0"),
        ]);
        assert_eq!(idle.driver.as_deref(), Some("haltpoll"));
        assert_eq!((idle.halt_poll_ns, idle.exit_us), (Some(0), Some(1)));
    }

    #[test]
    fn a_state_that_is_switched_off_is_not_the_deepest() {
        let idle = found(&[
            ("cpuidle/current_driver", "intel_idle"),
            ("cpu0/cpuidle/state0/latency", "0"),
            ("cpu0/cpuidle/state1/latency", "2"),
            ("cpu0/cpuidle/state2/latency", "133"),
            ("cpu0/cpuidle/state2/disable", "1"),
        ]);
        assert_eq!((idle.halt_poll_ns, idle.exit_us), (None, Some(2)));
    }

    #[test]
    fn a_kernel_without_idle_states_tells_nothing() {
        let none = found(&[("cpuidle/current_driver", "none")]);
        assert_eq!(
            (none.driver, none.halt_poll_ns, none.exit_us),
            (None, None, None)
        );
    }
}

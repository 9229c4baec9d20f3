//! The keys of route cookies, and of LOAD packets beside them.

use ebpf_common::cookie::CookieScope;

use super::*;

#[test]
fn cookie_keys_are_made_once_and_kept_over_a_restart() {
    let bench = Bench::new();
    let keys = bench.tables().config.cookie_keys;
    assert_ne!(keys, [[0; 2]; 2]);
    assert_eq!(bench.restart().tables().config.cookie_keys, keys);
}

#[test]
fn what_names_workers_by_ids_of_a_lost_state_file_is_not_valid_any_more() {
    let mut bench = Bench::new();
    bench.join("w0", "0-99").1.unwrap();
    bench.controller.save();
    bench.controller.state_file.finish();
    let before = bench.tables().clone();
    std::fs::remove_file(bench.controller.config.state_file()).unwrap();
    let bench = Bench::start(bench.dir, before.clone(), |_| false);
    let (before, after) = (before.config, bench.tables().config);
    assert_ne!(after.table_secret, before.table_secret);
    for parity in 0..2 {
        assert_ne!(after.cookie_keys[parity], before.cookie_keys[parity]);
        assert_ne!(after.load_keys[parity], before.load_keys[parity]);
        for made in [
            after.table_secret,
            after.cookie_keys[parity],
            after.load_keys[parity],
        ] {
            assert_ne!(made, [0; 2]);
        }
    }
    assert_eq!(after.token_keys, before.token_keys, "they name no worker");
    assert_eq!(after.key_epoch, before.key_epoch);
    let told = bench.controller.shared.borrow().cookie_keys;
    assert_eq!(told, after.cookie_keys);

    let kept = bench.restart();
    assert_eq!(kept.tables().config, after, "the file is there again");
}

#[test]
fn no_cookie_breaks_over_a_rotation_of_the_keys() {
    let mut bench = Bench::new();
    let (_, welcome) = bench.join("w0", "0-99");
    let shared = welcome.unwrap().shared;
    let scope = CookieScope {
        function: FunctionId(9),
        session: 4,
    };
    for _ in 0..300 {
        // The worker seals with what it was told; the program opens with what it holds.
        let (epoch, keys) = {
            let shared = shared.borrow();
            (shared.key_epoch, shared.cookie_keys)
        };
        let told = ebpf_common::maps::Config {
            key_epoch: epoch.into(),
            cookie_keys: keys,
            ..ebpf_common::maps::Config::ZERO
        };
        let before = told.cookie_keys().seal(WorkerId(0), scope);
        bench.controller.rotate_keys();
        let held = bench.tables().config;
        assert_eq!(u32::from(epoch.wrapping_add(1)), held.key_epoch);
        assert_eq!(held.cookie_keys().open(before, scope), Ok(WorkerId(0)));
        let key_of = |keys: [[u64; 2]; 2]| keys[usize::from(epoch & 1)];
        assert_eq!(
            key_of(held.load_keys),
            key_of(shared.borrow().load.unwrap().keys)
        );
        assert_ne!(held.cookie_keys[0], held.cookie_keys[1]);
    }
}

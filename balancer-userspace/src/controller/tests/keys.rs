//! The keys of route cookies, and of LOAD packets beside them.

use ebpf_common::{cookie::CookieScope, load::LoadKeys};

use super::*;
use crate::{key_secret::KeySecret, reconcile::tables::Keys};

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
        let told = shared.borrow().load.unwrap().keys;
        let of_before = |keys: LoadKeys| keys.of(WorkerId(0), epoch);
        assert_eq!(of_before(held.load_keys()), of_before(told));
        assert_ne!(held.cookie_keys[0], held.cookie_keys[1]);
    }
}

fn secret() -> KeySecret {
    KeySecret::parse("a secret that both balancers have").unwrap()
}

impl Bench {
    fn sharing() -> Self {
        let dir = tempfile::tempdir().unwrap();
        Self::start_with(dir, ActualTables::fresh(), |_| false, Some(secret()))
    }

    fn join_as(&mut self, name: &str, own_id: Option<u16>) -> Result<Welcome, String> {
        let own_id = own_id.map(WorkerId);
        let identity = Identity {
            own_id,
            ..identity(name)
        };
        self.join_with(identity).1
    }
}

#[test]
fn a_cookie_that_one_balancer_made_valid_is_valid_at_all_of_the_same_secret() {
    let (mut one, mut other) = (Bench::sharing(), Bench::sharing());
    let shared = one.join_as("w0", Some(7)).unwrap().shared;
    let id = other.join_as("w0", Some(7)).unwrap().worker_id;
    let told = ebpf_common::maps::Config {
        key_epoch: shared.borrow().key_epoch.into(),
        cookie_keys: shared.borrow().cookie_keys,
        ..ebpf_common::maps::Config::ZERO
    };
    let scope = CookieScope {
        function: FunctionId(9),
        session: 4,
    };
    let cookie = told.cookie_keys().seal(WorkerId(7), scope);
    let held = other.tables().config;
    assert_eq!(held.cookie_keys().open(cookie, scope), Ok(WorkerId(id)));
    let stranger = Bench::new().tables().config;
    assert!(stranger.cookie_keys().open(cookie, scope).is_err());
    assert_ne!(
        held.table_secret,
        one.tables().config.table_secret,
        "what stands in one's tables is nobody else's"
    );
}

#[test]
fn shared_keys_follow_the_clock_and_nobody_else() {
    let mut bench = Bench::sharing();
    let held = Keys::of(&bench.tables().config);
    assert!(bench.controller.keys_at.is_some());
    assert!(matches!(
        bench.controller.rotate_keys_now(),
        Err(CommandError::KeysShared)
    ));
    // As when the timer is early: the epoch is the same.
    let writes = bench.controller.metrics.writes();
    bench.controller.rotate_keys();
    assert_eq!(bench.controller.metrics.writes(), writes);
    assert_eq!(Keys::of(&bench.tables().config), held);
    assert_eq!(Keys::of(&bench.restart().tables().config), held);
}

#[test]
fn random_keys_give_way_to_those_of_a_secret_at_the_next_start() {
    let mut bench = Bench::new();
    bench.controller.save();
    bench.controller.state_file.finish();
    let (dir, tables) = (bench.dir, bench.controller.applier.actual().clone());
    let bench = Bench::start_with(dir, tables.clone(), |_| false, Some(secret()));
    let (before, after) = (tables.config, bench.tables().config);
    assert_ne!(after.cookie_keys, before.cookie_keys);
    assert_eq!(after.table_secret, before.table_secret);
    assert_eq!(Some(Keys::of(&after)), bench.controller.shared_keys());
}

#[test]
fn with_shared_keys_a_worker_without_an_id_of_its_own_is_refused() {
    let mut bench = Bench::sharing();
    let refused = bench.join_as("w0", None).unwrap_err();
    assert!(refused.contains("set `id` in worker.toml"), "{refused}");
    assert!(bench.join_as("w0", Some(7)).is_ok());
    let refused = bench.join_as("w1", Some(7)).unwrap_err();
    assert!(refused.contains("`id` 7 is that of `w0`"), "{refused}");
}

#[test]
fn a_worker_that_comes_back_with_another_id_leaves_nothing_behind() {
    let mut bench = Bench::new();
    let (connection, welcome) = bench.join("w0", "0-99");
    let welcome = welcome.unwrap();
    bench.beat(connection, 3, &[FunctionId::of(FUNCTION)]);
    assert_eq!(bench.warm(), [0]);
    assert_eq!(bench.join_as("w0", Some(7)).unwrap().worker_id, 7);
    assert!(welcome.superseded.is_cancelled());
    assert_eq!(bench.row(0), WorkerInfo::ABSENT);
    assert_eq!(bench.row(7).state(), WorkerState::Up);
    assert!(bench.warm().is_empty(), "what is warm there it has to say");
    assert!(!bench.home_has(0) && bench.home_has(7));
    // The old connection's last words mean nobody.
    bench.beat(connection, 5, &[FunctionId::of(FUNCTION)]);
    bench.close(connection);
    assert_eq!(bench.row(7).state(), WorkerState::Up);
    assert!(bench.warm().is_empty());
    let mut next = bench.restart();
    assert_eq!(next.join_as("w0", Some(7)).unwrap().worker_id, 7);
}

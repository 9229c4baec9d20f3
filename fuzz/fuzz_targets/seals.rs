//! Route cookies and address tokens: what opens, whatever it was made from, is what sealing would give.
//!
//! (Not "nothing that was changed": libFuzzer sees what the program compares, and so learns the seal of anything.)
#![no_main]

use ebpf_common::{
    cookie::{CookieKeys, CookieScope},
    ids::{FunctionId, WorkerId},
    maps::Config,
    token::{SourceAddress, TokenKeys},
};
use libfuzzer_sys::fuzz_target;
use xdp_balancer::testing::FakeTables;

thread_local! {
    static CONFIG: Config = FakeTables::default().config.expect("configured");
}

fuzz_target!(|data: &[u8]| {
    let Some((head, rest)) = data.split_first_chunk::<32>() else {
        return;
    };
    let [mask, function, session, other] = [0, 8, 16, 24].map(|at| {
        let mut word = [0; 8];
        word.copy_from_slice(&head[at..at + 8]);
        u64::from_be_bytes(word)
    });
    let config = CONFIG.with(|config| *config);
    let keys = config.cookie_keys();
    let before = CookieKeys {
        epoch: keys.epoch.wrapping_sub(1),
        ..keys
    };
    let scope = CookieScope {
        function: FunctionId(function),
        session,
    };
    let worker = WorkerId(other as u16 & 0xfff);
    let cookie = keys.seal(worker, scope);
    assert_eq!(keys.open(cookie, scope), Ok(worker));
    for claimed in [cookie ^ mask, other] {
        if let Ok(worker) = keys.open(claimed, scope) {
            assert!([keys.seal(worker, scope), before.seal(worker, scope)].contains(&claimed));
        }
    }

    let (source, stranger) = match rest.first_chunk::<16>() {
        Some(address) => (
            SourceAddress::v6(*address),
            SourceAddress::v4([10, 0, 0, 1]),
        ),
        None => {
            let source = (session as u32).to_be_bytes();
            (SourceAddress::v4(source), SourceAddress::v6([7; 16]))
        }
    };
    let keys = config.token_keys();
    let before = TokenKeys {
        epoch: keys.epoch.wrapping_sub(1),
        ..keys
    };
    let token = keys.seal(source);
    assert!(keys.check(token, source).is_ok());
    for (claimed, source) in [(token ^ mask, source), (other, source), (token, stranger)] {
        if keys.check(claimed, source).is_ok() {
            assert!([keys.seal(source), before.seal(source)].contains(&claimed));
        }
    }
});

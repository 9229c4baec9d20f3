//! A whole frame through all stages: any bytes, or a good frame of any shape with faults in it, or cut.
#![no_main]

use libfuzzer_sys::fuzz_target;
use warmpath_fuzz::{balanced, damaged, good_frames, tables};
use xdp_balancer::testing::FakeTables;

thread_local! {
    static WORLD: (FakeTables, Vec<Vec<u8>>) = {
        let tables = tables();
        let frames = good_frames(&tables);
        (tables, frames)
    };
}

fuzz_target!(|data: &[u8]| {
    WORLD.with(|(tables, frames)| {
        let [high, low, cut, rest @ ..] = data else {
            return;
        };
        let frame = if high & 0x80 == 0 {
            rest.to_vec()
        } else {
            let index = usize::from(u16::from_be_bytes([*high, *low])) % frames.len();
            let mut frame = frames[index].clone();
            damaged(&mut frame, rest);
            // Most are not cut.
            if *cut < 128 {
                frame.truncate(frame.len() * usize::from(*cut) / 128);
            }
            frame
        };
        let _any = balanced(tables, frame);
    });
});

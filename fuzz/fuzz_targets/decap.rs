//! Frames that reach a worker: any bytes, or what a balancer makes of good frames with faults in it, or cut.
#![no_main]

use libfuzzer_sys::fuzz_target;
use warmpath_fuzz::{damaged, decapsulated, encapsulated_frames, tables};
use xdp_balancer::testing::FakeTables;

thread_local! {
    static WORLD: (FakeTables, Vec<Vec<u8>>) = {
        let mut tables = tables();
        let frames = encapsulated_frames(&mut tables);
        (tables, frames)
    };
}

fuzz_target!(|data: &[u8]| {
    WORLD.with(|(tables, frames)| {
        let [high, low, cut, rest @ ..] = data else {
            return;
        };
        if high & 0x80 == 0 {
            decapsulated(tables, rest.to_vec());
            return;
        }
        let index = usize::from(u16::from_be_bytes([*high, *low])) % frames.len();
        let mut frame = frames[index].clone();
        let is_damaged = damaged(&mut frame, rest);
        // Most are not cut.
        let is_cut = *cut < 128;
        if is_cut {
            frame.truncate(frame.len() * usize::from(*cut) / 128);
        }
        let came_off = decapsulated(tables, frame);
        assert!(came_off || is_damaged || is_cut, "what a balancer sends");
    });
});

//! Writes that the kernel refuses.

use super::*;

#[test]
fn a_write_that_the_kernel_refuses_is_tried_again_and_flips_nothing() {
    let refuse: fn(&MapWrite) -> bool = |write| matches!(write, MapWrite::Home(..));
    let dir = tempfile::tempdir().unwrap();
    let mut bench = Bench::start(dir, ActualTables::fresh(), refuse);
    assert_eq!(bench.tables().config.generation, 0);
    assert!(bench.controller.applier.retry_at().is_some());
    assert!(bench.controller.metrics.write_errors.get() > 0);

    bench.controller.applier.store_mut().refuse = |_| false;
    bench.controller.applier.retries();
    bench.controller.dirty.rest = true;
    bench.settle();
    assert_eq!(bench.tables().config.generation, 1);
    assert!(bench.controller.applier.retry_at().is_none());
}

#[test]
fn a_function_that_does_not_fit_keeps_nothing_else_back() {
    let refuse: fn(&MapWrite) -> bool = |write| matches!(write, MapWrite::Function(..));
    let dir = tempfile::tempdir().unwrap();
    let bench = Bench::start(dir, ActualTables::fresh(), refuse);
    assert_eq!(bench.tables().functions.len(), 0);
    assert_eq!(bench.tables().vips.len(), 3, "port, mark and LOAD address");
}

//! The balancer as a target of the kernel's pktgen: loads the object, attaches it to an interface in its driver, with a
//! VIP of kind `pktgen` for IPv4 and one for IPv6, waits until a number of packets has come, and prints what
//! was counted. `cargo xtask pktgen check` runs it in a virtual machine.
//!
//! Usage: `pktgen-target <interface> <its peer> <packets>`. The peer gets a program that passes everything: a veth
//! takes what the other end sends back only if it has one.

use std::{
    env,
    io::Write as _,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use aya::{
    Ebpf, EbpfLoader,
    programs::{Xdp, xdp::XdpMode},
};
use ebpf_common::{
    ids::{FunctionId, SlotId, WorkerId},
    limits::SLOTS,
    maps::{Affinity, Class, Counter, FunctionEntry, PktgenInfo, VipInfo, VipKind, WorkerState},
    verify,
};
use prog_tests::{object, program::Program};
use xdp_balancer::testing::{
    FakeTables,
    frame::{VIP, VIP_PORT},
};

/// Functions of the mix: one with sessions, one with slots, one that is warm, one that is not.
const FUNCTIONS: [FunctionId; 4] = [FunctionId(1), FunctionId(2), FunctionId(3), FunctionId(4)];
const SESSIONS: u32 = 64;
const WORKERS: [u16; 2] = [1, 2];
/// fd00::63:1
const VIP6: [u8; 16] = [0xfd, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0x63, 0, 1];
const UDP: u8 = 17;
const TIMEOUT: Duration = Duration::from_secs(120);

fn main() -> Result<()> {
    let args: Vec<String> = env::args().skip(1).collect();
    let [interface, peer, packets] = args.as_slice() else {
        anyhow::bail!("usage: pktgen-target <interface> <its peer> <packets>");
    };
    let packets: u64 = packets.parse().context("packets is a number")?;

    let mut pass = EbpfLoader::new()
        .load(object())
        .context("loading the object for its pass program")?;
    let passing = pass_program(&mut pass)?;
    verify::load(passing)?;
    passing.attach(peer, XdpMode::Driver)?;

    let mut program = Program::load(object(), &[])?;
    program.apply(&tables())?;
    program.xdp_mut()?.attach(interface, XdpMode::Driver)?;
    say("ready")?;

    let deadline = Instant::now() + TIMEOUT;
    while routed(&program)? < packets && Instant::now() < deadline {
        thread::sleep(Duration::from_millis(50));
    }
    // Whatever comes late, and would be too many, is to be seen too.
    thread::sleep(Duration::from_millis(200));
    for (counter, count) in program.counters()? {
        say(&format!("counter {counter:?} {count}"))?;
    }
    let came = routed(&program)?;
    ensure!(came == packets, "{came} of {packets} packets were routed");
    Ok(())
}

fn pass_program(ebpf: &mut Ebpf) -> Result<&mut Xdp> {
    let program = ebpf.program_mut("pass");
    Ok(program
        .context("the object has no program `pass`")?
        .try_into()?)
}

/// Packets that a rule found a worker for.
fn routed(program: &Program) -> Result<u64> {
    let counters = program.counters()?;
    let of_rules = |(counter, _): &(&Counter, &u64)| counter.class() == Class::Route;
    Ok(counters
        .iter()
        .filter(of_rules)
        .map(|(_, count)| count)
        .sum())
}

/// Two workers without limits; each function of the mix is found by another rule.
fn tables() -> FakeTables {
    let mut tables = FakeTables::default();
    let vip = VipInfo::new(0, VipKind::Pktgen);
    tables.add_vip_of(VIP, VIP_PORT, UDP, vip);
    tables.add_vip6_of(VIP6, VIP_PORT, UDP, vip);
    for worker in WORKERS {
        tables.add_worker(worker, WorkerState::Up);
        // It sends no LOAD packets: what it was sent is never reported done.
        tables.set_load(worker, 0, u32::MAX);
    }
    for slot in 0..SLOTS as u16 {
        tables.set_slot(SlotId(slot), WorkerId(WORKERS[usize::from(slot) & 1]));
    }
    let warm = WORKERS.map(WorkerId);
    let [session, shard, is_warm, is_cold] = FUNCTIONS;
    for (function, affinity, warm) in [
        (session, Affinity::Session, &warm[..]),
        (shard, Affinity::Shard, &[]),
        (is_warm, Affinity::None, &warm[..]),
        (is_cold, Affinity::None, &[]),
    ] {
        let entry = FunctionEntry::new(affinity, warm);
        tables.functions.insert(function, entry);
        tables.set_home(function, &warm_or_first(warm));
    }
    tables.pktgen = vec![PktgenInfo::new(&FUNCTIONS, SESSIONS)];
    tables
}

fn warm_or_first(warm: &[WorkerId]) -> Vec<WorkerId> {
    if warm.is_empty() {
        vec![WorkerId(WORKERS[0])]
    } else {
        warm.to_vec()
    }
}

fn say(line: &str) -> Result<()> {
    writeln!(std::io::stdout(), "{line}").context("printing")
}

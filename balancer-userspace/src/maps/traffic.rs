//! Reading what went where: packets and bytes by VIP, worker and function, summed over the CPUs.

use std::{collections::BTreeMap, fmt, path::Path};

use aya::maps::{MapData, PerCpuArray};
use ebpf_common::{
    ids::{FunctionId, WorkerId},
    limits::MAX_VIPS,
    maps::{TopFunction, Traffic, Vip6Row, VipKind, VipRow, name},
};

use super::{ReadError, open, read};
use crate::{
    api::types::{TrafficReport, TrafficRow},
    reconcile::tables::AnyVipKey,
};

/// `VIP_COUNTERS`, `WORKER_COUNTERS` and `FUNCTION_COUNTERS`, open.
pub struct TrafficMaps {
    vips: PerCpuArray<MapData, Traffic>,
    workers: PerCpuArray<MapData, Traffic>,
    functions: PerCpuArray<MapData, TopFunction>,
}

// aya's maps have no Debug of their own.
impl fmt::Debug for TrafficMaps {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TrafficMaps").finish_non_exhaustive()
    }
}

impl TrafficMaps {
    /// Opens those pinned at `pin_path`.
    ///
    /// # Errors
    /// [`ReadError::Open`].
    pub fn open(pin_path: &Path) -> Result<Self, ReadError> {
        Ok(Self {
            vips: open::per_cpu(pin_path, name::VIP_COUNTERS)?,
            workers: open::per_cpu(pin_path, name::WORKER_COUNTERS)?,
            functions: open::per_cpu(pin_path, name::FUNCTION_COUNTERS)?,
        })
    }

    /// What was sent to the VIP of this number.
    ///
    /// # Errors
    /// [`ReadError::Read`].
    pub fn vip(&self, vip_id: u32) -> Result<Traffic, ReadError> {
        let cpus = self.vips.get(&vip_id, 0);
        Ok(sum(&cpus.map_err(read::read_error(name::VIP_COUNTERS))?))
    }

    /// What was sent to `worker`.
    ///
    /// # Errors
    /// [`ReadError::Read`].
    pub fn worker(&self, worker: WorkerId) -> Result<Traffic, ReadError> {
        let cpus = self.workers.get(&worker.0.into(), 0);
        Ok(sum(&cpus.map_err(read::read_error(name::WORKER_COUNTERS))?))
    }

    /// The functions called most, and how often at least.
    ///
    /// # Errors
    /// [`ReadError::Read`].
    pub fn functions(&self) -> Result<BTreeMap<FunctionId, u64>, ReadError> {
        let rows = self
            .functions
            .iter()
            .map(|row| row.map(|cpus| cpus.to_vec()));
        let rows: Vec<Vec<TopFunction>> = rows
            .collect::<Result<_, _>>()
            .map_err(read::read_error(name::FUNCTION_COUNTERS))?;
        Ok(calls(rows.iter().flatten()))
    }

    /// Everything that is counted for the VIPs and workers in `names`, and for `functions`.
    ///
    /// # Errors
    /// [`ReadError::Read`].
    pub fn report(
        &self,
        functions: &BTreeMap<FunctionId, u64>,
        names: &TrafficNames,
    ) -> Result<TrafficReport, ReadError> {
        let row = |name: &String, traffic: Traffic| TrafficRow {
            name: name.clone(),
            packets: traffic.packets,
            bytes: Some(traffic.bytes),
        };
        let vips = names.vips.iter();
        let vips = vips.map(|(id, name)| Ok(row(name, self.vip(*id)?)));
        let workers = names.workers.iter();
        let workers = workers.map(|(id, name)| Ok(row(name, self.worker(*id)?)));
        let name = |id: &FunctionId| names.functions.get(id).cloned();
        let functions = functions.iter().map(|(id, packets)| TrafficRow {
            name: name(id).unwrap_or_else(|| id.to_string()),
            packets: *packets,
            bytes: None,
        });
        Ok(TrafficReport {
            vips: vips.collect::<Result<_, ReadError>>()?,
            workers: workers.collect::<Result<_, ReadError>>()?,
            functions: functions.collect(),
        })
    }
}

/// What ids are called, for [`TrafficMaps::report`].
#[derive(Debug, Clone, Default)]
pub struct TrafficNames {
    /// VIPs by number.
    pub vips: BTreeMap<u32, String>,
    /// Workers by id.
    pub workers: BTreeMap<WorkerId, String>,
    /// Functions by id; those that are missing are called by it.
    pub functions: BTreeMap<FunctionId, String>,
}

/// What the data plane at `pin_path` counts, by ids where only the control plane knows the names.
///
/// # Errors
/// [`ReadError`].
pub fn traffic(pin_path: &Path) -> Result<TrafficReport, ReadError> {
    let maps = TrafficMaps::open(pin_path)?;
    let functions = maps.functions()?;
    let workers = open::max_entries(pin_path, name::WORKER_COUNTERS)?;
    let mut names = TrafficNames {
        vips: vip_names(pin_path)?,
        ..TrafficNames::default()
    };
    for id in (0..workers)
        .filter_map(|id| u16::try_from(id).ok())
        .map(WorkerId)
    {
        if maps.worker(id)?.packets > 0 {
            names.workers.insert(id, id.0.to_string());
        }
    }
    maps.report(&functions, &names)
}

fn vip_names(pin_path: &Path) -> Result<BTreeMap<u32, String>, ReadError> {
    let v4 = read::array::<VipRow>(pin_path, name::VIPS)?;
    let v4 = v4.iter().map(|row| (AnyVipKey::V4(row.key), row.info));
    let v6 = read::array::<Vip6Row>(pin_path, name::VIPS6)?;
    let v6 = v6.iter().map(|row| (AnyVipKey::V6(row.key), row.info));
    let rows = v4.chain(v6).filter(|(_, info)| {
        let kind = info.kind();
        kind.is_some() && kind != Some(VipKind::Address) && info.vip_id < MAX_VIPS
    });
    Ok(rows.map(|(key, info)| (info.vip_id, key.label())).collect())
}

fn sum(cpus: &[Traffic]) -> Traffic {
    Traffic {
        packets: cpus.iter().map(|cpu| cpu.packets).sum(),
        bytes: cpus.iter().map(|cpu| cpu.bytes).sum(),
    }
}

/// Each CPU votes for itself who holds a row, so a function may hold it on some of them only.
fn calls<'r>(rows: impl Iterator<Item = &'r TopFunction>) -> BTreeMap<FunctionId, u64> {
    let mut calls = BTreeMap::new();
    for row in rows.filter(|row| row.function != 0) {
        *calls.entry(FunctionId(row.function)).or_default() += row.packets;
    }
    calls
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_function_has_the_calls_of_the_cpus_that_it_holds_its_row_on() {
        let row = |function, packets| TopFunction {
            function,
            packets,
            votes: 1,
        };
        let rows = [row(7, 10), row(8, 3), row(0, 0), row(7, 5)];
        let expected = BTreeMap::from([(FunctionId(7), 15), (FunctionId(8), 3)]);
        assert_eq!(calls(rows.iter()), expected);
    }

    #[test]
    fn traffic_is_the_sum_over_the_cpus() {
        let cpu = |packets, bytes| Traffic { packets, bytes };
        assert_eq!(sum(&[cpu(1, 100), cpu(0, 0), cpu(2, 300)]), cpu(3, 400));
        assert_eq!(sum(&[]), cpu(0, 0));
    }
}

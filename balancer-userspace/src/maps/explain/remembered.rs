//! The rows of `SESSIONS` and `FLOWS` that a packet may change, so that asking leaves them as they were.

use std::path::Path;

use aya::maps::{Array, MapData};
use ebpf_common::{
    hash::table_hash,
    maps::{Config, PktgenInfo, PlaceRow, VipInfo, VipKind, flow_hash, name, row_index},
};

use super::{ExplainError, frame::Question, map_error, open};

/// A row, and what it held.
pub(super) struct Remembered {
    map: Array<MapData, PlaceRow>,
    name: &'static str,
    index: u32,
    before: Option<PlaceRow>,
}

impl Remembered {
    fn new(pin_path: &Path, name: &'static str, index: u32) -> Result<Self, ExplainError> {
        Ok(Self {
            map: open::array(pin_path, name)?,
            name,
            index,
            before: None,
        })
    }

    /// Remembers what it holds now.
    pub(super) fn take(&mut self) -> Result<(), ExplainError> {
        self.before = Some(self.row()?);
        Ok(())
    }

    /// Puts back what it held. With what was changed goes what live traffic wrote to this row of eight in the meantime, which
    /// its next packet repairs.
    pub(super) fn put_back(&mut self) -> Result<(), ExplainError> {
        if let Some(before) = self.before.take()
            && self.row()? != before
        {
            let restored = self.map.set(self.index, before, 0);
            restored.map_err(map_error(self.name))?;
        }
        Ok(())
    }

    fn row(&self) -> Result<PlaceRow, ExplainError> {
        self.map.get(&self.index, 0).map_err(map_error(self.name))
    }
}

/// Those that the packet of `question`, for `vip`, may change.
pub(super) fn of(
    pin_path: &Path,
    question: &Question,
    vip: Option<&VipInfo>,
    config: &Config,
) -> Result<Vec<Remembered>, ExplainError> {
    let Some(vip) = vip else {
        return Ok(Vec::new());
    };
    let session = match vip.kind() {
        Some(VipKind::L4 | VipKind::Quic) => {
            let (words, ports) = question.flow();
            let hash = flow_hash(config.table_secret(), vip.vip_id, words, ports);
            let index = row_index(hash, config.flow_mask);
            return Ok(vec![Remembered::new(pin_path, name::FLOWS, index)?]);
        }
        Some(VipKind::Pktgen) => pktgen_session(pin_path, question, vip)?,
        _ => question.session,
    };
    let remembered = session.map(|(session, function)| {
        let hash = table_hash(config.table_secret(), session, function);
        let index = row_index(hash, config.session_mask);
        Remembered::new(pin_path, name::SESSIONS, index)
    });
    remembered.into_iter().collect()
}

/// Session and function that packet number `question.sequence` stands for.
fn pktgen_session(
    pin_path: &Path,
    question: &Question,
    vip: &VipInfo,
) -> Result<Option<(u64, u64)>, ExplainError> {
    let rows = open::array::<PktgenInfo>(pin_path, name::PKTGEN)?;
    let info = rows
        .get(&vip.pktgen.into(), 0)
        .map_err(map_error(name::PKTGEN))?;
    if info.sessions == 0 || info.functions_len == 0 {
        return Ok(None);
    }
    let place = question.sequence % info.functions_len;
    let session = question.sequence % info.sessions;
    let function = info.functions.get(place as usize).copied();
    Ok(function.map(|function| (session.into(), function)))
}

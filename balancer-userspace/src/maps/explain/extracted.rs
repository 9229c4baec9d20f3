//! Session or slot out of the payload, by the extractor that the program runs and the rows that it reads.

use std::path::Path;

use ebpf_common::{
    ids::FunctionId,
    maps::{FunctionRow, name},
    schema::{Key, SchemaEntry},
    wire::{RpcHeader, flags},
};

use super::{ExplainError, frame::Question, map_error, open, placed};
use crate::{
    api::types::ExplainedKey,
    maps::read::{schema_shown, schema_target},
};

/// What the schema of a function made of a payload.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Extracted {
    function: FunctionId,
    schema: SchemaEntry,
    key: Option<Key>,
}

impl Extracted {
    /// None if the program would not ask the schema: what the header says goes before.
    fn new(header: &RpcHeader, payload: &[u8], schema: SchemaEntry) -> Option<Self> {
        let is_wanted = !header.has(flags::HAS_SESSION) && !header.has(flags::HAS_SLOT);
        (is_wanted && !payload.is_empty()).then(|| Self {
            function: header.function,
            key: schema.find(payload),
            schema,
        })
    }

    /// Session and function, if a session was found.
    pub(super) fn session(&self) -> Option<(u64, u64)> {
        match self.key {
            Some(Key::Session(session)) => Some((session, self.function.0)),
            Some(Key::Slot(_)) | None => None,
        }
    }

    pub(super) fn shown(&self) -> ExplainedKey {
        let session = self.session().map(|(session, _)| format!("{session:016x}"));
        let slot = match self.key {
            Some(Key::Slot(slot)) => Some(slot.0),
            Some(Key::Session(_)) | None => None,
        };
        ExplainedKey {
            schema: schema_shown(&self.schema),
            target: schema_target(&self.schema).to_owned(),
            session,
            slot,
        }
    }
}

/// What the schema that the maps hold for the function called makes of the payload.
pub(super) fn of(pin_path: &Path, question: &Question) -> Result<Option<Extracted>, ExplainError> {
    let Some((header, payload)) = question.request.as_ref().filter(|_| question.is_rpc) else {
        return Ok(None);
    };
    let function = placed::look_up::<FunctionRow>(pin_path, name::FUNCTIONS, &header.function)?;
    // The row's number plus one.
    let Some(row) = function.and_then(|function| function.schema.checked_sub(1)) else {
        return Ok(None);
    };
    let schemas = open::array::<SchemaEntry>(pin_path, name::SCHEMAS)?;
    let schema = schemas
        .get(&row.into(), 0)
        .map_err(map_error(name::SCHEMAS))?;
    Ok(Extracted::new(header, payload, schema))
}

#[cfg(test)]
mod tests {
    use ebpf_common::{hash::slot_of_key, schema::SchemaTarget};

    use super::*;

    fn header() -> RpcHeader {
        RpcHeader::request(FunctionId(9), 1)
    }

    fn user(target: SchemaTarget) -> SchemaEntry {
        SchemaEntry::json(target, "user").unwrap()
    }

    #[test]
    fn what_was_found_is_shown_as_what_it_is_for() {
        let payload = br#"{"user": "ada"}"#;
        let slot = Extracted::new(&header(), payload, user(SchemaTarget::Slot)).unwrap();
        let schema = serde_json::json!({ "json": "user" });
        let shown = ExplainedKey {
            schema: schema.clone(),
            target: "slot".to_owned(),
            session: None,
            slot: Some(slot_of_key(b"ada").0),
        };
        assert_eq!((slot.session(), slot.shown()), (None, shown));

        let session = Extracted::new(&header(), payload, user(SchemaTarget::Session)).unwrap();
        let (found, function) = session.session().unwrap();
        assert_eq!(function, 9);
        let shown = session.shown();
        assert_eq!(shown.session, Some(format!("{found:016x}")));
        assert_eq!((shown.target.as_str(), shown.slot), ("session", None));

        let missed = Extracted::new(&header(), b"{}", user(SchemaTarget::Slot)).unwrap();
        let shown = missed.shown();
        assert_eq!(
            (shown.schema, shown.slot, shown.session),
            (schema, None, None)
        );
    }

    #[test]
    fn a_request_that_says_it_itself_or_carries_nothing_is_not_searched() {
        let schema = user(SchemaTarget::Slot);
        for flag in [flags::HAS_SESSION, flags::HAS_SLOT] {
            let header = RpcHeader {
                flags: header().flags | flag,
                ..header()
            };
            assert_eq!(Extracted::new(&header, b"{}", schema), None);
        }
        assert_eq!(Extracted::new(&header(), b"", schema), None);
    }
}

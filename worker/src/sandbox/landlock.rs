//! Whether this kernel has Landlock, and which version. The rules are made where they are put on: by the process
//! that locks itself in (`sdk/python/warmpath/_lockdown.py`).

use landlock::{
    ABI, Access as _, AccessFs, AccessNet, CompatLevel, Compatible as _, Ruleset, RulesetAttr as _,
    RulesetError, Scope,
};

/// The versions that make a difference to a sandbox, with their numbers, the newest first.
const VERSIONS: [(ABI, u32); 6] = [
    (ABI::V6, 6),
    (ABI::V5, 5),
    (ABI::V4, 4),
    (ABI::V3, 3),
    (ABI::V2, 2),
    (ABI::V1, 1),
];

/// The version that sandboxes use here: the newest that both sides know; 0 where the kernel has none, or has it
/// switched off.
#[must_use]
pub fn version() -> u32 {
    VERSIONS
        .into_iter()
        .find(|(version, _)| ruleset(*version).is_ok())
        .map_or(0, |(_, number)| number)
}

/// Makes a set of all that `version` knows, and forgets it: the kernel refuses what it does not know.
fn ruleset(version: ABI) -> Result<(), RulesetError> {
    let mut rules = Ruleset::default()
        .set_compatibility(CompatLevel::HardRequirement)
        .handle_access(AccessFs::from_all(version))?;
    if version >= ABI::V4 {
        rules = rules.handle_access(AccessNet::from_all(version))?;
    }
    if version >= ABI::V6 {
        rules = rules.scope(Scope::from_all(version))?;
    }
    rules.create().map(|_| ())
}

//! What compactors have published: packs that nobody shall claim, and what is about to be deleted.

use super::error::Result;
use super::objects::Objects;
use crate::format::envelope::ObjectKind;
use crate::format::msgpack;
use crate::format::protocol::{Condemned, Intent};
use crate::id::Nonce16;

/// Where condemned lists are stored.
pub const CONDEMNED: &str = "condemned";
/// Where intents are stored.
pub const INTENTS: &str = "intents";

/// The name of a condemned list.
#[must_use]
pub fn condemned_name(id: Nonce16) -> String {
    format!("{CONDEMNED}/{id}")
}

/// The name of an intent.
#[must_use]
pub fn intent_name(id: Nonce16) -> String {
    format!("{INTENTS}/{id}")
}

/// All listed condemned lists. One that vanishes meanwhile is left out.
///
/// # Errors
/// [`super::Error::Storage`]; one that cannot be read is an error too, since what it names is unknown.
pub fn condemned_lists(objects: &Objects) -> Result<Vec<(Nonce16, Condemned)>> {
    read_all(objects, CONDEMNED, &|id| {
        let plain = objects.get(ObjectKind::Condemned, &condemned_name(id))?;
        Ok(msgpack::from_bytes("condemned list", &plain)?)
    })
}

/// All listed intents. One that vanishes meanwhile is left out.
///
/// # Errors
/// As [`condemned_lists`].
pub fn intents(objects: &Objects) -> Result<Vec<(Nonce16, Intent)>> {
    read_all(objects, INTENTS, &|id| {
        let plain = objects.get(ObjectKind::Intent, &intent_name(id))?;
        Ok(msgpack::from_bytes("intent", &plain)?)
    })
}

fn read_all<T>(
    objects: &Objects,
    folder: &str,
    read: &dyn Fn(Nonce16) -> Result<T>,
) -> Result<Vec<(Nonce16, T)>> {
    let mut found = Vec::new();
    for id in objects.list_ids::<Nonce16>(folder)? {
        match read(id) {
            Ok(object) => found.push((id, object)),
            Err(error) if error.is_missing() => {}
            Err(error) => return Err(error),
        }
    }
    Ok(found)
}

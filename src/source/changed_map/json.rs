//! Ranges in JSON: a list of them, or an object that holds the list beside the two states. `rbd diff` adds whether a range holds data now; what became
//! a hole changed, too.

use std::fmt;
use std::io::Read;

use serde::Deserialize;
use serde::de::{DeserializeSeed, Deserializer, Error, MapAccess, SeqAccess, Visitor};

use super::{Builder, MapError};

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Entry {
    offset: u64,
    length: u64,
    #[serde(rename = "exists")]
    _exists: Option<Exists>,
}

/// Whether a range holds data now, as `rbd` says it, or as one would expect.
#[derive(Deserialize)]
#[serde(untagged, expecting = "\"exists\" is neither true nor false")]
enum Exists {
    Flag(#[expect(dead_code, reason = "what became a hole changed, too")] bool),
    Word(#[expect(dead_code, reason = "what became a hole changed, too")] Word),
}

#[derive(Deserialize)]
#[serde(rename_all = "lowercase")]
enum Word {
    True,
    False,
}

pub(super) fn read(map: &mut impl Read, builder: &mut Builder) -> Result<(), MapError> {
    let mut json = serde_json::Deserializer::from_reader(map);
    let read = json.deserialize_any(Top(builder)).and_then(|()| json.end());
    read.map_err(|error| match error.io_error_kind() {
        Some(kind) => MapError::Io(kind.into()),
        None => MapError::malformed(error.to_string()),
    })
}

/// The whole document.
struct Top<'a>(&'a mut Builder);

impl<'de> Visitor<'de> for Top<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a list of ranges, or an object with one under \"ranges\"")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, list: A) -> Result<(), A::Error> {
        Ranges(self.0).visit_seq(list)
    }

    fn visit_map<A: MapAccess<'de>>(self, mut object: A) -> Result<(), A::Error> {
        let mut has_ranges = false;
        while let Some(key) = object.next_key::<String>()? {
            match key.as_str() {
                "base" => self.0.map.base = Some(object.next_value()?),
                "target" => self.0.map.target = Some(object.next_value()?),
                "ranges" => {
                    has_ranges = true;
                    object.next_value_seed(Ranges(self.0))?;
                }
                other => return Err(A::Error::unknown_field(other, &["base", "target", "ranges"])),
            }
        }
        if has_ranges { Ok(()) } else { Err(A::Error::missing_field("ranges")) }
    }
}

/// The list.
struct Ranges<'a>(&'a mut Builder);

impl<'de> DeserializeSeed<'de> for Ranges<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, list: D) -> Result<(), D::Error> {
        list.deserialize_seq(self)
    }
}

impl<'de> Visitor<'de> for Ranges<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a list of ranges, each with \"offset\" and \"length\" in bytes")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<(), A::Error> {
        while let Some(Entry { offset, length, .. }) = list.next_element()? {
            self.0.add(offset, length).map_err(|error| match error {
                MapError::Malformed { reason } => A::Error::custom(reason),
                error => A::Error::custom(error),
            })?;
        }
        Ok(())
    }
}

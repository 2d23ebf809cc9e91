//! A key slot: the keys, wrapped by a passphrase or key file (`docs/format.md`, section 5).

use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use super::limits::{MAX_CONFIG_BODY, MAX_NAME};
use super::wire::{Reader, checksum, verify_checksum};
use super::{FormatError, msgpack};
use crate::codec::CodecError;
use crate::codec::keys::{KeyClass, KeySet, Secret32};
use crate::codec::seal::{SEAL_OVERHEAD, SealKey};
use crate::codec::slot_key::{Derivation, Secret, wrapping_key};
use crate::id::{RepositoryId, SlotId};

const MAGIC: &[u8; 8] = b"COPALKEY";
const VERSION: u16 = 1;
const HEADER_LEN: usize = 76;
/// Longest stored slot in bytes.
pub const MAX_SLOT: u64 = (HEADER_LEN + 16) as u64 + MAX_CONFIG_BODY as u64;
/// Keys of one slot, in number: more than fit at their real length.
const MAX_KEYS: usize = 4096;
/// memory × iterations of Argon2, in KiB: 16 GiB, some ten seconds.
const MAX_ARGON2_WORK: u64 = 16 << 20;

/// What a slot protects.
#[derive(Debug)]
pub struct SlotPayload {
    /// The keys.
    pub keys: KeySet,
    /// What the user calls this slot; empty if nothing. See [`check_label`].
    pub label: String,
    /// When it was made, in ns since 1970, UTC.
    pub created: i64,
}

/// Checks what a user wants to call a slot: at most 200 bytes, no control characters, no white space around it.
///
/// # Errors
/// [`FormatError::Malformed`].
pub fn check_label(label: &str) -> Result<(), FormatError> {
    let broken = if label.len() > MAX_NAME {
        format!("it is {} bytes long, {MAX_NAME} are allowed", label.len())
    } else if let Some(c) = label.chars().find(|c| c.is_control() || matches!(c, '\u{2028}' | '\u{2029}')) {
        format!("{c:?} is a control character")
    } else if label.trim() != label {
        "it begins or ends with white space".into()
    } else {
        return Ok(());
    };
    Err(FormatError::malformed("label", broken))
}

#[derive(Serialize, Deserialize)]
struct StoredPayload {
    #[serde(deserialize_with = "msgpack::at_most::<_, _, MAX_KEYS>")]
    keys: Vec<StoredKey>,
    label: String,
    created: i64,
}

#[derive(Serialize, Deserialize)]
struct StoredKey {
    class: u8,
    epoch: u32,
    key: serde_bytes::ByteBuf,
}

/// A slot as read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Slot {
    /// How its wrapping key is made.
    pub derivation: Derivation,
    salt: [u8; 32],
    /// Whose slot it is.
    pub repository: RepositoryId,
    header: [u8; HEADER_LEN],
    sealed: Vec<u8>,
}

impl Slot {
    /// Wraps `payload` under `secret` and gives the stored form.
    ///
    /// # Errors
    /// [`CodecError::Derivation`].
    ///
    /// # Panics
    /// If `derivation` does not fit the sort of `secret`.
    pub fn seal(
        id: SlotId,
        repository: RepositoryId,
        derivation: Derivation,
        secret: &Secret,
        payload: &SlotPayload,
    ) -> Result<Vec<u8>, CodecError> {
        let mut salt = [0; 32];
        getrandom::fill(&mut salt).expect("the system's random source works");
        let keys = payload.keys.iter().map(|(class, epoch, key)| StoredKey {
            class: class as u8,
            epoch,
            key: serde_bytes::ByteBuf::from(key.to_vec()),
        });
        let stored =
            StoredPayload { keys: keys.collect(), label: payload.label.clone(), created: payload.created };
        let plain = Zeroizing::new(msgpack::to_bytes(&stored));
        stored.wipe();

        let (kind, [memory, iterations, lanes]) = match derivation {
            Derivation::Argon2id { memory_kib, iterations, lanes } => (1, [memory_kib, iterations, lanes]),
            Derivation::KeyFile => (2, [0; 3]),
        };
        let mut out = Vec::with_capacity(HEADER_LEN + plain.len() + SEAL_OVERHEAD + 16);
        out.extend_from_slice(MAGIC);
        out.extend_from_slice(&VERSION.to_le_bytes());
        out.extend_from_slice(&[kind, 0]);
        [memory, iterations, lanes].iter().for_each(|value| out.extend_from_slice(&value.to_le_bytes()));
        out.extend_from_slice(&salt);
        out.extend_from_slice(repository.as_bytes());
        let len = u32::try_from(plain.len() + SEAL_OVERHEAD).expect("a slot holds a few keys");
        out.extend_from_slice(&len.to_le_bytes());

        let key = wrapping_key(derivation, &salt, secret)?.expect("the caller pairs derivation and secret");
        let sealed = SealKey::new(&key).seal(&[&out[..], id.as_bytes()].concat(), &plain);
        out.extend_from_slice(&sealed);
        let sum = checksum(&out);
        out.extend_from_slice(&sum);
        Ok(out)
    }

    /// Reads the plain part.
    ///
    /// # Errors
    /// Any [`FormatError`].
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, FormatError> {
        let mut reader = Reader::new("key slot", bytes);
        reader.magic(MAGIC)?;
        reader.version(VERSION)?;
        let covered = verify_checksum("key slot", bytes)?;
        let kind = reader.u8()?;
        reader.zeros::<1>()?;
        let costs = [reader.u32()?, reader.u32()?, reader.u32()?];
        let derivation = derivation(kind, costs)?;
        let salt = reader.array()?;
        let repository = RepositoryId(reader.array()?);
        let len = reader.count("length of a slot's payload", MAX_CONFIG_BODY, 1)?;
        let sealed = reader.bytes(len)?.to_vec();
        if covered.len() != HEADER_LEN + len {
            return Err(FormatError::malformed("key slot", "it is longer than it says"));
        }
        let mut header = [0; HEADER_LEN];
        header.copy_from_slice(&covered[..HEADER_LEN]);
        Ok(Self { derivation, salt, repository, header, sealed })
    }

    /// Tries a secret: `None` if it does not open this slot. A label that breaks its grammar is left out: it is no reason to lock anybody out.
    ///
    /// # Errors
    /// [`CodecError::Derivation`].
    pub fn open(&self, id: SlotId, secret: &Secret) -> Result<Option<SlotPayload>, CodecError> {
        let Some(key) = wrapping_key(self.derivation, &self.salt, secret)? else { return Ok(None) };
        let aad = [&self.header[..], id.as_bytes()].concat();
        let Ok(plain) = SealKey::new(&key).open(&aad, self.sealed.clone()) else { return Ok(None) };
        let plain = Zeroizing::new(plain);
        let stored: StoredPayload = match msgpack::from_bytes("key slot", &plain) {
            Ok(stored) => stored,
            Err(_) => return Ok(None),
        };
        let mut keys = KeySet::default();
        for stored in &stored.keys {
            let key = <[u8; 32]>::try_from(stored.key.as_slice());
            if let (Some(class), Ok(key)) = (KeyClass::from_tag(stored.class), key) {
                keys = keys.with(class, stored.epoch, Secret32::new(key));
            }
        }
        let label = check_label(&stored.label).map(|()| stored.label.clone());
        let label = label.unwrap_or_else(|error| {
            log::warn!("key slot {id}: its {error}");
            String::new()
        });
        let payload = SlotPayload { keys, label, created: stored.created };
        stored.wipe();
        Ok(Some(payload))
    }
}

impl StoredPayload {
    fn wipe(self) {
        use zeroize::Zeroize;
        for mut key in self.keys {
            key.key.zeroize();
        }
    }
}

fn derivation(kind: u8, [memory_kib, iterations, lanes]: [u32; 3]) -> Result<Derivation, FormatError> {
    let [memories, passes, widths] = Derivation::ARGON2_LIMITS;
    match kind {
        1 => {
            let work = u64::from(memory_kib) * u64::from(iterations);
            let fits =
                memories.contains(&memory_kib) && passes.contains(&iterations) && widths.contains(&lanes);
            if !fits || memory_kib < 8 * lanes || work > MAX_ARGON2_WORK {
                return Err(FormatError::malformed("key slot", "Argon2 parameters out of bounds"));
            }
            Ok(Derivation::Argon2id { memory_kib, iterations, lanes })
        }
        2 if [memory_kib, iterations, lanes] == [0; 3] => Ok(Derivation::KeyFile),
        _ => Err(FormatError::malformed("key slot", format!("unknown derivation {kind}"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FAST: Derivation = Derivation::Argon2id { memory_kib: 8, iterations: 1, lanes: 1 };

    fn secret(text: &str) -> Secret {
        Secret::Passphrase(Zeroizing::new(text.into()))
    }

    #[test]
    fn opens_with_its_secret_and_id_only() {
        let [id, other] = [SlotId::random(), SlotId::random()];
        let payload = SlotPayload { keys: KeySet::generate(), label: "first".into(), created: 3 };
        let bytes = Slot::seal(id, RepositoryId([1; 16]), FAST, &secret("good"), &payload).unwrap();
        let slot = Slot::from_bytes(&bytes).unwrap();
        let opened = slot.open(id, &secret("good")).unwrap().unwrap();
        assert!(opened.keys.iter().eq(payload.keys.iter()));
        assert_eq!(opened.label, "first");
        assert!(slot.open(id, &secret("bad")).unwrap().is_none());
        assert!(slot.open(other, &secret("good")).unwrap().is_none());
        assert!(slot.open(id, &Secret::KeyFile(Zeroizing::new(vec![0; 32]))).unwrap().is_none());
        for i in 0..bytes.len() {
            let mut bad = bytes.clone();
            bad[i] ^= 1;
            assert!(Slot::from_bytes(&bad).is_err(), "byte {i}");
            assert!(Slot::from_bytes(&bytes[..i]).is_err());
        }
    }

    #[test]
    fn labels_are_checked_when_written_and_when_read() {
        let long = "x".repeat(201);
        for bad in ["a\nb", "\u{1b}[2J", "\u{2028}", " x", "x ", &long] {
            assert!(check_label(bad).is_err(), "{bad:?}");
            let id = SlotId::random();
            let payload = SlotPayload { keys: KeySet::generate(), label: bad.into(), created: 3 };
            let bytes = Slot::seal(id, RepositoryId([1; 16]), FAST, &secret("good"), &payload).unwrap();
            let opened = Slot::from_bytes(&bytes).unwrap().open(id, &secret("good")).unwrap().unwrap();
            assert_eq!(opened.label, "");
        }
        for good in ["", "Büro, 2. Stock", &long[1..]] {
            assert!(check_label(good).is_ok(), "{good:?}");
        }
    }

    #[test]
    fn greedy_parameters_are_refused_before_use() {
        assert!(derivation(1, [u32::MAX, 1, 1]).is_err());
        assert!(derivation(1, [4 << 20, 64, 1]).is_err());
        assert!(derivation(1, [8, 1, 2]).is_err());
        assert!(derivation(3, [0; 3]).is_err());
        assert!(derivation(1, [64 << 10, 3, 4]).is_ok());
    }
}

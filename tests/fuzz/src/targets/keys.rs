//! What stands before any key: the config and key slots, and what is sealed in them.

use copal::codec::keys::{KeyClass, KeySet, Secret32};
use copal::codec::seal::{SEAL_OVERHEAD, SealKey};
use copal::codec::slot_key::{Derivation, Secret, wrapping_key};
use copal::format::config::{ChunkerParams, ConfigBody, ConfigHeader, EncryptionMode, SealedConfig};
use copal::format::slot::{Slot, SlotPayload};
use copal::format::wire::checksum;
use copal::format::{FormatError, msgpack};
use copal::id::SlotId;
use zeroize::Zeroizing;

use crate::samples::{REPOSITORY, ring};

const CONFIG_HEADER: usize = 56;
const SLOT_HEADER: usize = 76;
const SLOT: SlotId = SlotId([4; 16]);

/// The input as it is, and with the checksum that would belong behind it.
fn with_checksum(input: &[u8]) -> [Vec<u8>; 2] {
    [input.to_vec(), [input, &checksum(input)].concat()]
}

/// A stored config, with or without its checksum.
pub(super) fn config(input: &[u8]) -> bool {
    let mut accepted = false;
    for bytes in with_checksum(input) {
        let intact = SealedConfig::is_intact(&bytes);
        let Ok(config) = SealedConfig::from_bytes(&bytes) else { continue };
        assert!(intact);
        accepted |= matches!(config.open(ring()), Ok(Ok(_)));
    }
    accepted
}

fn header() -> ConfigHeader {
    ConfigHeader { encryption: EncryptionMode::None, epoch: 1, writer_features: 0, repository: REPOSITORY }
}

fn body() -> ConfigBody {
    ConfigBody {
        generation: 1,
        created: 5,
        chunker: ChunkerParams::fastcdc(64 << 10),
        span_shift: 24,
        pack_size: 24 << 20,
        mirror: true,
        reserve: 8 << 20,
        generator: "test".into(),
    }
}

pub(super) fn config_seeds() -> Vec<Vec<u8>> {
    let bytes = SealedConfig::seal(header(), &body(), ring()).expect("all keys are there");
    let unsummed = bytes[..bytes.len() - 16].to_vec();
    let mut future = unsummed.clone();
    future[16] = 1;
    vec![bytes, unsummed, future]
}

/// The plain body of a config, sealed as it should be.
pub(super) fn config_body(input: &[u8]) -> bool {
    let empty = SealedConfig::seal(header(), &body(), ring()).expect("all keys are there");
    let len = u32::try_from(input.len() + SEAL_OVERHEAD).expect("inputs are short");
    let mut bytes = empty[..CONFIG_HEADER].to_vec();
    bytes[48..52].copy_from_slice(&len.to_le_bytes());
    let key = ring().seal_key(KeyClass::Index, 1).expect("all keys are there");
    let sealed = key.seal(&bytes, input);
    bytes.extend_from_slice(&sealed);
    bytes.extend_from_slice(&checksum(&bytes));
    let config = SealedConfig::from_bytes(&bytes).expect("the plain part is right");
    let Ok(body) = config.open(ring()).expect("the seal is right") else { return false };
    let again = SealedConfig::seal(header(), &body, ring()).expect("all keys are there");
    let again = SealedConfig::from_bytes(&again).and_then(|config| config.open(ring()).expect("just sealed"));
    assert_eq!(again, Ok(body));
    true
}

pub(super) fn config_body_seeds() -> Vec<Vec<u8>> {
    let fixed = ConfigBody { chunker: ChunkerParams::fixed(64 << 10), ..body() };
    vec![msgpack::to_bytes(&body()), msgpack::to_bytes(&fixed)]
}

fn key_file() -> Secret {
    Secret::KeyFile(Zeroizing::new(vec![5; 32]))
}

/// A stored slot, with or without its checksum; opened only where that costs no Argon2.
pub(super) fn slot(input: &[u8]) -> bool {
    let mut accepted = false;
    for bytes in with_checksum(input) {
        let Ok(slot) = Slot::from_bytes(&bytes) else { continue };
        accepted = true;
        if slot.derivation == Derivation::KeyFile {
            let _ = slot.open(SLOT, &key_file());
        } else if let Derivation::Argon2id { memory_kib, iterations, lanes } = slot.derivation {
            let values = [memory_kib, iterations, lanes];
            let fits =
                Derivation::ARGON2_LIMITS.iter().zip(values).all(|(range, value)| range.contains(&value));
            assert!(fits && u64::from(memory_kib) * u64::from(iterations) <= 16 << 20);
        }
    }
    accepted
}

fn payload() -> SlotPayload {
    let key = |byte| Secret32::new([byte; 32]);
    let keys = KeySet::default().with(KeyClass::Master, 1, key(1)).with(KeyClass::Index, 2, key(2));
    SlotPayload { keys, label: "first".into(), created: 3 }
}

fn sealed_slot(derivation: Derivation, secret: &Secret) -> Vec<u8> {
    Slot::seal(SLOT, REPOSITORY, derivation, secret, &payload()).expect("parameters are right")
}

pub(super) fn slot_seeds() -> Vec<Vec<u8>> {
    let cheap = Derivation::Argon2id { memory_kib: 8, iterations: 1, lanes: 1 };
    let bytes = sealed_slot(Derivation::KeyFile, &key_file());
    let argon2 = sealed_slot(cheap, &Secret::Passphrase(Zeroizing::new("x".into())));
    let unsummed = |bytes: &[u8]| bytes[..bytes.len() - 16].to_vec();
    vec![unsummed(&bytes), unsummed(&argon2), bytes]
}

/// The plain payload of a slot, sealed as it should be.
pub(super) fn slot_payload(input: &[u8]) -> bool {
    let mut bytes = b"COPALKEY\x01\0\x02\0".to_vec();
    bytes.resize(SLOT_HEADER, 0);
    bytes[56..72].copy_from_slice(REPOSITORY.as_bytes());
    let len = u32::try_from(input.len() + SEAL_OVERHEAD).expect("inputs are short");
    bytes[72..].copy_from_slice(&len.to_le_bytes());
    let key = wrapping_key(Derivation::KeyFile, &[0; 32], &key_file()).expect("no cost to fail");
    let key = SealKey::new(&key.expect("derivation and secret fit"));
    let sealed = key.seal(&[&bytes[..], SLOT.as_bytes()].concat(), input);
    bytes.extend_from_slice(&sealed);
    bytes.extend_from_slice(&checksum(&bytes));
    let slot = Slot::from_bytes(&bytes).expect("the plain part is right");
    let Ok(Some(payload)) = slot.open(SLOT, &key_file()) else { return false };
    let again = Slot::seal(SLOT, REPOSITORY, Derivation::KeyFile, &key_file(), &payload);
    // More keys than a slot holds in any repository would not go into one again.
    let Ok(again) = again else { return true };
    let again = Slot::from_bytes(&again).and_then(|slot| {
        slot.open(SLOT, &key_file()).ok().flatten().ok_or(FormatError::BadMagic { what: "slot" })
    });
    let again = again.expect("what was opened is sealed and opened again");
    assert!(again.keys.iter().eq(payload.keys.iter()));
    assert_eq!((again.label, again.created), (payload.label, payload.created));
    true
}

pub(super) fn slot_payload_seeds() -> Vec<Vec<u8>> {
    // As the private struct of the slot is stored: a map of three, with keys and text in between.
    let text = |out: &mut Vec<u8>, text: &str| {
        out.push(0xa0 + u8::try_from(text.len()).expect("short"));
        out.extend_from_slice(text.as_bytes());
    };
    let mut out = vec![0x83];
    text(&mut out, "keys");
    out.push(0x92);
    for (class, epoch) in [(1, 1), (5, 2)] {
        out.push(0x83);
        text(&mut out, "class");
        out.push(class);
        text(&mut out, "epoch");
        out.push(epoch);
        text(&mut out, "key");
        out.extend_from_slice(&[0xc4, 32]);
        out.extend_from_slice(&[class; 32]);
    }
    text(&mut out, "label");
    text(&mut out, "first");
    text(&mut out, "created");
    out.push(3);
    vec![out]
}

//! Crockford's base 32: digits and letters without I, L, O and U. Read in either case; I and L count as 1, O as 0.

use zeroize::Zeroizing;

const ALPHABET: &[u8; 32] = b"0123456789ABCDEFGHJKMNPQRSTVWXYZ";

/// The character for five bits; higher bits do not count.
pub(super) fn symbol(bits: u32) -> char {
    char::from(ALPHABET[(bits & 31) as usize])
}

/// The five bits of a character.
pub(super) fn value(c: char) -> Option<u8> {
    let c = match c.to_ascii_uppercase() {
        'I' | 'L' => '1',
        'O' => '0',
        c => c,
    };
    let at = ALPHABET.iter().position(|symbol| char::from(*symbol) == c)?;
    u8::try_from(at).ok()
}

/// Characters that `bytes` bytes take.
pub(super) fn encoded_len(bytes: usize) -> usize {
    (bytes * 8).div_ceil(5)
}

/// Encodes, highest bit first; the last character is filled up with zeros.
pub(super) fn encode(bytes: &[u8]) -> Zeroizing<String> {
    let mut out = Zeroizing::new(String::with_capacity(encoded_len(bytes.len())));
    let (mut buffer, mut bits) = (0u32, 0);
    for byte in bytes {
        buffer = buffer << 8 | u32::from(*byte);
        bits += 8;
        while bits >= 5 {
            bits -= 5;
            out.push(symbol(buffer >> bits));
        }
    }
    if bits > 0 {
        out.push(symbol(buffer << (5 - bits)));
    }
    out
}

/// Decodes; `None` if a character is left over, or the filling is not zero.
pub(super) fn decode(values: &[u8]) -> Option<Zeroizing<Vec<u8>>> {
    let len = values.len() * 5 / 8;
    if encoded_len(len) != values.len() {
        return None;
    }
    let mut out = Zeroizing::new(Vec::with_capacity(len));
    let (mut buffer, mut bits) = (0u32, 0);
    for value in values {
        buffer = (buffer << 5 | u32::from(*value)) & 0xfff;
        bits += 5;
        if bits >= 8 {
            bits -= 8;
            out.push((buffer >> bits) as u8);
        }
    }
    (buffer & ((1 << bits) - 1) == 0).then_some(out)
}

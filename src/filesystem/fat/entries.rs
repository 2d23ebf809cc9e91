//! Entries of directories: short ones, and the long names in front of them. No I/O.

use jiff::civil::DateTime;
use jiff::tz::TimeZone;

use super::super::{Time, bytes_of_utf16};
use super::ENTRY;
use crate::partition::bytes::Fields;

const END: u8 = 0;
const DELETED: u8 = 0xe5;
/// Stands for what would look deleted.
const NOT_DELETED: u8 = 0x05;
const DIRECTORY: u8 = 0x10;
const LABEL: u8 = 0x08;
const LONG: u8 = 0x0f;
/// The last part of a long name, which comes first.
const FIRST: u8 = 0x40;
/// Parts of a long name, of 13 units each.
const MAX_PARTS: u8 = 20;
/// Windows NT writes names of one case so: before the dot, and behind it.
const LOWER_BASE: u8 = 0x08;
const LOWER_EXTENSION: u8 = 0x10;

/// What bytes from 0x80 on mean in code page 437, the one that Linux assumes.
const PAGE: &str = "ÇüéâäàåçêëèïîìÄÅÉæÆôöòûùÿÖÜ¢£¥₧ƒáíóúñÑªº¿⌐¬½¼¡«»░▒▓│┤╡╢╖╕╣║╗╝╜╛┐└┴┬├─┼╞╟╚╔╩╦╠═╬╧╨╤╥╙╘╒╓╫╪┘┌█▄▌▐▀αßΓπΣσµτΦΘΩδ∞φε∩≡±≥≤⌠⌡÷≈°∙·√ⁿ²■\u{a0}";

/// An entry.
pub(super) struct Found(pub(super) [u8; ENTRY]);

impl Found {
    fn fields(&self) -> Fields<'_> {
        Fields(&self.0)
    }

    /// Whether nothing follows.
    pub(super) fn is_end(&self) -> bool {
        self.0[0] == END
    }

    pub(super) fn is_directory(&self) -> bool {
        self.0[11] & DIRECTORY != 0
    }

    pub(super) fn len(&self) -> u64 {
        self.fields().u32(28).into()
    }

    pub(super) fn first(&self, wide: bool) -> u32 {
        u32::from(self.fields().u16(26)) | if wide { u32::from(self.fields().u16(20)) << 16 } else { 0 }
    }

    /// When it was read, to the day, and when its content was changed, to two seconds.
    pub(super) fn times(&self) -> [Time; 2] {
        [time(self.fields().u16(18), 0), time(self.fields().u16(24), self.fields().u16(22))]
    }

    /// The sum that long names have of it.
    fn sum(&self) -> u8 {
        self.0[..11].iter().fold(0, |sum: u8, byte| sum.rotate_right(1).wrapping_add(*byte))
    }

    /// Eight characters, a dot, and three.
    fn short(&self) -> Vec<u8> {
        let mut bytes = self.0;
        if bytes[0] == NOT_DELETED {
            bytes[0] = DELETED;
        }
        let text = |part: &[u8], lower: u8| {
            let end = part.iter().rposition(|byte| *byte != b' ').map_or(0, |at| at + 1);
            let text: String = part[..end].iter().map(|byte| character(*byte)).collect();
            if self.0[12] & lower != 0 { text.to_lowercase() } else { text }
        };
        let (base, extension) = (text(&bytes[..8], LOWER_BASE), text(&bytes[8..11], LOWER_EXTENSION));
        if extension.is_empty() { base.into_bytes() } else { format!("{base}.{extension}").into_bytes() }
    }
}

fn character(byte: u8) -> char {
    match byte {
        0..0x80 => byte.into(),
        _ => PAGE.chars().nth(usize::from(byte) - 0x80).unwrap_or(char::REPLACEMENT_CHARACTER),
    }
}

/// Days of months of years since 1980, and hours, minutes and pairs of seconds. What is no time is the beginning of 1970.
fn time(date: u16, clock: u16) -> Time {
    let part = |bits: u16, shift: u32, len: u32| (bits >> shift & ((1 << len) - 1)).cast_signed();
    let small = |number: i16| i8::try_from(number).unwrap_or(i8::MAX);
    let civil = DateTime::new(
        1980 + part(date, 9, 7),
        small(part(date, 5, 4)),
        small(part(date, 0, 5)),
        small(part(clock, 11, 5)),
        small(part(clock, 5, 6)),
        small(part(clock, 0, 5) * 2),
        0,
    );
    let zoned = civil.ok().and_then(|civil| civil.to_zoned(TimeZone::UTC).ok());
    Time { seconds: zoned.map_or(0, |zoned| zoned.timestamp().as_second()), nanoseconds: 0 }
}

/// A long name whose parts are being gathered, the last one first.
#[derive(Default)]
pub(super) struct Long {
    /// In UTF-16, its parts in their order.
    text: Vec<u8>,
    /// The part that has to come next; 0 if all were there.
    next: Option<u8>,
    sum: u8,
}

impl Long {
    /// Takes an entry; returns the name of one that is a file or directory.
    pub(super) fn take(&mut self, entry: &Found) -> Option<Vec<u8>> {
        let attributes = entry.0[11];
        if entry.0[0] == DELETED {
            self.next = None;
            return None;
        }
        if attributes & 0x3f == LONG {
            self.part(entry);
            return None;
        }
        let is_whole = self.next.take() == Some(0) && self.sum == entry.sum();
        let text = std::mem::take(&mut self.text);
        if attributes & LABEL != 0 || entry.0[..11] == *b".          " || entry.0[..11] == *b"..         " {
            return None;
        }
        Some(if is_whole { bytes_of_utf16(&text) } else { entry.short() })
    }

    fn part(&mut self, entry: &Found) {
        let (order, sum) = (entry.0[0], entry.0[13]);
        let number = order & !FIRST;
        if order & FIRST != 0 {
            *self = Self { text: Vec::new(), next: Some(number), sum };
        }
        if self.next != Some(number) || self.sum != sum || !(1..=MAX_PARTS).contains(&number) {
            self.next = None;
            return;
        }
        let units = [&entry.0[1..11], &entry.0[14..26], &entry.0[28..32]].concat();
        let end = units.chunks_exact(2).position(|unit| unit == [0, 0]).map_or(units.len(), |at| at * 2);
        self.text.splice(0..0, units[..end].iter().copied());
        self.next = Some(number - 1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn short(name: &[u8; 11], case: u8) -> Found {
        let mut bytes = [0; ENTRY];
        bytes[..11].copy_from_slice(name);
        bytes[12] = case;
        Found(bytes)
    }

    fn long(order: u8, text: &str, sum: u8) -> Found {
        let mut units = [0xffff_u16; 13];
        units.iter_mut().zip(text.encode_utf16().chain([0])).for_each(|(to, from)| *to = from);
        let bytes: Vec<u8> = units.iter().flat_map(|unit| unit.to_le_bytes()).collect();
        let mut entry = [0; ENTRY];
        (entry[0], entry[11], entry[13]) = (order, LONG, sum);
        entry[1..11].copy_from_slice(&bytes[..10]);
        entry[14..26].copy_from_slice(&bytes[10..22]);
        entry[28..32].copy_from_slice(&bytes[22..]);
        Found(entry)
    }

    #[test]
    fn short_names_have_a_dot_and_a_case() {
        for (name, case, text) in [
            (b"README  TXT", 0, "README.TXT"),
            (b"README  TXT", LOWER_BASE | LOWER_EXTENSION, "readme.txt"),
            (b"MAKEFILE   ", LOWER_EXTENSION, "MAKEFILE"),
            (b"\x05\x9aBER   A  ", 0, "σÜBER.A"),
        ] {
            assert_eq!(Long::default().take(&short(name, case)), Some(text.as_bytes().to_vec()));
        }
        assert_eq!(PAGE.chars().count(), 128);
        assert_eq!(Long::default().take(&short(b".          ", 0)), None);
    }

    #[test]
    fn long_names_belong_to_what_follows() {
        let file = short(b"LONGNA~1TXT", 0);
        let sum = file.sum();
        let mut names = Long::default();
        assert_eq!(names.take(&long(0x42, "e.txt", sum)), None);
        assert_eq!(names.take(&long(0x01, "long namé her", sum)), None);
        assert_eq!(names.take(&file), Some("long namé here.txt".as_bytes().to_vec()));
        assert_eq!(names.take(&file), Some(b"LONGNA~1.TXT".to_vec()), "it was for the one before");
        for parts in [
            [long(0x42, "e.txt", sum), long(0x01, "long", sum ^ 1)],
            [long(0x42, "e.txt", sum), long(0x03, "long", sum)],
            [long(0x02, "e.txt", sum), long(0x01, "long", sum)],
            [long(0x41, "long", sum), short(b"\xe5ONG       ", 0)],
        ] {
            parts.iter().for_each(|part| assert_eq!(names.take(part), None));
            assert_eq!(names.take(&file), Some(b"LONGNA~1.TXT".to_vec()));
        }
    }

    #[test]
    fn times_have_two_seconds() {
        let date = 46 << 9 | 11 << 5 | 20;
        let clock = 3 << 11 | 30 << 5 | 29;
        assert_eq!(time(date, clock).seconds, 1_795_145_458);
        assert_eq!(time(0, 0).seconds, 0);
    }
}

//! The form for paper: numbered lines of 24 characters in groups of four, each with a checksum of four characters behind it.

use std::collections::BTreeMap;

use zeroize::Zeroizing;

use super::base32::{decode, encode, encoded_len, symbol, value};
use super::{ENTRY, HEAD, MAX_KEYS, RecoveryError, RecoveryForm, SUM, WrongLine};

/// Bytes of a line: 24 characters, what the eye takes in as six groups.
const LINE: usize = 15;
/// Characters of a group.
const GROUP: usize = 4;
/// Characters of a line's checksum: 20 bits let one wrong line in a million pass, for the checksum over all to catch.
const CHECK: usize = 4;
const CONTEXT: &str = "copal v1 recovery line";
/// Characters of a whole line as printed, and of the remarks before: for one allocation, so that no copy stays behind unwiped.
const PRINTED: usize = 48;
const FRAME: usize = 1024;

/// The number of lines of the longest form.
const MAX_LINES: usize = (HEAD + ENTRY * MAX_KEYS as usize + SUM).div_ceil(LINE);

fn check(number: usize, bytes: &[u8]) -> u32 {
    let mut hasher = blake3::Hasher::new_derive_key(CONTEXT);
    hasher.update(&(number as u64).to_le_bytes()).update(bytes);
    let [a, b, c, ..] = *hasher.finalize().as_bytes();
    u32::from_be_bytes([0, a, b, c]) >> 4
}

pub(super) fn print(form: &RecoveryForm) -> Zeroizing<String> {
    let bytes = form.to_bytes();
    let mut out = Zeroizing::new(String::with_capacity(FRAME + PRINTED * (bytes.len() / LINE + 1)));
    out.push_str(&format!("# Copal recovery form of repository {}\n", form.repository));
    out.push_str(
        "# These keys open it WITHOUT any passphrase: who has this paper can read every backup in it.\n",
    );
    out.push_str("# Keep it apart from the repository, where nobody else gets at it.\n");
    out.push_str("#\n");
    out.push_str("# To use it, type the numbered lines, blanks as you like, into 'copal key import REPO -', then Ctrl-D.\n");
    out.push_str("# Capitals do not matter. There is no letter I, L, O or U: it is 1 or 0. The last group checks its line.\n");
    out.push_str("#\n");
    for (number, line) in (1..).zip(bytes.chunks(LINE)) {
        out.push_str(&format!("{number:>4} "));
        for (at, c) in encode(line).chars().enumerate() {
            out.extend((at % GROUP == 0).then_some(' '));
            out.push(c);
        }
        out.push_str("   ");
        let sum = check(number, line);
        out.extend((0..CHECK).rev().map(|at| symbol(sum >> (5 * at))));
        out.push('\n');
    }
    out
}

/// `lines` with their numbers in the input; those on the paper count.
pub(super) fn parse(lines: &[(usize, &str)]) -> Result<RecoveryForm, RecoveryError> {
    let mut good: BTreeMap<usize, Zeroizing<Vec<u8>>> = BTreeMap::new();
    let mut wrong: BTreeMap<usize, String> = BTreeMap::new();
    for (typed, line) in lines {
        let Some((number, rest)) = split_number(line) else {
            return Err(super::wrong(*typed, "it does not begin with the number of a line on the paper"));
        };
        match parse_line(number, rest) {
            Ok(bytes) => {
                if good.get(&number).is_some_and(|before| *before != bytes) {
                    wrong.insert(number, "it was typed twice, differently".into());
                }
                good.insert(number, bytes);
            }
            Err(problem) => drop(wrong.insert(number, problem)),
        }
    }
    let count = line_count(&good);
    let last = count.or_else(|| good.keys().chain(wrong.keys()).max().copied()).unwrap_or(0);
    for number in (1..=last).filter(|number| !good.contains_key(number)) {
        wrong.entry(number).or_insert_with(|| "it is missing".into());
    }
    for number in good.keys().filter(|number| count.is_some_and(|count| **number > count)) {
        wrong.insert(*number, format!("this form ends with line {last}"));
    }
    if !wrong.is_empty() {
        let lines = wrong.into_iter().map(|(number, problem)| WrongLine { number, problem });
        return Err(RecoveryError::Lines(lines.collect()));
    }
    let mut bytes = Zeroizing::new(Vec::with_capacity(LINE * last));
    good.values().for_each(|line| bytes.extend_from_slice(line));
    RecoveryForm::from_bytes(&bytes)
}

/// `12: ABCD …` as 12 and the rest.
fn split_number(line: &str) -> Option<(usize, &str)> {
    let end = line.find(|c: char| !c.is_ascii_digit())?;
    let (number, rest) = line.split_at(end);
    let number = number.parse().ok().filter(|number| (1..=MAX_LINES).contains(number))?;
    let rest = rest.strip_prefix([':', '.', ')']).unwrap_or(rest);
    rest.starts_with(char::is_whitespace).then_some((number, rest))
}

fn parse_line(number: usize, text: &str) -> Result<Zeroizing<Vec<u8>>, String> {
    let full = encoded_len(LINE) + CHECK;
    let mut values = Zeroizing::new(Vec::with_capacity(full));
    let typed = text.chars().filter(|c| !c.is_whitespace() && *c != '-');
    for (at, c) in typed.enumerate() {
        let value = value(c).ok_or_else(|| format!("character {} is {c:?}, which no line has", at + 1))?;
        if at >= full {
            return Err(format!("it has more than the {full} characters of a line"));
        }
        values.push(value);
    }
    let slip = || match values.len() {
        len if len < full => {
            format!("its checksum does not fit; it has {len} characters, all lines but the last have {full}")
        }
        _ => "its checksum does not fit; compare it with the paper, character by character".into(),
    };
    let (data, sum) = values.split_last_chunk::<CHECK>().ok_or_else(slip)?;
    let bytes = decode(data).filter(|bytes| !bytes.is_empty()).ok_or_else(slip)?;
    let sum = sum.iter().fold(0, |sum, value| sum << 5 | u32::from(*value));
    if sum == check(number, &bytes) { Ok(bytes) } else { Err(slip()) }
}

/// How many lines the form has, as its first two say.
fn line_count(good: &BTreeMap<usize, Zeroizing<Vec<u8>>>) -> Option<usize> {
    let count = good.get(&2)?.get(HEAD - 2 - LINE..HEAD - LINE)?;
    let keys = u16::from_le_bytes(count.try_into().ok()?).min(MAX_KEYS);
    Some((HEAD + ENTRY * usize::from(keys) + SUM).div_ceil(LINE))
}

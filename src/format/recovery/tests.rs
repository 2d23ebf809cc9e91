use proptest::prelude::*;

use super::*;

fn form(keys: &[(u8, u32, u8)]) -> RecoveryForm {
    let set = keys.iter().fold(KeySet::default(), |set, (class, epoch, byte)| {
        set.with(KeyClass::from_tag(*class).unwrap(), *epoch, Secret32::new([*byte; 32]))
    });
    RecoveryForm { repository: RepositoryId([0xab; 16]), keys: set }
}

fn same(a: &RecoveryForm, b: &RecoveryForm) -> bool {
    a.repository == b.repository && a.keys.iter().eq(b.keys.iter())
}

fn numbers(error: &RecoveryError) -> Vec<usize> {
    let RecoveryError::Lines(lines) = error else { panic!("{error}") };
    lines.iter().map(|line| line.number).collect()
}

/// The numbered lines alone.
fn numbered(form: &RecoveryForm) -> Vec<String> {
    form.to_paper().lines().filter(|line| !line.starts_with('#')).map(str::to_owned).collect()
}

#[test]
fn golden_forms() {
    let key = |first: u8| Secret32::new(std::array::from_fn(|at| first + at as u8));
    let keys = KeySet::default().with(KeyClass::Master, 1, key(0)).with(KeyClass::Master, 258, key(200));
    let form = RecoveryForm { repository: RepositoryId(std::array::from_fn(|at| 0xa0 + at as u8)), keys };
    let text = form.to_text();
    let kept: Vec<&str> = text.lines().filter(|line| !line.starts_with('#')).collect();
    assert_eq!(kept, GOLDEN_TEXT);
    assert_eq!(numbered(&form), GOLDEN_PAPER);
    assert!(same(&RecoveryForm::parse(&GOLDEN_TEXT.join("\n")).unwrap(), &form));
    assert!(same(&RecoveryForm::parse(&GOLDEN_PAPER.join("\n")).unwrap(), &form));
}

const GOLDEN_TEXT: [&str; 5] = [
    "copal-recovery-keys 1",
    "repository a0a1a2a3a4a5a6a7a8a9aaabacadaeaf",
    "master 1 000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f",
    "master 258 c8c9cacbcccdcecfd0d1d2d3d4d5d6d7d8d9dadbdcdddedfe0e1e2e3e4e5e6e7",
    "checksum fe7e45962a8c8b9e8a342ccd93fb7c56",
];
const GOLDEN_PAPER: [&str; 8] = [
    "   1  040A 18D2 MEJA B9N7 N2MT NAXC   X8BY",
    "   2  NPQA Y0G0 040G 0000 000G 40R4   AWZK",
    "   3  0M30 E209 185G R38E 1W81 24GK   WMBQ",
    "   4  2GAH C5RR 34D1 P70X 3RFG 20G1   PWHP",
    "   5  000C HJEA SF6C VKPF T38X 5MYM   WBX2",
    "   6  TQBD FP6S VBDX SQEY VZGE 3RQ3   SXTC",
    "   7  WKJY DSZY FS2S CAMC HEF8 MD1C   9XFY",
    "   8  SP9Z PZ2P   122T",
];

#[test]
fn paper_is_read_however_it_is_typed() {
    let form = form(&[(1, 1, 0), (1, 2, 0x42)]);
    let paper = numbered(&form);
    let sloppy = |line: &String| {
        let (number, rest) = line.trim().split_once(' ').unwrap();
        let rest = rest.to_lowercase().replace('0', "o").replace('1', "l").replace("  ", "-");
        format!("  {number}. {rest}  \r")
    };
    let mut lines: Vec<String> = paper.iter().map(sloppy).collect();
    lines.reverse();
    lines.insert(1, "# a remark".into());
    lines.insert(1, String::new());
    lines.push(lines[0].clone());
    assert!(same(&RecoveryForm::parse(&lines.join("\n")).unwrap(), &form));
}

/// One wrong character anywhere names its line and no other.
#[test]
fn every_slip_names_its_line() {
    let paper = numbered(&form(&[(1, 1, 3)]));
    for (at, line) in paper.iter().enumerate() {
        for (position, c) in line.char_indices().skip(5).filter(|(_, c)| !c.is_whitespace()) {
            for other in ('0'..='9').chain('A'..='Z').filter(|o| base32::value(*o) != base32::value(c)) {
                let mut lines = paper.clone();
                lines[at].replace_range(position..=position, &other.to_string());
                let error = RecoveryForm::parse(&lines.join("\n")).unwrap_err();
                assert_eq!(numbers(&error), [at + 1], "{error}");
            }
        }
    }
}

#[test]
fn swapped_missing_doubled_and_foreign_lines_are_named() {
    let ours = numbered(&form(&[(1, 1, 3)]));
    let parse = |lines: &[String]| RecoveryForm::parse(&lines.join("\n")).unwrap_err();
    for at in 0..ours.len() {
        let mut lines = ours.clone();
        lines.remove(at);
        let found = parse(&lines);
        // Only the second line says how many there are.
        assert!(numbers(&found) == [at + 1], "{found}");
        assert!(found.to_string().contains("it is missing"), "{found}");
    }
    let mut swapped = ours.clone();
    let (one, two) = (ours[2][5..].to_owned(), ours[3][5..].to_owned());
    swapped[2].replace_range(5.., &two);
    swapped[3].replace_range(5.., &one);
    assert_eq!(numbers(&parse(&swapped)), [3, 4]);

    let mut short = ours.clone();
    short[1].pop();
    assert!(parse(&short).to_string().contains("line 2: its checksum does not fit; it has 27 characters"));
    let mut long = ours.clone();
    long[1].push_str(" 0");
    assert!(parse(&long).to_string().contains("line 2: it has more than the 28 characters"));

    let other = numbered(&form(&[(1, 1, 4)]));
    let mut mixed = ours.clone();
    mixed[3] = other[3].clone();
    assert!(matches!(parse(&mixed), RecoveryError::Checksum { .. }));
    let mut twice = ours.clone();
    twice.push(other[3].clone());
    assert!(parse(&twice).to_string().contains("line 4: it was typed twice, differently"));
    let mut more = ours.clone();
    more.push(numbered(&form(&[(1, 1, 3), (1, 2, 3)]))[5].clone());
    assert_eq!(numbers(&parse(&more)), [6]);
    let mut unnumbered = ours;
    unnumbered[2] = "x".into();
    assert!(parse(&unnumbered).to_string().contains("line 3: it does not begin with the number"));
}

#[test]
fn wrong_lines_of_the_file_are_named() {
    let text = form(&[(1, 1, 7), (1, 2, 9)]).to_text();
    let with =
        |from: &str, to: &str| RecoveryForm::parse(&text.replacen(from, to, 1)).unwrap_err().to_string();
    assert!(with("keys 1", "keys 2").contains("version 2"));
    assert!(with("keys 1", "keys x").contains("line 1:"));
    assert!(with("repository ab", "repository xy").contains("line 4: 'repository' and its id"));
    assert!(with("master 1 0707", "master 1 070").contains("line 5: the key has 63 hex digits"));
    assert!(with("master 1 07", "master 1 xy").contains("line 5: the key holds other characters"));
    assert!(with("master 1", "wizard 1").contains("line 5: this class of key is not known"));
    assert!(with("master 2", "master 1").contains("line 6: this key was there already"));
    assert!(with("master 2", "master x").contains("line 6: the epoch is no number"));
    assert!(with("master 1 07", "master 1 08").contains("checksum over the whole form"));
    assert!(with("repository ab", "repository ac").contains("checksum over the whole form"));
    assert!(with("checksum", "sum").contains("line 7: 'checksum'"));
    let ends = |lines: usize| text.lines().take(lines).collect::<Vec<_>>().join("\n");
    assert!(RecoveryForm::parse(&ends(6)).unwrap_err().to_string().contains("line 6: 'checksum'"));
    assert!(RecoveryForm::parse(&ends(1)).unwrap_err().to_string().contains("ends too early"));
    for nothing in ["", "# only a remark", "hello", "\u{feff}"] {
        assert_eq!(RecoveryForm::parse(nothing).unwrap_err(), RecoveryError::NoForm);
    }
}

#[test]
fn errors_show_no_key() {
    let text = form(&[(1, 1, 0xcd)]).to_text();
    let bad = text.replace("cdcd\n", "cdcx\n");
    let error = RecoveryForm::parse(&bad).unwrap_err();
    assert!(!format!("{error} {error:?}").contains("cdcd"), "{error}");
}

#[test]
fn huge_forms_are_refused() {
    let error = RecoveryForm::parse(&"1 0\n".repeat(100_000)).unwrap_err();
    assert!(matches!(error, RecoveryError::Format(FormatError::OutOfBounds { .. })), "{error}");
    let count = u16::MAX.to_le_bytes();
    let mut bytes = [&VERSION.to_le_bytes()[..], &[1; 16], &count].concat();
    bytes.extend(checksum(&bytes));
    assert!(RecoveryForm::from_bytes(&bytes).is_err());
}

proptest! {
    #[test]
    fn both_forms_come_back(keys in prop::collection::btree_map((1u8..=6, any::<u32>()), any::<[u8; 32]>(), 1..40)) {
        let set = keys.iter().fold(KeySet::default(), |set, ((class, epoch), key)| {
            set.with(KeyClass::from_tag(*class).unwrap(), *epoch, Secret32::new(*key))
        });
        let form = RecoveryForm { repository: RepositoryId::random(), keys: set };
        prop_assert!(same(&RecoveryForm::parse(&form.to_text()).unwrap(), &form));
        prop_assert!(same(&RecoveryForm::parse(&form.to_paper()).unwrap(), &form));
    }

    #[test]
    fn nothing_typed_panics(text in "(copal-recovery-keys 1\n)?([ 0-9a-zA-Z:#.-]{0,40}\n){0,8}\\PC{0,40}") {
        let _ = RecoveryForm::parse(&text);
    }

    #[test]
    fn no_bytes_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        let _ = RecoveryForm::from_bytes(&bytes);
    }
}

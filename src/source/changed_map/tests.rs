use std::io::Read;

use super::*;

const SHIFT: u8 = 22;
const SPAN: u64 = 1 << SHIFT;

fn read(text: &str) -> Result<ChangedMap, MapError> {
    ChangedMap::read(text.as_bytes(), None, SHIFT)
}

#[track_caller]
fn spans(text: &str, expected: &[Range<u64>]) -> ChangedMap {
    let map = read(text).expect("a map");
    assert_eq!(map.spans(1 << 40).expect("within the source"), expected, "{text}");
    map
}

#[track_caller]
fn refused(text: &str, words: &str) {
    let error = read(text).expect_err(text).to_string();
    assert!(error.contains(words), "{text}: {error}");
}

#[test]
fn ranges_in_json() {
    let map = spans("[]", &[]);
    assert_eq!((map.base, map.target), (None, None));
    spans(r#" [{"offset":0,"length":1},{"length":2,"offset":4194303}]"#, &[0..2]);
    let rbd = r#"[{"offset":41943040,"length":4194304,"exists":"true"},{"offset":0,"length":4096,"exists":"false"}]"#;
    spans(rbd, &[0..1, 10..11]);
    spans(r#"[{"offset":0,"length":1,"exists":true},{"offset":4194304,"length":1,"exists":false}]"#, &[0..2]);
    spans(r#"[{"offset":8388608,"length":0}]"#, &[]);
    let object = r#"{"base":"a","target":"b","ranges":[{"offset":4194304,"length":4194305}]}"#;
    let map = spans(object, &[1..3]);
    assert_eq!((map.base.as_deref(), map.target.as_deref()), (Some("a"), Some("b")));
}

#[test]
fn what_is_no_list_of_ranges_is_refused() {
    refused("", "it is empty");
    refused(" \n", "it is empty");
    refused("offset,length", "neither as JSON nor as XML");
    refused("{}", "missing field `ranges`");
    refused(r#"{"ranges":{}}"#, "a list of ranges");
    refused(r#"{"ranges":[],"rangs":[]}"#, "unknown field `rangs`");
    refused("[1]", "invalid type");
    refused("[{}]", "missing field");
    refused(r#"[{"offset":0,"length":1}"#, "EOF");
    refused(r#"[{"offset":0,"length":1}] []"#, "trailing");
    refused(r#"[{"offset":-1,"length":1}]"#, "invalid value");
    refused(r#"[{"offset":0.5,"length":1}]"#, "invalid type");
    refused(r#"[{"offset":18446744073709551615,"length":1}]"#, "is on no disk");
    refused(r#"[{"offset":9223372036854775807,"length":1}]"#, "is on no disk");
    refused(r#"[{"offset":0,"length":1,"type":0}]"#, "unknown field `type`");
    refused(r#"[{"offset":0,"length":1,"exists":"maybe"}]"#, "\"exists\" is neither true nor false");
    refused(&format!(r#"{{"base":"{}","ranges":[]}}"#, "x".repeat(256)), "more than 255 bytes");
}

const HEAD: &str = r#"<?xml version="1.0"?><superblock uuid="" time="1" transaction="2" data_block_size="128" nr_data_blocks="9">"#;

fn delta(runs: &str) -> String {
    format!("{HEAD}\n  <diff left=\"4\" right=\"7\">\n{runs}\n  </diff>\n</superblock>\n")
}

#[test]
fn all_but_same_changed_in_a_delta() {
    // 64 blocks of 64 KiB are a span.
    let runs = r#"<different begin="0" length="64"/><same begin="64" length="64"/>
        <left_only begin="128" length="1"/><right_only begin="640" length="1"/>"#;
    let map = spans(&delta(runs), &[0..1, 2..3, 10..11]);
    assert_eq!((map.base.as_deref(), map.target.as_deref()), (Some("4"), Some("7")));
    let verbose = r#"<different><range begin="0" left_data_begin="9" right_data_begin="3" length="1"/>
        <range begin="64" left_data_begin="9" right_data_begin="3" length="1"/></different>
        <same><range begin="256" data_begin="2" length="9"/></same>
        <left_only><range begin="512" data_begin="2" length="1"/></left_only>"#;
    spans(&delta(verbose), &[0..2, 8..9]);
    spans(&delta(r#"<different begin="0" length="1"></different>"#), &[0..1]);
    spans(&delta(""), &[]);
    spans(&format!("{HEAD}<diff left=\"1\" right=\"2\"/></superblock>"), &[]);
}

#[test]
fn what_is_no_whole_delta_is_refused() {
    let whole = delta(r#"<different begin="0" length="64"/>"#);
    for cut in 1..whole.trim_end().len() {
        assert!(read(&whole[..cut]).is_err(), "{}", &whole[..cut]);
    }
    refused("<superblock data_block_size=\"128\"></superblock>", "ends before its delta does");
    refused("<diff left=\"1\" right=\"2\"></diff>", "out of place");
    refused("<superblock><diff/></superblock>", "no number \"data_block_size\"");
    refused("<superblock data_block_size=\"0\"/>", "0 sectors");
    refused("<superblock data_block_size=\"99999999\"/>", "99999999 sectors");
    refused(&delta("<device begin=\"0\" length=\"1\"/>"), "\"device\" is out of place");
    refused(&delta("<different begin=\"0\"/>"), "no number \"length\"");
    refused(&delta("<different begin=\"x\" length=\"1\"/>"), "no number \"begin\"");
    refused(&delta("<different></different>"), "names no blocks");
    refused(&delta("<same/>words"), "text between");
    refused(&delta("<different begin=\"18446744073709551615\" length=\"1\"/>"), "is on no disk");
    refused(&delta("<different begin=\"9007199254740992\" length=\"300000000000\"/>"), "is on no disk");
    refused(&delta("</diff>"), "");
    refused(&format!("{}{}", delta(""), delta("")), "");
}

#[test]
fn ranges_beyond_the_source_are_refused() {
    let map = read(r#"[{"offset":0,"length":5000}]"#).expect("a map");
    assert!(map.spans(5000).is_ok());
    assert!(matches!(map.spans(4999), Err(MapError::BeyondEnd { end: 5000, len: 4999 })));
    // The last block of a thin volume may be longer than the volume.
    let map = read(&delta(r#"<different begin="0" length="2"/>"#)).expect("a map");
    assert!(map.spans((1 << 17) - 512).is_ok() && map.spans((1 << 16) + 1).is_ok());
    assert!(map.spans(1 << 16).is_err());
}

#[test]
fn ranges_in_any_order_are_joined() {
    let ranges: Vec<String> =
        [5, 0, 9, 1, 5, 4].map(|span| format!(r#"{{"offset":{},"length":9}}"#, span * SPAN)).into();
    spans(&format!("[{}]", ranges.join(",")), &[0..2, 4..6, 9..10]);
}

#[test]
fn a_map_that_touches_too_much_is_refused() {
    let mut builder = Builder::new(SHIFT);
    let refused = (0..).find(|n: &u64| builder.add(n * 2 * SPAN, 1).is_err()).expect("it is refused");
    assert_eq!(refused as usize, MAX_RUNS);
    let mut builder = Builder::new(SHIFT);
    // The same places again and again cost nothing.
    for n in 0..3 * MAX_RUNS as u64 {
        builder.add((n * 7 % 1000) * 2 * SPAN, 1).expect("few places");
    }
    assert_eq!(builder.finish().expect("a map").spans.len(), 1000);
}

#[test]
fn a_map_that_is_too_long_is_refused() {
    let blanks = io::repeat(b' ').take(MAX_MAP);
    let map = io::BufReader::new(io::Cursor::new(b"[").chain(blanks).chain(io::Cursor::new(b"]")));
    assert!(matches!(ChangedMap::read(map, None, SHIFT), Err(MapError::TooLong)));
}

proptest::proptest! {
    #[test]
    fn nothing_panics_and_what_is_kept_covers_what_was_said(
        ranges in proptest::collection::vec((0_u64..1 << 34, 0_u64..1 << 26), 0..50),
        noise in proptest::collection::vec(proptest::prelude::any::<u8>(), 0..200),
        cut in 0_usize..2000,
    ) {
        let entries: Vec<String> =
            ranges.iter().map(|(offset, len)| format!(r#"{{"offset":{offset},"length":{len}}}"#)).collect();
        let text = format!("[{}]", entries.join(","));
        let map = read(&text).expect("a map");
        let spans = map.spans(1 << 40).expect("within the source");
        assert!(spans.windows(2).all(|pair| pair[0].end < pair[1].start));
        for (offset, len) in ranges.iter().filter(|(_, len)| *len > 0) {
            let needed = spans_of(&(*offset..offset + len), SHIFT);
            assert!(spans.iter().any(|kept| kept.start <= needed.start && needed.end <= kept.end));
        }
        for format in [None, Some(MapFormat::Json), Some(MapFormat::ThinDelta)] {
            let _ = ChangedMap::read(&noise[..], format, SHIFT);
            let broken = [&text.as_bytes()[..cut.min(text.len())], &noise[..]].concat();
            let _ = ChangedMap::read(&broken[..], format, SHIFT);
            let delta = delta(r#"<different begin="0" length="64"/>"#).into_bytes();
            let broken = [&delta[..cut.min(delta.len())], &noise[..], &delta[cut.min(delta.len())..]].concat();
            let _ = ChangedMap::read(&broken[..], format, SHIFT);
        }
    }
}

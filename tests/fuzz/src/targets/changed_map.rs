//! Maps of changed blocks, as storages write them.

use copal::source::{ChangedMap, MapFormat};

/// Small spans, so that many ranges stay apart.
const SPAN_SHIFT: u8 = 22;
/// Far beyond any image.
const FAR: u64 = 1 << 63;

/// The same bytes in the format that they show and in both formats.
pub(super) fn map(input: &[u8]) -> bool {
    let read = |format| ChangedMap::read(input, format, SPAN_SHIFT);
    let maps = [read(None), read(Some(MapFormat::Json)), read(Some(MapFormat::ThinDelta))];
    assert!(!(maps[1].is_ok() && maps[2].is_ok()), "nothing is both JSON and XML");
    for map in maps.iter().flatten() {
        let spans = map.spans(FAR).expect("every range is on some disk");
        assert!(spans.iter().all(|spans| spans.start < spans.end));
        assert!(spans.windows(2).all(|pair| pair[0].end < pair[1].start));
    }
    maps[0].is_ok()
}

pub(super) fn map_seeds() -> Vec<Vec<u8>> {
    let seeds = [
        r#"[{"offset":0,"length":4096},{"offset":4194304,"length":1,"exists":"false"}]"#,
        r#"{"base":"a","target":"b","ranges":[{"length":9,"offset":9999999}]}"#,
        r#"<superblock data_block_size="128"><diff left="1" right="2"><same begin="0" length="9"/><different begin="9" length="1"/></diff></superblock>"#,
        r#"<superblock data_block_size="128"><diff left="1" right="2"><left_only><range begin="64" data_begin="3" length="1"/></left_only></diff></superblock>"#,
    ];
    seeds.map(|seed| seed.as_bytes().to_vec()).into()
}

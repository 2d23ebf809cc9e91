//! Keys as text, in a file or typed from paper.

use copal::codec::keys::KeySet;
use copal::format::recovery::RecoveryForm;

use crate::samples::REPOSITORY;

pub(super) fn form(input: &[u8]) -> bool {
    let Ok(text) = std::str::from_utf8(input) else { return false };
    let Ok(form) = RecoveryForm::parse(text) else { return false };
    let (file, paper) = (form.to_text(), form.to_paper());
    for again in [&file, &paper] {
        let again = RecoveryForm::parse(again).expect("what is printed can be read");
        assert_eq!(again.repository, form.repository);
        assert!(again.keys.iter().eq(form.keys.iter()));
    }
    true
}

pub(super) fn form_seeds() -> Vec<Vec<u8>> {
    let form = RecoveryForm { repository: REPOSITORY, keys: KeySet::public(&REPOSITORY) };
    vec![form.to_text().as_bytes().to_vec(), form.to_paper().as_bytes().to_vec()]
}

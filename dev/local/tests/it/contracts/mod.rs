//! The contracts with those outside, as snapshots: every kind of answer, every problem, the event,
//! and the lines that operators read. One member too many or too few fails a test.
//!
//! After a wanted change: `INSTA_UPDATE=always cargo test --workspace --test it -- contracts`, then
//! read the difference. Without that variable a snapshot that is missing or differs is a failure.

mod answers;
mod problems;
mod record;
mod streaming;
mod telemetry;

use std::{collections::BTreeSet, fs, io, path::Path};

use record::{Record, assert_recorded};

/// Promise: each snapshot is one that a test compares with, so that none is left behind.
#[test]
fn no_snapshot_is_left_behind() -> io::Result<()> {
    let tests = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/it");
    let mut compared = BTreeSet::new();
    for file in fs::read_dir(tests.join("contracts"))? {
        let text = fs::read_to_string(file?.path())?;
        let names = text.split("    assert_recorded!(\"").skip(1).filter_map(|rest| rest.split('"').next());
        compared.extend(names.map(|name| format!("{name}.snap")));
    }
    let kept = fs::read_dir(tests.join("snapshots"))?;
    let kept = kept.map(|file| Ok(file?.file_name().to_string_lossy().into_owned())).collect::<io::Result<Vec<_>>>()?;
    let kept: BTreeSet<_> = kept.into_iter().filter(|name| !name.contains(".new")).collect();
    assert_eq!(kept, compared);
    Ok(())
}

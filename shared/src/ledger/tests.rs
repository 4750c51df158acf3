//! What reading the table makes of names and of answers that are not whole.

use super::*;

/// An entry's key is what stands behind the first mark, whatever it holds.
#[test]
fn the_mark_of_an_entry_is_taken_off_once() {
    for (sort_key, key) in [("ENTRY#a", "a"), ("ENTRY#ENTRY#a", "ENTRY#a"), ("ENTRY#", "")] {
        assert_eq!(key_of_entry(sort_key), key);
    }
}

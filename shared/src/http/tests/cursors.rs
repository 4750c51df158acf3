//! Cursors.

use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use proptest::prelude::*;

use super::*;
use crate::model::tenant::TenantId;

fn tenant(id: &str) -> TenantId {
    id.parse().unwrap()
}

const HISTORY: CursorKind<'_> = CursorKind::History("param_config_a");

/// A cursor gives back the position that it was made for, and does not show it.
#[test]
fn a_cursor_leads_back_to_its_position() {
    let acme = tenant("acme");
    for (kind, position) in [
        (CursorKind::List(""), "tenant_config_limits"),
        (CursorKind::List("param_config_db/"), "param_config_db/primary/host"),
        (CursorKind::List("param_config_db/"), "param_config_db/"),
        (HISTORY, "1"),
        (HISTORY, "1000000000000000000"),
    ] {
        let cursor = Cursor { tenant: &acme, kind };
        let text = cursor.at(position);
        assert_eq!(cursor.position(&text).unwrap(), position);
        assert!(text.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_')), "{text}");
    }
}

/// A cursor is of use with the tenant, the route and the query that it came with, and with no
/// other.
#[test]
fn a_cursor_fits_its_own_query_only() {
    let (acme, upper, longer) = (tenant("acme"), tenant("Acme"), tenant("acme1"));
    let cursors = [
        Cursor { tenant: &acme, kind: CursorKind::List("") },
        Cursor { tenant: &upper, kind: CursorKind::List("") },
        Cursor { tenant: &longer, kind: CursorKind::List("") },
        Cursor { tenant: &acme, kind: CursorKind::List("1") },
        Cursor { tenant: &acme, kind: CursorKind::List("12") },
        Cursor { tenant: &acme, kind: CursorKind::History("1") },
        Cursor { tenant: &acme, kind: CursorKind::History("12") },
        Cursor { tenant: &longer, kind: CursorKind::History("1") },
    ];
    // A position that all of them could be at.
    let position = "123";
    for (made, maker) in cursors.iter().enumerate() {
        for (used, user) in cursors.iter().enumerate() {
            let result = user.position(&maker.at(position));
            if made == used {
                assert_eq!(result.unwrap(), position);
            } else {
                assert!(
                    refusal(result).starts_with("400 invalid-parameter: the cursor does not belong"),
                    "{made} as {used}"
                );
            }
        }
    }
}

/// Parts of what a cursor is bound to do not run into each other, wherever the one ends and the
/// next begins.
#[test]
fn the_parts_of_a_cursor_are_kept_apart() {
    let bound = |tenant: &TenantId, prefix: &str, position: &str| {
        let text = Cursor { tenant, kind: CursorKind::List(prefix) }.at(position);
        let decoded = BASE64_URL_SAFE_NO_PAD.decode(text).unwrap();
        String::from_utf8(decoded).unwrap()[..16].to_owned()
    };
    let (a, ab) = (tenant("a"), tenant("ab"));
    let checks = [
        bound(&a, "x", "bxy"),
        bound(&ab, "x", "xy"),
        bound(&a, "xa", "xy"),
        bound(&a, "xab", "xy"),
        bound(&a, "", "xbxy"),
    ];
    for (index, check) in checks.iter().enumerate() {
        assert!(!checks[..index].contains(check), "{checks:?}");
    }
}

/// What was changed on the way is refused: every single character counts.
#[test]
fn tampered_cursors_are_refused() {
    let acme = tenant("acme");
    let cursor = Cursor { tenant: &acme, kind: CursorKind::List("tenant_config_") };
    let good = cursor.at("tenant_config_limits");
    let mut bad: Vec<String> = ["", "A", "=", "a b", "%%%", "null", "ä", "0", "////"].map(str::to_owned).to_vec();
    bad.extend((0..good.len()).map(|length| good[..length].to_owned()));
    bad.extend((0..good.len()).flat_map(|at| {
        ["A", "B", ""]
            .map(|other| format!("{}{other}{}", &good[..at], &good[at + 1..]))
            .into_iter()
            .filter(|text| *text != good)
    }));
    bad.extend(["=", "A", "AA", "AAAA", "\n", "\0"].map(|tail| format!("{good}{tail}")));
    bad.push(BASE64_URL_SAFE_NO_PAD.encode("0123456789abcdef"));
    bad.push(BASE64_URL_SAFE_NO_PAD.encode("0123456789abcdeftenant_config_limits"));
    bad.push(BASE64_URL_SAFE_NO_PAD.encode("0123456789abcdé"));
    bad.push(BASE64_URL_SAFE_NO_PAD.encode([0xff; 20]));
    for text in bad {
        assert!(refusal(cursor.position(&text)).starts_with("400 invalid-parameter: the cursor"), "{text}");
    }
}

/// The check needs no secret, so anyone can compute one; a position that the query cannot have
/// ended at is refused all the same, before a store fails on it.
#[test]
fn a_forged_position_stays_within_the_query() {
    let acme = tenant("acme");
    let long = "k".repeat(2_000);
    for (kind, position) in [
        (CursorKind::List("param_config_"), "tenant_config_a"),
        (CursorKind::List("param_config_"), "param_config"),
        (CursorKind::List("param_config_"), ""),
        (CursorKind::List(""), "a#b"),
        (CursorKind::List(""), "a\0"),
        (CursorKind::List(""), long.as_str()),
        (HISTORY, ""),
        (HISTORY, "0"),
        (HISTORY, "01"),
        (HISTORY, "-1"),
        (HISTORY, "x"),
        (HISTORY, "18446744073709551615"),
    ] {
        let cursor = Cursor { tenant: &acme, kind };
        assert!(
            refusal(cursor.position(&cursor.at(position))).starts_with("400 invalid-parameter: "),
            "{kind:?} {position:.40}"
        );
    }
}

proptest! {
    /// No text makes reading a cursor panic, or passes for one.
    #[test]
    fn no_text_passes_for_a_cursor(text in "\\PC{0,60}|[A-Za-z0-9_-]{0,60}", position in "[a-z0-9/_.-]{0,40}") {
        let acme = tenant("acme");
        let cursor = Cursor { tenant: &acme, kind: CursorKind::List("") };
        prop_assert_eq!(shown(cursor.position(&text).unwrap_err()).0, 400);
        prop_assert_eq!(cursor.position(&cursor.at(&position)).unwrap(), position);
    }
}

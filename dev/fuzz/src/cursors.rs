//! Cursors: one tenant's never opens anything for another, nor for another route or query.

use tenantry::{
    http::{Cursor, CursorKind, Problem},
    model::{key::is_key_prefix, tenant::TenantId},
};

use crate::{Outcome, assert_blames_the_request};

/// The input as lines: a tenant, another tenant, what is paged through, another such, a position;
/// the rest is a cursor.
pub fn check(input: &[u8]) -> Outcome {
    let text = String::from_utf8_lossy(input);
    let mut lines = text.splitn(6, '\n');
    let mut line = || lines.next().unwrap_or_default();
    let (ours, theirs, of, other, position, cursor) = (line(), line(), line(), line(), line(), line());
    let ours: TenantId = ours.parse().unwrap_or_else(|_| tenant("acme"));
    let theirs: TenantId = theirs.parse().unwrap_or_else(|_| tenant("globex"));

    let places = [CursorKind::List(of), CursorKind::History(of), CursorKind::List(other), CursorKind::History(other)];
    for made_at in places {
        let own = Cursor { tenant: &ours, kind: made_at };
        let made = own.at(position);
        assert!(made.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_".contains(&b)), "{made} needs encoding");
        if can_end_at(made_at, position) {
            assert_eq!(own.position(&made).ok().as_deref(), Some(position));
        } else {
            assert_refused(own.position(&made), &made);
        }
        opens_nothing_elsewhere(&made, &ours, &theirs, made_at, &places);
        for changed in one_byte_changes(&made) {
            assert_refused(own.position(&changed), &changed);
        }
    }

    let mut outcome = Outcome::Refused;
    for read_at in places {
        let own = Cursor { tenant: &ours, kind: read_at };
        match own.position(cursor) {
            Ok(position) => {
                assert_eq!(own.at(&position), cursor, "a second spelling of one cursor");
                assert!(can_end_at(read_at, &position), "no page of {read_at:?} ends at {position:?}");
                opens_nothing_elsewhere(cursor, &ours, &theirs, read_at, &places);
                outcome = Outcome::Accepted;
            }
            Err(problem) => assert_blames_the_request(problem),
        }
    }
    outcome
}

/// A list ends at a key that it lists, a history at a version; a cursor for anything else was
/// computed by somebody else.
fn can_end_at(kind: CursorKind<'_>, position: &str) -> bool {
    match kind {
        CursorKind::List(prefix) => position.starts_with(prefix) && is_key_prefix(position),
        CursorKind::History(_) => {
            let version = position.parse::<u64>().ok().filter(|version| version.to_string() == position);
            version.is_some_and(|version| (1..=1_000_000_000_000_000_000).contains(&version))
        }
    }
}

fn opens_nothing_elsewhere(
    cursor: &str,
    ours: &TenantId,
    theirs: &TenantId,
    made_at: CursorKind<'_>,
    places: &[CursorKind<'_>],
) {
    for kind in places {
        for tenant in [ours, theirs] {
            if (tenant, name(*kind)) != (ours, name(made_at)) {
                assert_refused(Cursor { tenant, kind: *kind }.position(cursor), cursor);
            }
        }
    }
}

fn assert_refused(position: Result<String, Problem>, cursor: &str) {
    match position {
        Ok(position) => panic!("the cursor {cursor} opened {position:?} where it does not belong"),
        Err(problem) => assert_blames_the_request(problem),
    }
}

/// The cursor with one byte changed, at its beginning, in its middle and at its end.
fn one_byte_changes(cursor: &str) -> impl Iterator<Item = String> {
    [0, cursor.len() / 2, cursor.len() - 1].into_iter().map(|place| {
        let other = if cursor.as_bytes()[place] == b'A' { "B" } else { "A" };
        let mut changed = cursor.to_owned();
        changed.replace_range(place..=place, other);
        changed
    })
}

fn name(kind: CursorKind<'_>) -> (&'static str, &str) {
    match kind {
        CursorKind::List(prefix) => ("list", prefix),
        CursorKind::History(key) => ("history", key),
    }
}

fn tenant(name: &str) -> TenantId {
    name.parse().expect("a tenant id")
}

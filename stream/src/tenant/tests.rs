//! What a tenant in memory promises by itself.

use tenantry::model::entry::CommitId;

use super::*;

fn position(revision: u64) -> Position {
    Position { revision: Revision::new(revision), commit: Some(CommitId::from_stored(&revision.to_string())) }
}

fn commits(revisions: std::ops::RangeInclusive<u64>) -> Vec<Commit> {
    let at = Timestamp::from_millis(0);
    revisions.map(|revision| Commit { position: position(revision), at, changes: Vec::new() }).collect()
}

fn tenant(revision: u64) -> Tenant {
    let tenant = Tenant::default();
    tenant.put(LoadedTenant {
        position: position(revision),
        pages: Pages::of([]),
        validated_at: Timestamp::from_millis(1),
        lacks_secrets: false,
        lacks_values: false,
        is_restored: false,
    });
    tenant
}

/// Promise: memory passes for the newest only as of when all that there was had been read.
#[test]
fn a_part_of_the_commits_is_not_the_newest() {
    let (tenant, asked) = (tenant(1), Timestamp::from_millis(9));
    let validated_at = || tenant.inspect(|loaded, _| loaded.validated_at.millis());
    assert!(tenant.advance(commits(2..=3), None));
    assert_eq!(validated_at(), Some(1));
    assert!(tenant.advance(commits(4..=4), Some(asked)));
    assert_eq!((validated_at(), tenant.inspect(|loaded, _| loaded.position.revision.get())), (Some(9), Some(4)));
}

/// Promise: an advertised revision is forgotten only if it is the one that the stores were asked about.
#[test]
fn a_later_advertised_revision_stays() {
    let tenant = tenant(1);
    tenant.advertise(2);
    let advertised = tenant.advertised_revision();
    tenant.advertise(3);
    tenant.clear_advertised(advertised);
    assert!(tenant.is_behind());
    tenant.clear_advertised(3);
    assert!(!tenant.is_behind());
}

/// Promise: what happened before the log begins is fetched once for all who come back; if it has no
/// room there, not once more.
#[test]
fn the_log_reaches_back_once() {
    let tenant = tenant(10);
    tenant.state().group = Some(Box::new(WatchGroup::at(position(10), Timestamp::from_millis(0))));
    let lacks = |revision| tenant.lacks_before(&position(revision)).map(|(lacks, _)| lacks);
    assert_eq!((lacks(6), tenant.attach(&position(6))), (Some(4), Attached::Before));
    tenant.prepend(&position(6), commits(7..=10));
    assert!(matches!(tenant.attach(&position(6)), Attached::At(_)));
    assert_eq!((lacks(6), lacks(5)), (None, Some(1)));
    let unknown = Position { commit: None, ..position(5) };
    assert!(tenant.lacks_before(&unknown).is_none());
    // They do not lead to where the log begins.
    tenant.prepend(&position(4), commits(5..=5));
    assert_eq!((lacks(5), tenant.attach(&position(5))), (None, Attached::Before));
}

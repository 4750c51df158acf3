//! Compares the stores with the ledgers, a page at a time, so that changes without an event are
//! found as well.
//!
//! First all parameters, by names, versions and times. One that the ledger has not imported up to
//! its newest version is imported. Then the entries of all tenants that have parameters: one whose
//! parameter is gone, or not imported that far, is imported as well. Then from the beginning.
//!
//! The first half continues by a token of Parameter Store's. Nothing says how long it stays valid;
//! if it is refused, that half ends there. Keys that the ledger knows do not depend on it, because
//! the second half asks for them by name. New parameters do.

use std::collections::{HashMap, VecDeque};

use futures_util::{StreamExt as _, stream};
use tokio::time::Instant;
use tracing::{info, warn};

use crate::{
    auth::{SystemAuthority, TenantScope},
    aws::AwsFailure,
    backend::WriteBackend,
    clock::Clock,
    import::{Imported, import_all},
    ledger::{Current, Cursor, Ledger, LedgerError},
    model::{
        entry::{Entry, Locator},
        key::ConfigKey,
        refusal::RefusalReason,
        tenant::TenantId,
    },
    outbox::{
        AT_ONCE, ITEM_BUDGET,
        replicate::{Occasion, replicate},
    },
    store::MAX_DESCRIBED,
    telemetry::{self, Round, SweepReport},
};

/// How many pages one run compares. A page is at most [`MAX_DESCRIBED`] parameters, or as many
/// entries out of at most [`MAX_TENANTS`] tenants that have parameters. With a run every minute
/// that is 1,000 a minute. It takes one request to Parameter Store every three seconds on average,
/// and one for each key that differs, two if it is a secret. The limit of 40 a second, which the
/// whole account and region share, is left to readers.
const PAGES: usize = 20;
/// How many tenants are read for one page of entries.
const MAX_TENANTS: usize = 50;
/// How many keys of one tenant are imported together: so few that there is time for all when their
/// store is slow.
const TOGETHER: usize = 10;

#[derive(Debug, thiserror::Error)]
pub(crate) enum ReconcileError {
    #[error(transparent)]
    Ledger(#[from] LedgerError),
    #[error(transparent)]
    Aws(#[from] AwsFailure),
}

/// Compares the stores with the ledgers.
pub(crate) struct Reconciler<'a> {
    pub(crate) backend: &'a WriteBackend,
    pub(crate) clock: &'a Clock,
    pub(crate) authority: &'a SystemAuthority,
    /// The time after which it begins nothing more.
    pub(crate) give_up_at: Instant,
}

/// What a page came to: the keys to import, and where the next page begins.
struct Page {
    compared: usize,
    counted: Round,
    differ: Vec<(TenantId, ConfigKey)>,
    next: Cursor,
}

impl Reconciler<'_> {
    /// Continues where the last run stopped. A key that could not be imported is compared again in
    /// the next round.
    pub(crate) async fn run(&self) -> Result<SweepReport, ReconcileError> {
        let ledger = &self.backend.ledger;
        let (mut cursor, mut round) = ledger.reconciled(self.authority).await?;
        let mut all = SweepReport::default();
        for _ in 0..PAGES {
            if Instant::now() >= self.give_up_at {
                break;
            }
            let page = match cursor {
                Cursor::Begin => {
                    round = Round::default();
                    self.parameters(None).await?
                }
                Cursor::Parameters { token } => self.parameters(Some(token)).await?,
                Cursor::Entries { shard, tenant, key } => self.entries(shard, tenant, key).await?,
            };
            all.compared += page.compared;
            if !self.import_all(page.differ, &mut all).await {
                // The page is compared again. What was imported by now does not differ any more.
                break;
            }
            cursor = page.next;
            round = round + page.counted;
            ledger.note_reconciled(self.authority, &cursor, &round).await?;
            if cursor == Cursor::Begin {
                telemetry::note_round(round);
                // One round is enough for a run.
                break;
            }
        }
        Ok(all)
    }

    async fn parameters(&self, token: Option<String>) -> Result<Page, ReconcileError> {
        let page = self.backend.inventory.page(self.authority, token).await?;
        let compared = page.parameters.len();
        let counted = Round { parameters: compared, is_cut: page.is_cut, ..Round::default() };
        let mut tenants: HashMap<TenantId, Vec<(ConfigKey, Locator)>> = HashMap::new();
        for (name, place) in page.parameters {
            match self.backend.inventory.key_of(&self.backend.routes, &name) {
                Ok((tenant, key)) => tenants.entry(tenant).or_default().push((key, place)),
                Err(reason) => info!(name, %reason, "a parameter is left alone"),
            }
        }
        let mut differ = Vec::new();
        for (tenant, found) in tenants {
            let scope = self.authority.act_for(tenant.clone());
            let keys: Vec<_> = found.iter().map(|(key, _)| key.clone()).collect();
            let currents = self.backend.ledger.currents(&scope, &keys).await?;
            let known = currents.into_iter().zip(found);
            let unseen = known.filter(|((_, current), (_, place))| current.replica.imported_through != Some(*place));
            differ.extend(unseen.map(|((key, _), _)| (tenant.clone(), key)));
        }
        let entries = Cursor::Entries { shard: 0, tenant: None, key: None };
        let next = page.next.map_or(entries, |token| Cursor::Parameters { token });
        Ok(Page { compared, counted, differ, next })
    }

    /// Entries after a tenant's key, of this tenant and the next ones.
    async fn entries(
        &self,
        mut shard: u32,
        tenant: Option<String>,
        mut key: Option<String>,
    ) -> Result<Page, ReconcileError> {
        let ledger = &self.backend.ledger;
        let mut tenant: Option<TenantId> = tenant.and_then(|tenant| tenant.parse().ok());
        let mut waiting = VecDeque::new();
        let mut counted = Round::default();
        let mut expected = Vec::new();
        let mut next = None;
        for _ in 0..MAX_TENANTS {
            // Without a key, all entries of the tenant are done.
            if key.is_none() {
                if waiting.is_empty() {
                    waiting.extend(ledger.tenants_with_parameters(self.authority, shard, tenant.as_ref()).await?);
                }
                tenant = waiting.pop_front();
            }
            let Some(of) = tenant.clone() else {
                shard += 1;
                if !Ledger::shards().contains(&shard) {
                    next = Some(Cursor::Begin);
                    break;
                }
                continue;
            };
            let scope = self.authority.act_for(of.clone());
            let left = MAX_DESCRIBED - expected.len();
            let (entries, last) = ledger.entries_after(&scope, key.as_deref(), left).await?;
            let is_refused = |current: &Current| current.entry.as_ref().is_some_and(|entry| entry.refusal.is_some());
            let has_store = |key| self.backend.stores.of(key).external().is_some();
            counted.refused += entries.iter().filter(|(key, current)| has_store(key) && is_refused(current)).count();
            let wanted = entries.into_iter().filter(|(key, current)| self.is_expected(key, current));
            let wanted = wanted.map(|(key, current)| ((of.clone(), key), current.replica.imported_through));
            expected.extend(wanted);
            key = last;
            if expected.len() == MAX_DESCRIBED || Instant::now() >= self.give_up_at {
                break;
            }
        }
        let compared = expected.len();
        let (keys, seen): (Vec<_>, Vec<_>) = expected.into_iter().unzip();
        let mut differ = Vec::new();
        if !keys.is_empty() {
            let places = self.backend.inventory.places(self.authority, &keys).await?;
            let known = keys.into_iter().zip(seen.into_iter().zip(places));
            differ.extend(known.filter(|(_, (seen, place))| place.is_none() || seen != place).map(|(key, _)| key));
        }
        let on = Cursor::Entries { shard, tenant: tenant.map(|tenant| tenant.to_string()), key };
        Ok(Page { compared, counted, differ, next: next.unwrap_or(on) })
    }

    /// Whether the key must have a parameter.
    fn is_expected(&self, key: &ConfigKey, current: &Current) -> bool {
        let has_store = self.backend.stores.of(key).external().is_some();
        has_store && current.replica.store_version.is_some() && current.entry.as_ref().is_some_and(Entry::is_live)
    }

    /// Imports keys, some at a time and those of one tenant together; a failure holds up no other
    /// key. Whether there was time for all.
    async fn import_all(&self, mut differ: Vec<(TenantId, ConfigKey)>, all: &mut SweepReport) -> bool {
        // So that a page gets done in time although its first keys take all of one run's.
        fastrand::shuffle(&mut differ);
        let wanted = differ.len();
        let mut tenants: HashMap<TenantId, Vec<ConfigKey>> = HashMap::new();
        for (tenant, key) in differ {
            tenants.entry(tenant).or_default().push(key);
        }
        let mut together = Vec::new();
        for (tenant, keys) in tenants {
            together.extend(keys.chunks(TOGETHER).map(|some| (tenant.clone(), some.to_vec())));
        }
        let in_time = |_: &_| std::future::ready(Instant::now() < self.give_up_at);
        let importing = stream::iter(together).take_while(in_time);
        let importing = importing.map(|(tenant, keys)| self.import_some(tenant, keys));
        let done: Vec<_> = importing.buffer_unordered(AT_ONCE).collect().await;
        for one in done.iter().flatten() {
            match one {
                Some(committed) => all.imported += committed,
                None => all.failed += 1,
            }
        }
        done.iter().map(Vec::len).sum::<usize>() == wanted
    }

    /// How much was committed of each key of a tenant; none if it failed. All of them have the time
    /// of one item, so that the run ends in time.
    async fn import_some(&self, tenant: TenantId, keys: Vec<ConfigKey>) -> Vec<Option<usize>> {
        let scope = self.authority.act_for(tenant);
        let failed = |key: &ConfigKey, error: String| {
            warn!(tenant.id = %scope.tenant(), config.key = %key, error, "a key could not be imported");
            None
        };
        let end = Instant::now() + ITEM_BUDGET;
        let importing = import_all(self.backend, self.clock, &scope, &keys);
        let imported = match tokio::time::timeout_at(end, importing).await {
            Ok(imported) => imported,
            Err(late) => return keys.iter().map(|key| failed(key, late.to_string())).collect(),
        };
        let mut done = Vec::with_capacity(keys.len());
        for (key, imported) in keys.iter().zip(imported) {
            let put_back = async {
                let imported = imported.map_err(|error| error.to_string())?;
                self.put_back(&scope, key, imported).await.map(|()| imported.committed)
            };
            let put_back = tokio::time::timeout_at(end, put_back).await.unwrap_or_else(|late| Err(late.to_string()));
            done.push(put_back.map_or_else(|error| failed(key, error), Some));
        }
        done
    }

    /// Replicates a refused key if its store may take it now.
    async fn put_back(&self, scope: &TenantScope, key: &ConfigKey, imported: Imported) -> Result<(), String> {
        let is_worth_it = match imported.refused {
            Some(reason) => imported.committed > 0 || self.is_out_of_the_way(scope, key, reason).await,
            None => false,
        };
        if is_worth_it {
            let replicating = replicate(self.backend, self.clock, scope, key, Occasion::Due);
            replicating.await.map_err(|error| error.to_string())?;
        }
        Ok(())
    }

    /// Whether the store can be seen to take a value now that it has refused. If that cannot be
    /// seen, the put is not tried in each round: the key is due now and then, and an event has it
    /// tried at once.
    async fn is_out_of_the_way(&self, scope: &TenantScope, key: &ConfigKey, reason: RefusalReason) -> bool {
        let Some((external, _)) = self.backend.stores.of(key).external().filter(|_| reason.can_be_seen()) else {
            return false;
        };
        matches!(external.in_the_way(scope, key).await, Ok(None))
    }
}

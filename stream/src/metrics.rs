//! What the service counts, for Prometheus (the `OpenMetrics` text format).

use std::sync::atomic::{AtomicI64, AtomicU64};

use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{counter::Counter, family::Family, gauge::Gauge, histogram::Histogram},
    registry::Registry,
};
use tenantry::{clock::Timestamp, tail::Commit};
use tonic::Code;

/// A method and the gRPC status code, as a number, that its calls ended with.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct Ended {
    /// The method, such as `GetConfig`.
    pub method: &'static str,
    /// The code, 0 for OK.
    pub code: i64,
}

/// The counters and gauges.
#[derive(Debug)]
pub struct Metrics {
    /// Calls by how they ended; watches when they end.
    pub calls: Family<Ended, Counter>,
    /// Watches that are open.
    pub watchers: Gauge<i64, AtomicI64>,
    /// Tenants in memory, watched or not.
    pub tenants: Gauge<i64, AtomicI64>,
    /// Bytes that tenants take.
    pub bytes: Gauge<i64, AtomicI64>,
    /// How long ago the last complete look began at that shard of the index that was not looked at
    /// for longest, in seconds.
    pub poll_age: Gauge<f64, AtomicU64>,
    /// Looks at a shard of the index that failed.
    pub failed_polls: Counter<u64, AtomicU64>,
    /// Changes that the index listed, those known already among them.
    pub listed: Counter<u64, AtomicU64>,
    /// Commits that memory was led on by.
    pub commits: Counter<u64, AtomicU64>,
    /// Tenants that were read as a whole.
    pub loads: Counter<u64, AtomicU64>,
    /// Tenants that could not be brought after.
    pub failures: Counter<u64, AtomicU64>,
    /// Hints that came.
    pub hints: Counter<u64, AtomicU64>,
    /// Watchers that were told of several commits at once because they were too slow.
    pub conflated: Counter<u64, AtomicU64>,
    /// How old commits of watched tenants were when they came to memory, by the clock of whoever
    /// committed them, in seconds.
    pub lag: Histogram,
}

impl Default for Metrics {
    fn default() -> Self {
        Self {
            calls: Family::default(),
            watchers: Gauge::default(),
            tenants: Gauge::default(),
            bytes: Gauge::default(),
            poll_age: Gauge::default(),
            failed_polls: Counter::default(),
            listed: Counter::default(),
            commits: Counter::default(),
            loads: Counter::default(),
            failures: Counter::default(),
            hints: Counter::default(),
            conflated: Counter::default(),
            lag: Histogram::new([0.05, 0.1, 0.25, 0.5, 1.0, 2.0, 5.0, 10.0, 60.0]),
        }
    }
}

impl Metrics {
    /// Counts a call that has ended.
    pub fn note_call(&self, method: &'static str, code: Code) {
        self.calls.get_or_create(&Ended { method, code: code as i64 }).inc();
    }

    /// Counts commits that memory is led on by. Those are late for somebody that came while the
    /// tenant was watched; others were waited for by nobody.
    pub fn note_commits(&self, commits: &[Commit], watched_since: Option<Timestamp>, now: Timestamp) {
        self.commits.inc_by(commits.len() as u64);
        let Some(since) = watched_since else { return };
        for commit in commits.iter().filter(|commit| commit.at >= since) {
            self.lag.observe(now.since(commit.at).as_secs_f64());
        }
    }

    /// All of them, under their names.
    pub fn registry(&self) -> Registry {
        let mut registry = Registry::with_prefix("tenantry_stream");
        registry.register("calls", "Calls that have ended, by method and gRPC status code", self.calls.clone());
        registry.register("watchers", "Watches that are open", self.watchers.clone());
        registry.register("tenants", "Tenants in memory", self.tenants.clone());
        registry.register("memory_bytes", "Bytes that tenants take in memory", self.bytes.clone());
        registry.register(
            "index_poll_age_seconds",
            "Age of the oldest shard's last complete look",
            self.poll_age.clone(),
        );
        registry.register("failed_polls", "Looks at a shard of the index that failed", self.failed_polls.clone());
        registry.register("listed_changes", "Changes that the index listed", self.listed.clone());
        registry.register("commits", "Commits that tenants in memory were led on by", self.commits.clone());
        registry.register("loads", "Tenants that were read as a whole", self.loads.clone());
        registry.register("catch_up_failures", "Tenants that could not be brought after", self.failures.clone());
        registry.register("hints", "Hints that came from the queue", self.hints.clone());
        registry.register("conflated_updates", "Updates of several commits, for slow watchers", self.conflated.clone());
        registry.register(
            "commit_lag_seconds",
            "Age of commits of watched tenants when they came to memory",
            self.lag.clone(),
        );
        registry
    }
}

//! What was measured, as tables, and the limits that hold.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
};

use serde::Deserialize;

/// The most processor time of a unary read in `--check`, as a multiple of the bare service's. The
/// goal is 1.1; the rest is what a short run on a busy machine may be wrong by.
const CPU_LIMIT: f64 = 1.3;
/// The most memory of a tenant, as a multiple of the bytes of its keys and values. The goal is 1.25
/// for tenants that nobody watches and keys of 64 bytes, and allows for what the allocator does.
const MEMORY_LIMIT: f64 = 1.35;
/// Keys of which length that limit is for.
const LIMITED_KEY_BYTES: u32 = 64;

/// Everything.
#[derive(Debug)]
pub(crate) struct Report {
    /// The machine's load before the run.
    pub(crate) load: f64,
    pub(crate) unary: Vec<Unary>,
    pub(crate) fan_out: Vec<FanOut>,
    pub(crate) memory: Vec<Memory>,
    pub(crate) idle: Option<Idle>,
}

/// The median and the quartiles of some rounds.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Quartiles {
    pub(crate) first: f64,
    pub(crate) median: f64,
    pub(crate) third: f64,
}

impl Quartiles {
    pub(crate) fn of(values: &[f64]) -> Self {
        let mut values = values.to_vec();
        values.sort_by(f64::total_cmp);
        let at = |quarter: usize| {
            let place = (values.len() * quarter).div_ceil(4).saturating_sub(1);
            values.get(place).copied().unwrap_or_default()
        };
        Self { first: at(1), median: at(2), third: at(3) }
    }
}

impl fmt::Display for Quartiles {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:.1} ({:.1} to {:.1})", self.median, self.first, self.third)
    }
}

/// Unary reads of one server.
#[derive(Debug)]
pub(crate) struct Unary {
    pub(crate) name: String,
    pub(crate) connections: u32,
    /// Processor time of the server's process for each request.
    pub(crate) cpu_micros: Quartiles,
    pub(crate) requests_per_second: Quartiles,
}

/// Commits that one server told its watchers of. Times in milliseconds.
#[derive(Debug)]
pub(crate) struct FanOut {
    pub(crate) name: String,
    pub(crate) first_to_last: Quartiles,
    pub(crate) begin_to_first: Quartiles,
    pub(crate) begin_to_last: Quartiles,
    pub(crate) answer_to_last: Quartiles,
    pub(crate) cpu: Quartiles,
    pub(crate) kib_a_watcher: f64,
}

/// Tenants in the memory of one process, as `stream-memory` says.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Memory {
    pub(crate) tenants: u32,
    pub(crate) watched: u32,
    pub(crate) key_bytes: u32,
    /// Bytes of keys and values of one tenant.
    pub(crate) payload_bytes: f64,
    /// What a tenant added to the resident set.
    pub(crate) resident_bytes: f64,
    /// What being watched added to that, for each of those.
    pub(crate) watched_bytes: f64,
    /// What the service itself takes a tenant for.
    pub(crate) weight_bytes: f64,
}

/// Calls of the AWS services while nobody asks for anything.
#[derive(Debug)]
pub(crate) struct Idle {
    pub(crate) tenants: u32,
    pub(crate) seconds: u64,
    /// With no tenant in memory.
    pub(crate) empty: BTreeMap<String, u64>,
    /// With some.
    pub(crate) known: BTreeMap<String, u64>,
}

impl Report {
    /// The limits that were passed. Ratios only: they differ little between machines.
    pub(crate) fn passed_limits(&self) -> Vec<String> {
        let mut passed = Vec::new();
        for ours in self.unary.iter().filter(|unary| unary.name == "config-stream") {
            let connections = ours.connections;
            if let Some(ratio) = self.unary_ratio(ours, "bare tonic").filter(|ratio| *ratio > CPU_LIMIT) {
                passed.push(format!(
                    "{connections} connections: {ratio:.2} × the processor time of bare tonic; at most {CPU_LIMIT}"
                ));
            }
        }
        for memory in self.memory.iter().filter(|memory| memory.key_bytes == LIMITED_KEY_BYTES) {
            let ratio = memory.resident_bytes / memory.payload_bytes;
            if ratio > MEMORY_LIMIT {
                passed.push(format!("a tenant takes {ratio:.2} × its keys and values; at most {MEMORY_LIMIT}"));
            }
        }
        passed
    }

    /// The processor time as a multiple of that of the server of this name.
    fn unary_ratio(&self, ours: &Unary, yardstick: &str) -> Option<f64> {
        let mut same = self.unary.iter().filter(|unary| unary.connections == ours.connections);
        let yardstick = same.find(|unary| unary.name == yardstick)?.cpu_micros.median;
        ratio(ours.cpu_micros.median, yardstick)
    }

    fn fan_out_ratio(&self, time: impl Fn(&FanOut) -> Quartiles, ours: &FanOut) -> Option<f64> {
        let etcd = self.fan_out.iter().find(|fan_out| fan_out.name == "etcd")?;
        ratio(time(ours).median, time(etcd).median)
    }
}

fn ratio(ours: f64, yardstick: f64) -> Option<f64> {
    (yardstick > 0.0).then_some(ours / yardstick)
}

fn times(ratio: Option<f64>) -> String {
    ratio.map_or(String::new(), |ratio| format!("{ratio:.2}"))
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "Medians, with the quartiles in brackets. Load before the run: {:.2}\n", self.load)?;
        writeln!(
            f,
            "| unary read of 1 kB | connections | processor time of the server, µs | × tonic | × etcd | a second |"
        )?;
        writeln!(f, "| --- | --- | --- | --- | --- | --- |")?;
        for unary in &self.unary {
            writeln!(
                f,
                "| {} | {} | {} | {} | {} | {:.0} |",
                unary.name,
                unary.connections,
                unary.cpu_micros,
                times(self.unary_ratio(unary, "bare tonic")),
                times(self.unary_ratio(unary, "etcd")),
                unary.requests_per_second.median,
            )?;
        }
        self.fmt_fan_out(f)?;
        self.fmt_memory(f)?;
        if let Some(idle) = &self.idle {
            idle.fmt(f)?;
        }
        Ok(())
    }
}

impl Report {
    fn fmt_fan_out(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.fan_out.is_empty() {
            return Ok(());
        }
        writeln!(
            f,
            "\n| one commit, all watchers; ms | first to last | × etcd | write begun to last | × etcd | write begun to first | \
             write answered to last | processor time of the server | memory a watcher |"
        )?;
        writeln!(f, "| --- | --- | --- | --- | --- | --- | --- | --- | --- |")?;
        for fan_out in &self.fan_out {
            writeln!(
                f,
                "| {} | {} | {} | {} | {} | {} | {} | {} | {:.1} KiB |",
                fan_out.name,
                fan_out.first_to_last,
                times(self.fan_out_ratio(|fan_out| fan_out.first_to_last, fan_out)),
                fan_out.begin_to_last,
                times(self.fan_out_ratio(|fan_out| fan_out.begin_to_last, fan_out)),
                fan_out.begin_to_first,
                fan_out.answer_to_last,
                fan_out.cpu,
                fan_out.kib_a_watcher,
            )?;
        }
        Ok(())
    }

    fn fmt_memory(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "\n| tenants in memory | keys of | payload of a tenant | resident | × payload | weighed as | more for one that is watched |"
        )?;
        writeln!(f, "| --- | --- | --- | --- | --- | --- | --- |")?;
        for memory in &self.memory {
            writeln!(
                f,
                "| {}, {} of them watched | {} B | {:.0} B | {:.0} B | {} | {:.0} B | {:.0} B |",
                memory.tenants,
                memory.watched,
                memory.key_bytes,
                memory.payload_bytes,
                memory.resident_bytes,
                times(ratio(memory.resident_bytes, memory.payload_bytes)),
                memory.weight_bytes,
                memory.watched_bytes,
            )?;
        }
        Ok(())
    }
}

impl fmt::Display for Idle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { tenants, seconds, empty, known } = self;
        writeln!(f, "\n| calls in {seconds} s without requests | no tenant in memory | {tenants} tenants in memory |")?;
        writeln!(f, "| --- | --- | --- |")?;
        let operations: BTreeSet<_> = empty.keys().chain(known.keys()).collect();
        for operation in operations {
            let count = |of: &BTreeMap<String, u64>| of.get(operation).copied().unwrap_or_default();
            writeln!(f, "| {operation} | {} | {} |", count(empty), count(known))?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn unary(name: &str, connections: u32, cpu: f64) -> Unary {
        let cpu_micros = Quartiles::of(&[cpu]);
        Unary { name: name.to_owned(), connections, cpu_micros, requests_per_second: Quartiles::default() }
    }

    fn report(cpu: f64, resident_bytes: f64) -> Report {
        let memory = |key_bytes| Memory {
            tenants: 1,
            watched: 1,
            key_bytes,
            payload_bytes: 1_280.0,
            resident_bytes,
            watched_bytes: 0.0,
            weight_bytes: 0.0,
        };
        let unary = vec![
            unary("config-stream", 1, cpu),
            unary("bare tonic", 1, 10.0),
            unary("config-stream", 32, 10.0),
            unary("bare tonic", 32, 10.0),
        ];
        Report { load: 0.0, unary, fan_out: Vec::new(), memory: vec![memory(64)], idle: None }
    }

    /// Promise: `--check` fails where a limit is passed, for each number of connections by itself,
    /// and says which one.
    #[test]
    fn passed_limits_are_named() {
        assert_eq!(report(12.9, 1_600.0).passed_limits(), Vec::<String>::new());
        let passed = report(13.2, 1_800.0).passed_limits();
        assert_eq!(
            passed,
            [
                "1 connections: 1.32 × the processor time of bare tonic; at most 1.3",
                "a tenant takes 1.41 × its keys and values; at most 1.35",
            ]
        );
    }

    /// Promise: what is called a median is one, also of an even number of rounds and in any order.
    #[test]
    fn quartiles_are_of_the_sorted() {
        let Quartiles { first, median, third } = Quartiles::of(&[5.0, 1.0, 4.0, 2.0, 3.0]);
        assert_eq!([first, median, third].map(|value| format!("{value}")), ["2", "3", "4"]);
        let Quartiles { first, median, third } = Quartiles::of(&[4.0, 3.0, 2.0, 1.0]);
        assert_eq!([first, median, third].map(|value| format!("{value}")), ["1", "2", "3"]);
    }
}

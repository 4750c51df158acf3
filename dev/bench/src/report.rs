//! What was measured, as tables and as JSON, and the limits that hold.

use std::fmt;

use serde::Serialize;

use crate::measure::Spread;

// The goals themselves. Counts of one binary differ by less than a hundredth between runs, so they
// need no margin beside what is left.
/// The most instructions of a read from memory, as a multiple of the bare function's.
const FROM_MEMORY_LIMIT: f64 = 1.3;
/// The most instructions of a read that checks the head, as a multiple of those of a bare function
/// with one `GetItem`.
const HEAD_CHECKED_LIMIT: f64 = 1.2;
/// The most memory at the first answer, in KiB: the goal of 12 MB and one for the page cache, which
/// maps more or less around what is touched, by how the binary lies in it.
const PEAK_LIMIT_KIB: u32 = 13_000_000 / 1024;

/// Everything.
#[derive(Debug, Serialize)]
pub(crate) struct Report {
    pub(crate) cold: Vec<Cold>,
    pub(crate) warm: Vec<Warm>,
    pub(crate) sizes: Vec<Size>,
}

/// Starts of one program.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Cold {
    pub(crate) name: String,
    pub(crate) to_first_answer: Spread,
    pub(crate) cpu: Spread,
    pub(crate) peak_kib: u32,
}

/// Calls of one warm program.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Warm {
    pub(crate) case: String,
    pub(crate) latency: Spread,
    pub(crate) cpu_micros: f64,
    /// None where valgrind is not installed.
    pub(crate) instructions: Option<f64>,
    pub(crate) peak_kib: u32,
}

/// How large one program is.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Size {
    pub(crate) name: String,
    pub(crate) binary_bytes: u32,
    pub(crate) zip_bytes: u32,
}

impl Report {
    /// The limits that were passed. Memory and instructions only: they are the same wherever they
    /// are counted.
    pub(crate) fn passed_limits(&self) -> Vec<String> {
        let mut passed = Vec::new();
        for (pair, limit) in self.warm.chunks(2).zip([FROM_MEMORY_LIMIT, HEAD_CHECKED_LIMIT]) {
            let [yardstick, ours] = pair else { continue };
            let Some(ratio) = ratio(ours.instructions, yardstick.instructions).filter(|ratio| *ratio > limit) else {
                continue;
            };
            passed.push(format!("{}: {ratio:.2} × the instructions of {}; at most {limit}", ours.case, yardstick.case));
        }
        for cold in self.cold.iter().filter(|cold| cold.peak_kib > PEAK_LIMIT_KIB) {
            passed.push(format!("{}: {} KiB at its first answer; at most {PEAK_LIMIT_KIB}", cold.name, cold.peak_kib));
        }
        passed
    }
}

fn ratio(ours: Option<f64>, yardstick: Option<f64>) -> Option<f64> {
    Some(ours? / yardstick.filter(|yardstick| *yardstick > 0.0)?)
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "| cold | to first answer, median | p99 | processor time | peak memory | × hello |")?;
        writeln!(f, "| --- | --- | --- | --- | --- | --- |")?;
        let bare = self.cold.first().map(|hello| hello.to_first_answer.p50_micros);
        for Cold { name, to_first_answer, cpu, peak_kib } in &self.cold {
            writeln!(
                f,
                "| {name} | {:.2} ms | {:.2} ms | {:.2} ms | {} MB | {} |",
                to_first_answer.p50_micros / 1e3,
                to_first_answer.p99_micros / 1e3,
                cpu.p50_micros / 1e3,
                megabytes_of_kib(*peak_kib),
                times(ratio(Some(to_first_answer.p50_micros), bare)),
            )?;
        }
        writeln!(f, "\n| warm, a call | instructions | × the line above | processor time | p50 | p99 | peak memory |")?;
        writeln!(f, "| --- | --- | --- | --- | --- | --- | --- |")?;
        for (place, warm) in self.warm.iter().enumerate() {
            let above = place.checked_sub(1).filter(|_| place % 2 == 1).and_then(|above| self.warm.get(above));
            writeln!(
                f,
                "| {} | {} | {} | {:.0} µs | {:.0} µs | {:.0} µs | {} MB |",
                warm.case,
                warm.instructions.map_or("(no valgrind)".to_owned(), |count| format!("{count:.0}")),
                above.map_or(String::new(), |above| times(ratio(warm.instructions, above.instructions))),
                warm.cpu_micros,
                warm.latency.p50_micros,
                warm.latency.p99_micros,
                megabytes_of_kib(warm.peak_kib),
            )?;
        }
        writeln!(f, "\n| size | binary | zip |\n| --- | --- | --- |")?;
        for Size { name, binary_bytes, zip_bytes } in &self.sizes {
            let megabytes = |bytes: &u32| f64::from(*bytes) / 1e6;
            writeln!(f, "| {name} | {:.1} MB | {:.1} MB |", megabytes(binary_bytes), megabytes(zip_bytes))?;
        }
        Ok(())
    }
}

fn megabytes_of_kib(kib: u32) -> String {
    format!("{:.1}", f64::from(kib) * 1024.0 / 1e6)
}

fn times(ratio: Option<f64>) -> String {
    ratio.map_or(String::new(), |ratio| format!("{ratio:.2}"))
}

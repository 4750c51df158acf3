//! The tables of benchmarks in `docs/performance.md`: their commands write them there, and the gate
//! compares them with what it counts.

use std::{error::Error, fs, process::Command};

use time::OffsetDateTime;

/// Why a benchmark gave up.
pub type Failure = Box<dyn Error + Send + Sync>;

/// The page.
const PAGE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/performance.md");

/// The page as it is.
pub fn page() -> Result<String, Failure> {
    Ok(fs::read_to_string(PAGE)?)
}

/// The place of a benchmark's tables: between the lines `<!-- command -->` and `<!-- /command -->`.
#[derive(Debug)]
pub struct Place {
    command: &'static str,
    commit: String,
}

impl Place {
    /// The place of `command`, for tables of what is committed now. What is not committed cannot be
    /// named, and so is not measured.
    pub fn of(command: &'static str) -> Result<Self, Failure> {
        Ok(Self { command, commit: commit()? })
    }

    /// Replaces what was written last by `tables`, with the date, the commit and the machine.
    pub fn write(&self, tables: &str) -> Result<(), Failure> {
        let Self { command, commit: measured } = self;
        let now = commit()?;
        if now != *measured {
            return Err(format!("{measured} was measured, and now there is {now}").into());
        }
        let date = OffsetDateTime::now_utc().date();
        let said = format!("Measured {date} at commit {measured}, on {}.\n\n{tables}", machine()?);
        let page = replaced(&page()?, command, &said).ok_or_else(|| format!("{PAGE} has no place for {command}"))?;
        Ok(fs::write(PAGE, page)?)
    }
}

/// The commit that the working tree is of.
fn commit() -> Result<String, Failure> {
    let changed = git(&["status", "--porcelain", "--", ":/", ":!/docs"])?;
    if !changed.is_empty() {
        return Err(format!("figures are of a commit, and these are not committed:\n{changed}").into());
    }
    git(&["rev-parse", "--short=8", "HEAD"])
}

fn git(arguments: &[&str]) -> Result<String, Failure> {
    let said = Command::new("git").args(arguments).output()?;
    if !said.status.success() {
        return Err(format!("git {arguments:?}: {}", String::from_utf8_lossy(&said.stderr)).into());
    }
    Ok(String::from_utf8(said.stdout)?.trim().to_owned())
}

/// The processors, by what the system says.
fn machine() -> Result<String, Failure> {
    let processors = fs::read_to_string("/proc/cpuinfo")?;
    let model = processors.lines().find_map(|line| line.strip_prefix("model name")?.split_once(": "));
    let count = std::thread::available_parallelism()?;
    Ok(format!("{count} processors ({})", model.map_or("of unknown model", |(_, model)| model)))
}

fn replaced(page: &str, command: &str, tables: &str) -> Option<String> {
    let (before, rest) = page.split_once(&format!("<!-- {command} -->\n"))?;
    let (_, after) = rest.split_once(&format!("<!-- /{command} -->\n"))?;
    Some(format!("{before}<!-- {command} -->\n{tables}<!-- /{command} -->\n{after}"))
}

/// The number in the table whose heading begins with the cell `table`, in the row that begins with
/// `row`, in the column `column`. A unit behind it is no part of it.
pub fn figure(page: &str, table: &str, row: &str, column: &str) -> Option<f64> {
    let cells = |line: &'_ str| -> Vec<String> { line.split('|').map(|cell| cell.trim().to_owned()).collect() };
    let first = |line: &&str, name: &str| cells(line).get(1).is_some_and(|cell| cell == name);
    let mut lines = page.lines().skip_while(|line| !first(line, table));
    let place = cells(lines.next()?).iter().position(|cell| cell == column)?;
    let row = lines.take_while(|line| line.starts_with('|')).find(|line| first(line, row))?;
    let cell = cells(row).get(place)?.replace(',', "");
    cell.split(' ').next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    const PAGE: &str = "Before\n<!-- one -->\n| cold | instructions | peak |\n| --- | --- | --- |\n| a | 1,234,567 | 12.2 MB |\n\
                        | b | | 8 MB |\n\n| warm | peak |\n| --- | --- |\n| a | 7 MB |\n<!-- /one -->\nAfter\n";

    #[test]
    fn tables_are_replaced_and_nothing_else() {
        assert_eq!(replaced(PAGE, "one", "new\n").unwrap(), "Before\n<!-- one -->\nnew\n<!-- /one -->\nAfter\n");
        assert_eq!(replaced(PAGE, "two", "new\n"), None);
    }

    #[test]
    fn a_figure_is_found_by_table_row_and_column() {
        let figure = |table, row, column| figure(PAGE, table, row, column);
        assert_eq!(figure("cold", "a", "instructions"), Some(1_234_567.0));
        assert_eq!(figure("cold", "b", "peak"), Some(8.0));
        assert_eq!(figure("warm", "a", "peak"), Some(7.0));
        for (table, row, column) in
            [("warm", "b", "peak"), ("cold", "b", "instructions"), ("hot", "a", "peak"), ("warm", "a", "p50")]
        {
            assert_eq!(figure(table, row, column), None, "{table} {row} {column}");
        }
    }
}

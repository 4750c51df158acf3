//! Parameters in `SQLite`: what was answered is on disk, so it survives the process being killed.

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Mutex, PoisonError};

use rusqlite::{Connection, OptionalExtension, Row, Transaction, TransactionBehavior, params};
use time::OffsetDateTime;

use crate::StartError;
use crate::wire::AwsError;

/// Standard parameters in a region of an account ("Managing parameter tiers" in the Systems Manager
/// user guide).
pub(super) const MAX_STANDARD: u32 = 10_000;

/// The layout of the tables below. A file with a higher number was written by a newer emulator, and
/// is left alone.
const LAYOUT: i64 = 1;

const TABLES: &str = "
    CREATE TABLE parameters (
        name TEXT PRIMARY KEY, version INTEGER NOT NULL, tier TEXT NOT NULL
    ) WITHOUT ROWID;
    CREATE INDEX parameters_by_tier ON parameters (tier);
    CREATE TABLE versions (
        name TEXT NOT NULL, version INTEGER NOT NULL, type TEXT NOT NULL, value TEXT NOT NULL, ciphertext TEXT NOT NULL,
        description TEXT, tier TEXT NOT NULL, key_id TEXT, allowed_pattern TEXT, data_type TEXT NOT NULL,
        modified INTEGER NOT NULL,
        PRIMARY KEY (name, version)
    ) WITHOUT ROWID;
    CREATE TABLE labels (
        name TEXT NOT NULL, label TEXT NOT NULL, version INTEGER NOT NULL, PRIMARY KEY (name, label)
    ) WITHOUT ROWID;
    CREATE TABLE tags (
        name TEXT NOT NULL, key TEXT NOT NULL, value TEXT NOT NULL, PRIMARY KEY (name, key)
    ) WITHOUT ROWID;
    CREATE TABLE clock (last INTEGER NOT NULL);
    INSERT INTO clock (last) VALUES (0);
";

const COLUMNS: &str = "v.name, v.version, v.type, v.value, v.ciphertext, v.description, v.tier, v.key_id, \
                       v.allowed_pattern, v.data_type, v.modified";

/// Parameters with what is taken for their newest versions.
const NEWEST: &str = "parameters p JOIN versions v ON v.name = p.name AND v.version = p.version - ?1";

/// One version of a parameter.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Version {
    pub(super) name: String,
    pub(super) number: i64,
    /// `String`, `StringList` or `SecureString`
    pub(super) kind: String,
    pub(super) value: String,
    /// What a `SecureString` shows to those who do not ask for decryption. Random: nothing can be
    /// learnt from it.
    pub(super) ciphertext: String,
    pub(super) description: Option<String>,
    /// `Standard` or `Advanced`
    pub(super) tier: String,
    pub(super) key_id: Option<String>,
    pub(super) allowed_pattern: Option<String>,
    pub(super) data_type: String,
    /// Milliseconds since 1970
    pub(super) modified: i64,
}

/// The database.
#[derive(Debug)]
pub(super) struct Store {
    connection: Mutex<Connection>,
    max_standard: AtomicU32,
}

/// The database within one transaction.
pub(super) struct Tables<'a> {
    transaction: Transaction<'a>,
    /// How many versions lie between a parameter's newest version and the one that is taken for it.
    behind: i64,
    /// How many standard parameters there may be.
    pub(super) max_standard: i64,
}

impl From<rusqlite::Error> for AwsError {
    fn from(error: rusqlite::Error) -> Self {
        tracing::error!(%error, "the parameters' database failed");
        AwsError::internal("InternalServerError", "The emulator's database failed; its log says why.")
    }
}

impl Store {
    /// Opens the parameters in `file`, or in memory.
    pub(super) fn open(file: Option<&Path>) -> Result<Self, StartError> {
        let failed = |error: rusqlite::Error| StartError::ParameterStore(error.to_string());
        let connection = match file {
            None => Connection::open_in_memory(),
            Some(file) => Connection::open(file),
        }
        .map_err(failed)?;
        // Each commit reaches the disk before it is answered.
        connection.pragma_update(None, "journal_mode", "WAL").map_err(failed)?;
        connection.pragma_update(None, "synchronous", "FULL").map_err(failed)?;
        let layout: i64 = connection.pragma_query_value(None, "user_version", |row| row.get(0)).map_err(failed)?;
        match layout {
            LAYOUT => {}
            0 => connection
                .execute_batch(&format!("BEGIN; {TABLES} PRAGMA user_version = {LAYOUT}; COMMIT;"))
                .map_err(failed)?,
            newer => {
                return Err(StartError::ParameterStore(format!(
                    "its file has layout {newer}, this emulator knows layout {LAYOUT}"
                )));
            }
        }
        Ok(Self { connection: Mutex::new(connection), max_standard: AtomicU32::new(MAX_STANDARD) })
    }

    /// Limits how many standard parameters there may be.
    pub(super) fn limit(&self, most: u32) {
        self.max_standard.store(most, Ordering::Relaxed);
    }

    /// Does `work` as one transaction; an error undoes all of it.
    pub(super) fn transaction<T>(&self, work: impl FnOnce(&Tables<'_>) -> Result<T, AwsError>) -> Result<T, AwsError> {
        self.begin(0, work)
    }

    /// Does `work`, which writes nothing, as if the newest put of each parameter had not happened
    /// yet.
    pub(super) fn behind<T>(&self, work: impl FnOnce(&Tables<'_>) -> Result<T, AwsError>) -> Result<T, AwsError> {
        self.begin(1, work)
    }

    fn begin<T>(&self, behind: i64, work: impl FnOnce(&Tables<'_>) -> Result<T, AwsError>) -> Result<T, AwsError> {
        let mut connection = self.connection.lock().unwrap_or_else(PoisonError::into_inner);
        let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
        let max_standard = self.max_standard.load(Ordering::Relaxed).into();
        let tables = Tables { transaction, behind, max_standard };
        let done = work(&tables)?;
        tables.transaction.commit()?;
        Ok(done)
    }
}

impl Tables<'_> {
    /// A time that no earlier write had, not even one that was deleted since: a parameter that is
    /// deleted and created again starts again at version 1, and is told from its former life by its
    /// time.
    pub(super) fn next_time(&self) -> Result<i64, AwsError> {
        let now = i64::try_from(OffsetDateTime::now_utc().unix_timestamp_nanos() / 1_000_000).unwrap_or(i64::MAX);
        Ok(self
            .transaction
            .query_row("UPDATE clock SET last = max(last + 1, ?1) RETURNING last", [now], |row| row.get(0))?)
    }

    pub(super) fn exists(&self, name: &str) -> Result<bool, AwsError> {
        let mut statement = self.transaction.prepare_cached("SELECT 1 FROM parameters WHERE name = ?1")?;
        Ok(statement.exists([name])?)
    }

    pub(super) fn latest(&self, name: &str) -> Result<Option<Version>, AwsError> {
        let sql = format!("SELECT {COLUMNS} FROM {NEWEST} WHERE p.name = ?2");
        Ok(self.transaction.prepare_cached(&sql)?.query_row(params![self.behind, name], read).optional()?)
    }

    pub(super) fn version(&self, name: &str, version: i64) -> Result<Option<Version>, AwsError> {
        let sql = format!("SELECT {COLUMNS} FROM versions v WHERE name = ?1 AND version = ?2");
        Ok(self.transaction.prepare_cached(&sql)?.query_row(params![name, version], read).optional()?)
    }

    pub(super) fn labelled(&self, name: &str, label: &str) -> Result<Option<Version>, AwsError> {
        let sql = format!(
            "SELECT {COLUMNS} FROM versions v JOIN labels l USING (name, version) WHERE name = ?1 AND label = ?2"
        );
        Ok(self.transaction.prepare_cached(&sql)?.query_row([name, label], read).optional()?)
    }

    /// The versions after `after`, up to `last`, oldest first.
    pub(super) fn history(&self, name: &str, after: i64, last: i64, limit: usize) -> Result<Vec<Version>, AwsError> {
        let sql = format!(
            "SELECT {COLUMNS} FROM versions v WHERE name = ?1 AND version > ?2 AND version <= ?3 ORDER BY version LIMIT ?4"
        );
        let mut statement = self.transaction.prepare_cached(&sql)?;
        let rows = statement.query_map(params![name, after, last, sql_limit(limit)], read)?;
        Ok(rows.collect::<Result<_, _>>()?)
    }

    /// The newest versions of the parameters after `after`, by name, as far as `wanted` takes them.
    pub(super) fn list(
        &self,
        after: &str,
        limit: usize,
        wanted: impl Fn(&Version) -> bool,
    ) -> Result<Vec<Version>, AwsError> {
        let sql = format!("SELECT {COLUMNS} FROM {NEWEST} WHERE p.name > ?2 ORDER BY p.name");
        let mut statement = self.transaction.prepare_cached(&sql)?;
        let mut found = Vec::new();
        for row in statement.query_map(params![self.behind, after], read)? {
            let version = row?;
            if wanted(&version) {
                found.push(version);
                if found.len() == limit {
                    break;
                }
            }
        }
        Ok(found)
    }

    /// The newest versions of the parameters with one of these names, after `after`, by name, as
    /// far as `wanted` takes them.
    pub(super) fn named(
        &self,
        names: &[String],
        after: &str,
        limit: usize,
        wanted: impl Fn(&Version) -> bool,
    ) -> Result<Vec<Version>, AwsError> {
        let names: BTreeSet<&str> = names.iter().map(String::as_str).filter(|name| *name > after).collect();
        let mut found = Vec::new();
        for name in names {
            found.extend(self.latest(name)?.filter(&wanted));
            if found.len() == limit {
                break;
            }
        }
        Ok(found)
    }

    /// The newest versions of the parameters that begin with `prefix`, after `after`, by name; with
    /// `one_level` only those without a further slash.
    pub(super) fn under(
        &self,
        prefix: &str,
        one_level: bool,
        after: &str,
        limit: usize,
    ) -> Result<Vec<Version>, AwsError> {
        let sql = format!(
            "SELECT {COLUMNS} FROM {NEWEST}
             WHERE p.name > ?2 AND substr(p.name, 1, length(?3)) = ?3
               AND (NOT ?4 OR instr(substr(p.name, length(?3) + 1), '/') = 0)
             ORDER BY p.name LIMIT ?5"
        );
        // Nothing before the prefix itself can match, and starting there lets the index find it.
        let from = if after < prefix { prefix } else { after };
        let mut statement = self.transaction.prepare_cached(&sql)?;
        let rows = statement.query_map(params![self.behind, from, prefix, one_level, sql_limit(limit)], read)?;
        Ok(rows.collect::<Result<_, _>>()?)
    }

    pub(super) fn count_in_tier(&self, tier: &str) -> Result<i64, AwsError> {
        Ok(self.transaction.query_row("SELECT count(*) FROM parameters WHERE tier = ?1", [tier], |row| row.get(0))?)
    }

    /// Number of versions kept, and the oldest of them.
    pub(super) fn kept(&self, name: &str) -> Result<(i64, i64), AwsError> {
        let sql = "SELECT count(*), coalesce(min(version), 0) FROM versions WHERE name = ?1";
        Ok(self.transaction.query_row(sql, [name], |row| Ok((row.get(0)?, row.get(1)?)))?)
    }

    pub(super) fn put(&self, new: &Version) -> Result<(), AwsError> {
        self.transaction.execute(
            "INSERT INTO versions (name, version, type, value, ciphertext, description, tier, key_id, allowed_pattern,
                                   data_type, modified)
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11)",
            params![
                new.name,
                new.number,
                new.kind,
                new.value,
                new.ciphertext,
                new.description,
                new.tier,
                new.key_id,
                new.allowed_pattern,
                new.data_type,
                new.modified
            ],
        )?;
        self.transaction.execute(
            "INSERT INTO parameters (name, version, tier) VALUES (?1, ?2, ?3)
             ON CONFLICT (name) DO UPDATE SET version = excluded.version, tier = excluded.tier",
            params![new.name, new.number, new.tier],
        )?;
        Ok(())
    }

    pub(super) fn drop_version(&self, name: &str, version: i64) -> Result<(), AwsError> {
        self.transaction.execute("DELETE FROM versions WHERE name = ?1 AND version = ?2", params![name, version])?;
        Ok(())
    }

    /// Removes the parameter with all that belongs to it.
    pub(super) fn delete(&self, name: &str) -> Result<(), AwsError> {
        for table in ["parameters", "versions", "labels", "tags"] {
            self.transaction.execute(&format!("DELETE FROM {table} WHERE name = ?1"), [name])?;
        }
        Ok(())
    }

    pub(super) fn labels(&self, name: &str, version: i64) -> Result<Vec<String>, AwsError> {
        let sql = "SELECT label FROM labels WHERE name = ?1 AND version = ?2 ORDER BY label";
        let mut statement = self.transaction.prepare_cached(sql)?;
        let rows = statement.query_map(params![name, version], |row| row.get(0))?;
        Ok(rows.collect::<Result<_, _>>()?)
    }

    /// Puts the label on `version`; it leaves the version that had it.
    pub(super) fn put_label(&self, name: &str, label: &str, version: i64) -> Result<(), AwsError> {
        self.transaction.execute(
            "INSERT INTO labels (name, label, version) VALUES (?1, ?2, ?3)
             ON CONFLICT (name, label) DO UPDATE SET version = excluded.version",
            params![name, label, version],
        )?;
        Ok(())
    }

    /// Says whether there was such a label on that version.
    pub(super) fn remove_label(&self, name: &str, label: &str, version: i64) -> Result<bool, AwsError> {
        let sql = "DELETE FROM labels WHERE name = ?1 AND label = ?2 AND version = ?3";
        Ok(self.transaction.execute(sql, params![name, label, version])? > 0)
    }

    pub(super) fn tags(&self, name: &str) -> Result<Vec<(String, String)>, AwsError> {
        let mut statement =
            self.transaction.prepare_cached("SELECT key, value FROM tags WHERE name = ?1 ORDER BY key")?;
        let rows = statement.query_map([name], |row| Ok((row.get(0)?, row.get(1)?)))?;
        Ok(rows.collect::<Result<_, _>>()?)
    }

    pub(super) fn put_tag(&self, name: &str, key: &str, value: &str) -> Result<(), AwsError> {
        self.transaction
            .execute("INSERT OR REPLACE INTO tags (name, key, value) VALUES (?1, ?2, ?3)", [name, key, value])?;
        Ok(())
    }

    pub(super) fn remove_tag(&self, name: &str, key: &str) -> Result<(), AwsError> {
        self.transaction.execute("DELETE FROM tags WHERE name = ?1 AND key = ?2", [name, key])?;
        Ok(())
    }
}

#[cfg(test)]
impl Tables<'_> {
    /// Makes `count` parameters without versions, to be counted only.
    pub(super) fn fill(&self, tier: &str, count: i64) -> Result<(), AwsError> {
        self.transaction.execute(
            "WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < ?2)
             INSERT INTO parameters (name, version, tier) SELECT 'fill-' || ?1 || i, 1, ?1 FROM n",
            params![tier, count],
        )?;
        Ok(())
    }
}

fn sql_limit(limit: usize) -> i64 {
    i64::try_from(limit).unwrap_or(i64::MAX)
}

fn read(row: &Row<'_>) -> rusqlite::Result<Version> {
    Ok(Version {
        name: row.get(0)?,
        number: row.get(1)?,
        kind: row.get(2)?,
        value: row.get(3)?,
        ciphertext: row.get(4)?,
        description: row.get(5)?,
        tier: row.get(6)?,
        key_id: row.get(7)?,
        allowed_pattern: row.get(8)?,
        data_type: row.get(9)?,
        modified: row.get(10)?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Guards: times differ and grow even within one millisecond: they tell a parameter's lives
    /// apart.
    #[test]
    fn times_never_repeat() {
        let store = Store::open(None).expect("in memory");
        let times = store
            .transaction(|tables| (0..1_000).map(|_| tables.next_time()).collect::<Result<Vec<_>, _>>())
            .expect("times");
        assert!(times.is_sorted_by(|earlier, later| earlier < later));
    }
}

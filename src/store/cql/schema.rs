//! `schema.cql`: applying it, and refusing to serve on another one.
//!
//! How it can hurt: a silent database taken for one that refuses names a remedy that helps nobody.

use std::time::Duration;

use scylla::client::session::Session;
use scylla::errors::{DbError, ExecutionError, PrepareError, RequestAttemptError};
use scylla::response::query_result::QueryResult;
use scylla::statement::unprepared::Statement;

use super::OpenError;
use super::session::{connect, one_line};
use crate::config::CqlTarget;

/// The model, as in the repository.
const SCHEMA: &str = include_str!("../../../schema.cql");
/// Version of the model; raised whenever a statement in it changes.
const VERSION: u32 = 2;
/// Making tables takes longer than anything else.
const DDL_TIMEOUT: Duration = Duration::from_secs(60);

/// The schema as text, for this keyspace.
pub fn print(target: &CqlTarget) -> String {
    SCHEMA
        .replace("KEYSPACE IF NOT EXISTS everline\n", &format!("KEYSPACE IF NOT EXISTS {}\n", target.keyspace))
        .replace("EXISTS everline.", &format!("EXISTS {}.", target.keyspace))
        .replace("'replication_factor': 3", &format!("'replication_factor': {}", target.replication))
}

/// Makes what is not there yet, raises the version of an older schema, and with `new_epoch` names the data
/// anew (after a restore: devices then load everything again). Doing it twice changes nothing. Returns the
/// epoch.
///
/// # Errors
/// One line: unreachable, refused by the database, conditional writes do not work, or the data are of a
/// newer version (then nothing was touched).
pub async fn apply(target: &CqlTarget, new_epoch: bool) -> Result<String, OpenError> {
    let session = connect(target, DDL_TIMEOUT).await?.session;
    if tables(&session, target).await.is_ok() {
        let version = read(&session, target, "schema").await?;
        not_newer(version.as_deref(), target)?;
    }
    for statement in statements(&print(target)) {
        run(&session, target, &statement).await?;
    }
    session.await_schema_agreement().await.map_err(|error| OpenError::Refused(one_line(&error)))?;
    probe(&session, target).await?;
    raise_version(&session, target).await?;
    let meta = format!("{}.meta", target.keyspace);
    let epoch = format!("{:016x}", rand::random::<u64>());
    let insert = format!("INSERT INTO {meta} (key, value) VALUES ('epoch', '{epoch}') IF NOT EXISTS");
    run(&session, target, &insert).await?;
    if new_epoch {
        run(&session, target, &format!("UPDATE {meta} SET value = '{epoch}' WHERE key = 'epoch' IF EXISTS")).await?;
    }
    read(&session, target, "epoch").await?.ok_or_else(|| OpenError::Refused("the epoch was not stored".to_owned()))
}

/// Stores this version where none or an older one is stored. What tables hold is the same in all versions
/// so far: one that changes it does so here, before.
async fn raise_version(session: &Session, target: &CqlTarget) -> Result<(), OpenError> {
    let meta = format!("{}.meta", target.keyspace);
    let insert = format!("INSERT INTO {meta} (key, value) VALUES ('schema', '{VERSION}') IF NOT EXISTS");
    run(session, target, &insert).await?;
    let found = read(session, target, "schema").await?;
    not_newer(found.as_deref(), target)?;
    if let Some(older) = found.and_then(|found| found.parse::<u32>().ok()).filter(|found| *found < VERSION) {
        let raise = format!("UPDATE {meta} SET value = '{VERSION}' WHERE key = 'schema' IF value = '{older}'");
        run(session, target, &raise).await?;
    }
    check_version(&read(session, target, "schema").await?.unwrap_or_default(), target)
}

/// Names the data as those of another store are named, which are about to be copied here.
///
/// # Errors
/// One line: unreachable, or refused by the database.
pub async fn set_epoch(target: &CqlTarget, epoch: &str) -> Result<(), OpenError> {
    if !epoch.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte)) {
        return Err(OpenError::Refused("an epoch of other characters than letters, digits, - _ .".to_owned()));
    }
    let session = connect(target, DDL_TIMEOUT).await?.session;
    let meta = format!("{}.meta", target.keyspace);
    run(&session, target, &format!("UPDATE {meta} SET value = '{epoch}' WHERE key = 'epoch' IF EXISTS")).await?;
    Ok(())
}

/// Whether the keyspace can be served, and its epoch.
pub(super) async fn check(session: &Session, target: &CqlTarget) -> Result<String, OpenError> {
    tables(session, target).await?;
    let version = read(session, target, "schema").await?;
    // Before the version is judged: where it cannot be stored, this is why.
    probe(session, target).await?;
    let no_schema = || OpenError::NoSchema(target.keyspace.clone());
    check_version(&version.ok_or_else(no_schema)?, target)?;
    read(session, target, "epoch").await?.ok_or_else(no_schema)
}

/// Whether keyspace and tables are there.
async fn tables(session: &Session, target: &CqlTarget) -> Result<(), OpenError> {
    let keyspace = &target.keyspace;
    let found = |query: String| async move {
        let rows = run(session, target, &query).await?.into_rows_result();
        Ok::<_, OpenError>(rows.is_ok_and(|rows| rows.rows_num() > 0))
    };
    let of = format!("WHERE keyspace_name = '{keyspace}'");
    if !found(format!("SELECT keyspace_name FROM system_schema.keyspaces {of}")).await? {
        return Err(OpenError::NoKeyspace(keyspace.clone()));
    }
    if !found(format!("SELECT table_name FROM system_schema.tables {of} AND table_name = 'meta'")).await? {
        return Err(OpenError::NoSchema(keyspace.clone()));
    }
    Ok(())
}

/// One conditional write, its condition met or not: ScyllaDB before 2025.4 says here that it cannot with
/// tablets.
async fn probe(session: &Session, target: &CqlTarget) -> Result<(), OpenError> {
    let probe = format!("INSERT INTO {}.meta (key, value) VALUES ('probe', '') IF NOT EXISTS", target.keyspace);
    let answer = session.query_unpaged(ddl(&probe), ()).await;
    answer.map(drop).map_err(|error| meaning_of_probe(&error, target))
}

fn not_newer(found: Option<&str>, target: &CqlTarget) -> Result<(), OpenError> {
    match found.map(|found| check_version(found, target)) {
        Some(Err(error @ OpenError::Newer { .. })) => Err(error),
        _ => Ok(()),
    }
}

fn check_version(found: &str, target: &CqlTarget) -> Result<(), OpenError> {
    let (keyspace, found) = (target.keyspace.clone(), found.to_owned());
    match found.parse::<u32>() {
        Ok(version) if version == VERSION => Ok(()),
        Ok(version) if version < VERSION => Err(OpenError::Older { keyspace, found, needed: VERSION }),
        _ => Err(OpenError::Newer { keyspace, found, needed: VERSION }),
    }
}

/// A value of the `meta` table.
async fn read(session: &Session, target: &CqlTarget, key: &str) -> Result<Option<String>, OpenError> {
    let query = format!("SELECT value FROM {}.meta WHERE key = '{key}'", target.keyspace);
    let rows = run(session, target, &query).await?.into_rows_result();
    let rows = rows.map_err(|error| OpenError::Refused(one_line(&error)))?;
    let row = rows.maybe_first_row::<(Option<String>,)>().map_err(|error| OpenError::Refused(one_line(&error)))?;
    Ok(row.and_then(|(value,)| value))
}

async fn run(session: &Session, target: &CqlTarget, statement: &str) -> Result<QueryResult, OpenError> {
    session.query_unpaged(ddl(statement), ()).await.map_err(|error| meaning(&error, target))
}

fn ddl(statement: &str) -> Statement {
    let mut statement = Statement::new(statement);
    statement.set_request_timeout(Some(DDL_TIMEOUT));
    statement
}

/// What the server itself said, if it said anything.
fn said(error: &ExecutionError) -> Option<(&DbError, &str)> {
    match error {
        ExecutionError::LastAttemptError(RequestAttemptError::DbError(kind, why))
        | ExecutionError::PrepareError(PrepareError::AllAttemptsFailed {
            first_attempt: RequestAttemptError::DbError(kind, why),
        }) => Some((kind, why)),
        _ => None,
    }
}

/// What a failed statement means: a refusal only where the database has judged it, not where it was slow,
/// lacked nodes or was not heard.
fn meaning(error: &ExecutionError, target: &CqlTarget) -> OpenError {
    match said(error) {
        Some((DbError::Unavailable { .. }, _)) => {
            OpenError::TooFewNodes { keyspace: target.keyspace.clone(), why: one_line(error) }
        }
        Some((
            DbError::Overloaded
            | DbError::IsBootstrapping
            | DbError::ReadTimeout { .. }
            | DbError::WriteTimeout { .. }
            | DbError::ReadFailure { .. }
            | DbError::WriteFailure { .. }
            | DbError::RateLimitReached { .. },
            _,
        ))
        | None => OpenError::Unreachable { hosts: target.hosts.join(","), why: one_line(error) },
        Some((DbError::Invalid, why)) => OpenError::Refused(one_line(&why)),
        Some(_) => OpenError::Refused(one_line(error)),
    }
}

/// What a failed probe means: only a statement called invalid says that conditional writes do not work.
fn meaning_of_probe(error: &ExecutionError, target: &CqlTarget) -> OpenError {
    match said(error) {
        Some((DbError::Invalid | DbError::SyntaxError, why)) => {
            OpenError::NoConditionalWrites { keyspace: target.keyspace.clone(), why: one_line(&why) }
        }
        _ => meaning(error, target),
    }
}

/// The statements of a text, without its comments.
fn statements(text: &str) -> Vec<String> {
    let lines = text.lines().map(|line| line.split_once("--").map_or(line, |(before, _)| before));
    let bare = lines.collect::<Vec<_>>().join("\n");
    bare.split(';').map(|statement| statement.trim().to_owned()).filter(|statement| !statement.is_empty()).collect()
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use scylla::errors::WriteType;
    use scylla::statement::Consistency;

    use super::*;

    #[test]
    fn the_schema_is_made_for_the_keyspace_that_is_named() {
        let text = print(&CqlTarget::parse("//a:1/other?replication=2").unwrap());
        let statements = statements(&text);
        assert_eq!(statements.len(), 7);
        assert!(statements[0].starts_with("CREATE KEYSPACE IF NOT EXISTS other\n"));
        assert!(statements[0].contains("'replication_factor': 2"));
        for statement in &statements[1..] {
            assert!(statement.starts_with("CREATE TABLE IF NOT EXISTS other."), "{statement}");
            assert!(!statement.contains("everline"), "{statement}");
        }
    }
    fn target() -> CqlTarget {
        CqlTarget::parse("//a:1,b:2/letters").unwrap()
    }

    fn said_by_database(kind: DbError, why: &str) -> ExecutionError {
        ExecutionError::LastAttemptError(RequestAttemptError::DbError(kind, why.to_owned()))
    }

    #[test]
    fn a_refused_probe_names_the_remedy() {
        let why = "Cannot use LightWeight Transactions for table letters.meta: LWT is not yet supported with tablets";
        let refused = said_by_database(DbError::Invalid, why);
        let line = meaning_of_probe(&refused, &target()).to_string();
        for part in ["conditional writes do not work in keyspace letters", why, "tablets = {'enabled': false}"] {
            assert!(line.contains(part), "{part}: {line}");
        }
        assert!(!line.contains('\n'), "{line}");
    }

    #[test]
    fn a_database_that_is_silent_during_the_probe_has_refused_nothing() {
        let (consistency, received, required) = (Consistency::Serial, 1, 2);
        let silent = [
            ExecutionError::RequestTimeout(DDL_TIMEOUT),
            ExecutionError::EmptyPlan,
            ExecutionError::LastAttemptError(RequestAttemptError::UnableToAllocStreamId),
            said_by_database(
                DbError::WriteTimeout { consistency, received, required, write_type: WriteType::Cas },
                "late",
            ),
            said_by_database(DbError::ReadTimeout { consistency, received, required, data_present: false }, "late"),
            said_by_database(DbError::Overloaded, "busy"),
            said_by_database(DbError::IsBootstrapping, "soon"),
        ];
        for error in silent {
            let meant = meaning_of_probe(&error, &target());
            assert!(matches!(&meant, OpenError::Unreachable { .. }), "{error}: {meant}");
            assert!(meant.to_string().contains("answers at a:1,b:2"), "{meant}");
        }
        let few = said_by_database(DbError::Unavailable { consistency, required, alive: 1 }, "few");
        let meant = meaning_of_probe(&few, &target());
        assert!(matches!(&meant, OpenError::TooFewNodes { .. }), "{meant}");
        // Whether a user may write is another question than whether conditional writes work.
        let forbidden = said_by_database(DbError::Unauthorized, "User mallory has no MODIFY permission");
        let meant = meaning_of_probe(&forbidden, &target());
        assert!(matches!(&meant, OpenError::Refused(why) if why.contains("mallory")), "{meant}");
    }
}

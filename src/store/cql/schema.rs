//! `schema.cql`: applying it, and refusing to serve on another one.

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
const VERSION: u32 = 1;
/// Making tables takes longer than anything else.
const DDL_TIMEOUT: Duration = Duration::from_secs(60);

/// The schema as text, for this keyspace.
pub fn print(target: &CqlTarget) -> String {
    SCHEMA
        .replace("KEYSPACE IF NOT EXISTS everline\n", &format!("KEYSPACE IF NOT EXISTS {}\n", target.keyspace))
        .replace("EXISTS everline.", &format!("EXISTS {}.", target.keyspace))
        .replace("'replication_factor': 3", &format!("'replication_factor': {}", target.replication))
}

/// Makes what is not there yet, and with `new_epoch` names the data anew (after a restore: devices then
/// load everything again). Doing it twice changes nothing. Returns the epoch.
///
/// # Errors
/// One line: unreachable, refused by the database, or the data are of a newer version.
pub async fn apply(target: &CqlTarget, new_epoch: bool) -> Result<String, OpenError> {
    let session = connect(target, DDL_TIMEOUT).await?.session;
    for statement in statements(&print(target)) {
        run(&session, target, &statement).await?;
    }
    session.await_schema_agreement().await.map_err(|error| OpenError::Refused(one_line(&error)))?;
    let meta = format!("{}.meta", target.keyspace);
    let insert =
        |key: &str, value: &str| format!("INSERT INTO {meta} (key, value) VALUES ('{key}', '{value}') IF NOT EXISTS");
    run(&session, target, &insert("schema", &VERSION.to_string())).await?;
    check_version(&read(&session, target, "schema").await?.unwrap_or_default(), target)?;
    let epoch = format!("{:016x}", rand::random::<u64>());
    run(&session, target, &insert("epoch", &epoch)).await?;
    if new_epoch {
        run(&session, target, &format!("UPDATE {meta} SET value = '{epoch}' WHERE key = 'epoch' IF EXISTS")).await?;
    }
    read(&session, target, "epoch").await?.ok_or_else(|| OpenError::Refused("the epoch was not stored".to_owned()))
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
    let version = read(session, target, "schema").await?.ok_or_else(|| OpenError::NoSchema(keyspace.clone()))?;
    check_version(&version, target)?;
    // One conditional write, refused or not: ScyllaDB before 2025.4 says here that it cannot with tablets.
    let probe = format!("INSERT INTO {keyspace}.meta (key, value) VALUES ('probe', '') IF NOT EXISTS");
    session
        .query_unpaged(ddl(&probe), ())
        .await
        .map_err(|error| OpenError::NoConditionalWrites { keyspace: keyspace.clone(), why: told(&error) })?;
    read(session, target, "epoch").await?.ok_or_else(|| OpenError::NoSchema(keyspace.clone()))
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
    session.query_unpaged(ddl(statement), ()).await.map_err(|error| match &error {
        ExecutionError::LastAttemptError(RequestAttemptError::DbError(..)) => OpenError::Refused(told(&error)),
        _ => OpenError::Unreachable { hosts: target.hosts.join(","), why: told(&error) },
    })
}

fn ddl(statement: &str) -> Statement {
    let mut statement = Statement::new(statement);
    statement.set_request_timeout(Some(DDL_TIMEOUT));
    statement
}

/// What the server said, without the driver's words around it.
fn told(error: &ExecutionError) -> String {
    match error {
        ExecutionError::LastAttemptError(RequestAttemptError::DbError(DbError::Invalid, why))
        | ExecutionError::PrepareError(PrepareError::AllAttemptsFailed {
            first_attempt: RequestAttemptError::DbError(_, why),
        }) => one_line(why),
        other => one_line(other),
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
}

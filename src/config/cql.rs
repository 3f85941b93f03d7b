//! Where a CQL store is: `cql://[USER:PASSWORD@]HOST:PORT,.../KEYSPACE[?replication=N&tls=FILE]`.

use std::path::PathBuf;

use super::Secret;

/// The form, for messages.
const FORM: &str = "cql://[USER:PASSWORD@]HOST:PORT,.../KEYSPACE[?replication=N&tls=FILE]";
/// Replication of a keyspace that is made without being told otherwise.
const REPLICATION: u8 = 3;

/// Contact points and keyspace of a CQL store.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CqlTarget {
    /// `host:port` of some of the nodes; the others are learnt from these.
    pub hosts: Vec<String>,
    /// The keyspace: lower case letters, digits, `_`.
    pub keyspace: String,
    /// User name and password, if the database wants them.
    pub user: Option<(String, Secret)>,
    /// Copies in each data centre, when `everline schema` makes the keyspace.
    pub replication: u8,
    /// With it connections are TLS: PEM certificates of whoever signed those of the database, which must
    /// bear the IP addresses of its nodes.
    pub tls: Option<PathBuf>,
}

impl CqlTarget {
    /// Reads what follows `cql:`.
    ///
    /// # Errors
    /// What is wrong, without the text itself: it may hold a password.
    pub fn parse(text: &str) -> Result<Self, String> {
        let wrong = || format!("not of the form {FORM}");
        let rest = text.strip_prefix("//").ok_or_else(wrong)?;
        let (place, query) = rest.split_once('?').map_or((rest, None), |(place, query)| (place, Some(query)));
        let (authority, keyspace) = place.rsplit_once('/').ok_or_else(wrong)?;
        let (user, hosts) = match authority.rsplit_once('@') {
            Some((user, hosts)) => (Some(user.split_once(':').ok_or_else(wrong)?), hosts),
            None => (None, authority),
        };
        let hosts: Vec<String> = hosts.split(',').map(str::to_owned).collect();
        if !hosts.iter().all(|host| is_host_port(host)) {
            return Err(wrong());
        }
        if !is_name(keyspace) {
            return Err("the keyspace must begin with a letter and be of lower case letters, digits and _".to_owned());
        }
        let (mut replication, mut tls) = (REPLICATION, None);
        for option in query.iter().flat_map(|query| query.split('&')) {
            match option.split_once('=') {
                Some(("replication", copies)) => {
                    replication = copies.parse().ok().filter(|copies| *copies > 0).ok_or_else(wrong)?;
                }
                Some(("tls", file)) if !file.is_empty() => tls = Some(PathBuf::from(file)),
                _ => return Err(wrong()),
            }
        }
        let user = user.map(|(name, password)| (name.to_owned(), Secret::new(password)));
        Ok(Self { hosts, keyspace: keyspace.to_owned(), user, replication, tls })
    }
}

fn is_host_port(text: &str) -> bool {
    text.rsplit_once(':').is_some_and(|(host, port)| !host.is_empty() && port.parse::<u16>().is_ok())
}

/// What a keyspace may be called without quotes, on both servers.
fn is_name(text: &str) -> bool {
    let allowed = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_';
    text.len() <= 48 && text.starts_with(|c: char| c.is_ascii_lowercase()) && text.chars().all(allowed)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn a_store_address_is_read_or_refused() {
        let target = CqlTarget::parse("//u:p:w@a:9042,[::1]:19042/ever_line2?replication=1").unwrap();
        assert_eq!(target.hosts, ["a:9042", "[::1]:19042"]);
        assert_eq!((target.keyspace.as_str(), target.replication), ("ever_line2", 1));
        assert_eq!(target.user.unwrap(), ("u".to_owned(), Secret::new("p:w")));
        let target = CqlTarget::parse("//a:9042/everline").unwrap();
        assert_eq!((target.replication, target.tls), (3, None));
        let target = CqlTarget::parse("//a:9042/everline?tls=/etc/ca.pem&replication=2").unwrap();
        assert_eq!((target.replication, target.tls), (2, Some("/etc/ca.pem".into())));
        for wrong in [
            "a:9042/k",
            "//a/k",
            "//a:9042",
            "//a:9042/",
            "//a:9042/K",
            "//a:9042/1k",
            "//:9042/k",
            "//a:x/k",
            "//a:9042,/k",
            "//u@a:9042/k",
            "//a:9042/k?replication=0",
            "//a:9042/k?x=1",
            "//a:9042/k?",
            "//a:9042/k?tls=",
            "//a:9042/k?replication=1&&tls=x",
            "//a:9042/k;drop",
        ] {
            assert!(CqlTarget::parse(wrong).is_err(), "{wrong}");
        }
    }
}

//! The account: what it may do beside what idalloc needs, and whether a server may ask for its password.

use super::Failure;
use super::conn::Conn;
use super::grants::{EVERYTHING, Grant, logs_in_by};
use super::host::{Host, Protection};
use idalloc_core::store::report::{Code, Finding};

/// What reservations take, and what operators take to add and delete tags.
const NEEDED: [&str; 4] = ["SELECT", "UPDATE", "INSERT", "DELETE"];

/// Nothing at all, and what shows whether a host is a replica.
const HARMLESS: [&str; 5] =
    ["USAGE", "REPLICATION CLIENT", "BINLOG MONITOR", "SLAVE MONITOR", "REPLICA MONITOR"];

/// A server that was made read-only still takes writes from an account with one of these.
const IGNORES_READ_ONLY: [&str; 5] =
    ["ALL PRIVILEGES", "SUPER", "READ_ONLY ADMIN", "READ ONLY ADMIN", "CONNECTION_ADMIN"];

/// So many privileges are named; MySQL's root has more than seventy.
const NAMED_MAX: usize = 5;

/// Plugins with which a server may ask for the password itself.
const ASKING_PLUGINS: [&str; 2] = ["caching_sha2_password", "sha256_password"];

/// What the account may do. `table` is quoted for SQL, with its database.
pub(super) fn check(conn: &mut Conn, table: &str) -> Result<Vec<Finding>, Failure> {
    let Some(lines) = answer(conn, "SHOW GRANTS")? else {
        return Ok(vec![Finding::ok(Code::Account, "what the account may do cannot be seen")]);
    };
    let grants: Vec<Grant> = lines.iter().filter_map(|line| Grant::parse(line)).collect();
    let mut findings = judge(&grants, table);
    if lines.iter().any(|line| Grant::is_of_role(line)) {
        let text = "the account has roles: what it may do by those that are not set is not looked at";
        findings.push(Finding::ok(Code::Account, text));
    }
    Ok(findings)
}

fn judge(grants: &[Grant], table: &str) -> Vec<Finding> {
    let remedy = || {
        format!(
            "run: CREATE USER 'idalloc'@'%' IDENTIFIED BY 'a-password'; GRANT SELECT, UPDATE ON {table} TO 'idalloc'@'%'; and put \
             that account into the DSN (it needs INSERT and DELETE too, if tags are to be added and deleted with it)"
        )
    };
    let everywhere =
        |privilege: &str, grant: &Grant| grant.on == EVERYTHING && IGNORES_READ_ONLY.contains(&privilege);
    let unheeding = named(grants, everywhere);
    let excess = named(grants, |privilege, grant| {
        let is_needed = NEEDED.contains(&privilege) && grant.on != EVERYTHING;
        !is_needed && !HARMLESS.contains(&privilege) && !everywhere(privilege, grant)
    });
    let mut findings = Vec::new();
    if !unheeding.is_empty() {
        let text = format!(
            "the account has {}: a database that a failover made read-only still takes its writes",
            list(&unheeding)
        );
        findings.push(Finding::warning(Code::Account, text).with_remedy(remedy()));
    }
    if !excess.is_empty() {
        let text = format!("the account may do more than idalloc needs: {}", list(&excess));
        findings.push(Finding::warning(Code::Account, text).with_remedy(remedy()));
    }
    if findings.is_empty() {
        findings.push(Finding::ok(Code::Account, "the account may do no more than idalloc needs"));
    }
    findings
}

/// The privileges that `is_meant`, each with what it is for.
fn named(grants: &[Grant], is_meant: impl Fn(&str, &Grant) -> bool) -> Vec<String> {
    let all =
        grants.iter().flat_map(|grant| grant.privileges.iter().map(move |privilege| (privilege, grant)));
    let meant = all.filter(|(privilege, grant)| is_meant(privilege, grant));
    meant.map(|(privilege, grant)| format!("{privilege} on {}", grant.on)).collect()
}

fn list(names: &[String]) -> String {
    let shown = names[..names.len().min(NAMED_MAX)].join(", ");
    match names.len().saturating_sub(NAMED_MAX) {
        0 => shown,
        more => format!("{shown} and {more} more"),
    }
}

/// Whether the server may ask for the account's password, and who then gets it, or that nobody does.
pub(super) fn check_password(conn: &mut Conn, host: &Host) -> Result<Option<Finding>, Failure> {
    let (risk, remedy) = match host.protection() {
        Protection::Full => return Ok(None),
        Protection::FromListeners => (
            "whoever answers in the server's place gets the password",
            "set tls=true in the DSN, with tls-ca=FILE for an authority of your own",
        ),
        Protection::None => (
            "after the server's next restart it asks for the password itself, which is not sent without TLS, and the account \
             is refused access",
            "set tls=true in the DSN, with tls-ca=FILE for an authority of your own, or serverPubKey=FILE, the server's public_key.pem",
        ),
    };
    let account = answer(conn, "SHOW CREATE USER CURRENT_USER()")?.unwrap_or_default();
    if !account.iter().any(|line| logs_in_by(line, &ASKING_PLUGINS)) {
        return Ok(None);
    }
    let text = format!("the account logs in by {}: {risk}", ASKING_PLUGINS[0]);
    Ok(Some(Finding::warning(Code::Password, text).with_remedy(remedy)))
}

/// The first column of an answer; `None` if the server refuses it.
fn answer(conn: &mut Conn, sql: &str) -> Result<Option<Vec<String>>, Failure> {
    let mut found = Vec::new();
    let asked = conn.query_each(sql, |row| {
        found.extend(row.get_opt(0).transpose().ok().flatten());
        Ok(())
    });
    match asked {
        Ok(()) => Ok(Some(found)),
        Err(mysql::Error::MySqlError(_)) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_an_account_that_may_do_everything_a_few_privileges_are_named() {
        let lines = [
            "GRANT SELECT, INSERT, UPDATE, DELETE, CREATE, DROP, RELOAD, SHUTDOWN, PROCESS, FILE, REFERENCES, INDEX, ALTER, \
             SHOW DATABASES, SUPER, LOCK TABLES, REPLICATION SLAVE, REPLICATION CLIENT ON *.* TO `root`@`localhost` WITH GRANT OPTION",
            "GRANT APPLICATION_PASSWORD_ADMIN,BACKUP_ADMIN,CONNECTION_ADMIN ON *.* TO `root`@`localhost` WITH GRANT OPTION",
            "GRANT PROXY ON ``@`` TO `root`@`localhost` WITH GRANT OPTION",
        ];
        let grants: Vec<Grant> = lines.iter().filter_map(|line| Grant::parse(line)).collect();
        let messages: Vec<_> = judge(&grants, "`t`").into_iter().map(|finding| finding.message).collect();
        assert_eq!(
            messages,
            [
                "the account has SUPER on *.*, CONNECTION_ADMIN on *.*: a database that a failover made read-only still takes its \
                 writes",
                "the account may do more than idalloc needs: SELECT on *.*, INSERT on *.*, UPDATE on *.*, DELETE on *.*, CREATE on \
                 *.* and 17 more",
            ]
        );
    }
}

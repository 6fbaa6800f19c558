//! `idalloc check`, and a host's first visit: whether the table is as it must be, and which settings risk IDs.

use super::conn::Conn;
use super::host::Settings;
use super::{Failure, StoreError, StoreReport, Table, rows};
use idalloc_core::store::report::{Code, Finding};

impl Table {
    /// Looks whether the table is as it must be, and what else is to be told.
    pub(super) fn vet(&self, conn: &mut Conn, place: &str) -> Result<StoreReport, Failure> {
        self.insist_on_columns(conn)?;
        self.insist_on_no_trigger(conn)?;
        let mut report = StoreReport::default();
        let columns = format!("{} has the columns {}, max_id and step", self.name, self.tag);
        report.findings.push(Finding::ok(Code::Table, columns));
        self.judge_table(conn, &mut report)?;
        judge_durability(conn, &mut report)?;
        judge_connections(conn, &mut report)?;
        if Settings::read(conn)?.logs_statements {
            report.findings.push(
                Finding::warning(
                    Code::Replication,
                    "binlog_format is STATEMENT: a server that is made read-only goes on granting IDs to a user who may \
                     ignore that",
                )
                .with_remedy("run: SET GLOBAL binlog_format = 'ROW'; and set it in the option file"),
            );
        }
        for (version,) in rows::<(String,)>(conn, "SELECT VERSION()", ())? {
            report.store = format!("{} at {place}", product(&version));
        }
        for (_, version) in rows::<(String, String)>(conn, "SHOW SESSION STATUS LIKE 'Ssl_version'", ())? {
            let encrypted = if version.is_empty() { "not encrypted" } else { version.as_str() };
            report.findings.push(Finding::ok(Code::Connection, format!("connection: {encrypted}")));
        }
        Ok(report)
    }

    fn judge_table(&self, conn: &mut Conn, report: &mut StoreReport) -> Result<(), Failure> {
        let (here, names) = self.in_schema();
        let sql = format!("SELECT COALESCE(engine, '') FROM information_schema.tables WHERE {here}");
        for (engine,) in rows::<(String,)>(conn, sql, names)? {
            let remedy = format!("run: ALTER TABLE {} ENGINE = InnoDB;", self.name);
            let text = format!("the engine is {engine}");
            report.findings.push(durable(
                engine.eq_ignore_ascii_case("InnoDB"),
                text,
                "a crash may take IDs back",
                remedy,
            ));
        }
        Ok(())
    }

    pub(super) fn insist_on_columns(&self, conn: &mut Conn) -> Result<(), Failure> {
        // Tells a missing table from one that this user may not see, which information_schema does not.
        conn.query_drop(format!("SELECT 1 FROM {} LIMIT 0", self.name))?;
        let (here, names) = self.in_schema();
        let sql = format!("SELECT 1 FROM information_schema.views WHERE {here}");
        let views: Vec<(i64,)> = rows(conn, sql, names)?;
        if !views.is_empty() {
            let text = format!("{} is a view: name the table that it shows", self.name);
            return Err(StoreError::Schema(text).into());
        }
        let sql = format!("SELECT column_name, data_type FROM information_schema.columns WHERE {here}");
        let columns: Vec<(String, String)> = rows(conn, sql, names)?;
        let sql = format!(
            "SELECT COUNT(*) FROM (SELECT 1 FROM information_schema.statistics WHERE {here} AND non_unique = 0 \
             GROUP BY index_name HAVING COUNT(*) = 1 AND MAX(column_name) = ? AND MAX(sub_part) IS NULL) AS k"
        );
        let keys: Vec<(u64,)> = rows(conn, sql, (names.0, names.1, self.spec.tag_column.as_str()))?;
        match self.fault(&columns, keys.iter().any(|(count,)| *count > 0)) {
            Some(fault) => Err(StoreError::Schema(fault).into()),
            None => Ok(()),
        }
    }

    /// What is wrong with the columns (name and type each), with the statement that mends it.
    fn fault(&self, columns: &[(String, String)], tag_is_unique: bool) -> Option<String> {
        const INTEGERS: [&str; 5] = ["bigint", "int", "mediumint", "smallint", "tinyint"];
        const NO_TEXT: [&str; 14] = [
            "bigint",
            "int",
            "mediumint",
            "smallint",
            "tinyint",
            "decimal",
            "float",
            "double",
            "bit",
            "date",
            "datetime",
            "timestamp",
            "time",
            "year",
        ];
        let Table { name, tag, .. } = self;
        let type_of = |wanted: &str| {
            let column = columns.iter().find(|(column, _)| column.eq_ignore_ascii_case(wanted));
            column.map(|(_, data_type)| data_type.to_ascii_lowercase())
        };
        if type_of(self.spec.tag_column.as_str()).is_none() {
            let names: Vec<&str> = columns.iter().map(|(column, _)| column.as_str()).collect();
            return Some(format!("{name} has no column {tag}, only {}: set TagColumn", names.join(", ")));
        }
        if let Some(data_type) =
            type_of(self.spec.tag_column.as_str()).filter(|t| NO_TEXT.contains(&t.as_str()))
        {
            return Some(format!(
                "{name}: column {tag} is {}, which does not hold text; \
                 run: ALTER TABLE {name} MODIFY {tag} VARCHAR(128) CHARACTER SET utf8mb4 COLLATE utf8mb4_bin NOT NULL;",
                data_type.to_ascii_uppercase()
            ));
        }
        if !tag_is_unique {
            return Some(format!(
                "{name}: two rows may have the same {tag}; run: ALTER TABLE {name} ADD UNIQUE KEY ({tag});"
            ));
        }
        for (column, allowed, clause) in [
            ("max_id", &INTEGERS[..1], "max_id BIGINT NOT NULL DEFAULT 0"),
            ("step", &INTEGERS[..], "step BIGINT NOT NULL DEFAULT 100000"),
        ] {
            match type_of(column) {
                None => {
                    return Some(format!(
                        "{name} has no column {column}; run: ALTER TABLE {name} ADD COLUMN {clause};"
                    ));
                }
                Some(data_type) if !allowed.contains(&data_type.as_str()) => {
                    return Some(format!(
                        "{name}: column {column} is {}, which does not hold 64-bit integers; \
                         run: ALTER TABLE {name} MODIFY {clause};",
                        data_type.to_ascii_uppercase()
                    ));
                }
                Some(_) => {}
            }
        }
        None
    }

    /// After a statement that runs a trigger, a server says that `LAST_INSERT_ID` is 0.
    fn insist_on_no_trigger(&self, conn: &mut Conn) -> Result<(), Failure> {
        let (_, (database, table)) = self.in_schema();
        let sql = "SELECT trigger_schema, trigger_name FROM information_schema.triggers \
                   WHERE event_object_schema = COALESCE(?, DATABASE()) AND event_object_table = ? \
                   AND event_manipulation = 'UPDATE'";
        match rows::<(String, String)>(conn, sql, (database, table))?.first() {
            Some((schema, trigger)) => Err(StoreError::Schema(format!(
                "{}: trigger {trigger} runs at every reservation, whose answer the server then withholds; \
                 run: DROP TRIGGER `{schema}`.`{trigger}`;",
                self.name
            ))
            .into()),
            None => Ok(()),
        }
    }
}

/// Whether an acknowledged commit outlives a crash of the server's machine.
fn judge_durability(conn: &mut Conn, report: &mut StoreReport) -> Result<(), Failure> {
    const RISK: &str = "a crash of the machine may take IDs back";
    let remedy = |setting: &str| format!("run: SET GLOBAL {setting} = 1; and set it in the option file");
    let sql = "SELECT @@GLOBAL.innodb_flush_log_at_trx_commit, @@GLOBAL.log_bin, @@GLOBAL.sync_binlog";
    for (flush, log_bin, sync_binlog) in rows::<(u64, u64, u64)>(conn, sql, ())? {
        let name = "innodb_flush_log_at_trx_commit";
        // MariaDB's 3 flushes at every commit too.
        let is_durable = flush == 1 || flush == 3;
        report.findings.push(durable(is_durable, format!("{name} is {flush}"), RISK, remedy(name)));
        if log_bin == 0 {
            report.findings.push(Finding::ok(Code::Durability, "log_bin is OFF"));
        } else {
            let text = format!("log_bin is ON, sync_binlog is {sync_binlog}");
            report.findings.push(durable(sync_binlog == 1, text, RISK, remedy("sync_binlog")));
        }
    }
    Ok(())
}

/// Whether the account may have as many connections as a server uses.
fn judge_connections(conn: &mut Conn, report: &mut StoreReport) -> Result<(), Failure> {
    let sql = "SHOW SESSION VARIABLES WHERE Variable_name = 'max_user_connections'";
    for (name, limit) in rows::<(String, String)>(conn, sql, ())? {
        if limit != "0" {
            let text = format!(
                "{name} of this account is {limit}: a server has RefillThreads + 1 sessions, a few more for \
                 operators, and with fewer connections they take turns"
            );
            report.findings.push(Finding::ok(Code::Connections, text));
        }
    }
    Ok(())
}

fn durable(is_durable: bool, text: String, risk: &str, remedy: String) -> Finding {
    match is_durable {
        true => Finding::ok(Code::Durability, text),
        false => Finding::warning(Code::Durability, format!("{text}: {risk}")).with_remedy(remedy),
    }
}

fn product(version: &str) -> String {
    let name = if version.contains("MariaDB") { "MariaDB" } else { "MySQL" };
    format!("{name} {}", version.split('-').next().unwrap_or(version))
}

//! What a look found, in words for an operator and in codes for programs.

use std::fmt;

/// How bad a finding is. The order is that of badness.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Severity {
    /// As it should be.
    Ok,
    /// It works, and risks something.
    Warning,
    /// Somebody has to mend it.
    Error,
}

impl Severity {
    /// The word for programs.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Warning => "warning",
            Self::Error => "error",
        }
    }
}

/// Makes the codes and their list from one table.
macro_rules! codes {
    ($($(#[$doc:meta])* $name:ident = $text:literal,)*) => {
        /// What a finding is about. The texts do not change: programs tell findings by them.
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub enum Code { $($(#[$doc])* $name,)* }

        impl Code {
            /// All of them.
            pub const ALL: &[Code] = &[$(Code::$name,)*];

            /// The text for programs.
            #[must_use]
            pub fn as_str(self) -> &'static str {
                match self { $(Code::$name => $text,)* }
            }
        }
    };
}

codes! {
    /// The configuration as a whole.
    Configuration = "configuration",
    /// Who can read and write its file.
    ConfigurationFile = "configuration-file",
    /// Who reaches the clients' port.
    ClientsPort = "clients-port",
    /// Who reaches the operator's port.
    OperatorsPort = "operators-port",
    /// The watermark file's path.
    WatermarkFile = "watermark-file",
    /// The embedded store's path.
    DatabaseFile = "database-file",
    /// Whether the store can be used at all.
    Store = "store",
    /// The table and its columns.
    Table = "table",
    /// Whether an acknowledged commit outlives a crash.
    Durability = "durability",
    /// What a failover to another server can do.
    Replication = "replication",
    /// One of the hosts of the DSN.
    Host = "host",
    /// Whether the connection is encrypted.
    Connection = "connection",
    /// How many connections the account may have.
    Connections = "connections",
    /// Who gets the account's password.
    Password = "password",
    /// What the account may do.
    Account = "account",
    /// The table's rows as a whole.
    Rows = "rows",
    /// A row that gets no IDs.
    RowAtFault = "row-at-fault",
    /// A row that has nearly come to its end.
    RowNearEnd = "row-near-end",
}

/// One thing that was looked at.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// How bad it is.
    pub severity: Severity,
    /// What it is about.
    pub code: Code,
    /// What was found.
    pub message: String,
    /// What to do about it; `None` where there is nothing to do, or where the message says it.
    pub remedy: Option<String>,
}

impl Finding {
    /// As it should be.
    pub fn ok(code: Code, message: impl Into<String>) -> Self {
        Self { severity: Severity::Ok, code, message: message.into(), remedy: None }
    }

    /// A risk.
    pub fn warning(code: Code, message: impl Into<String>) -> Self {
        Self { severity: Severity::Warning, code, message: message.into(), remedy: None }
    }

    /// A fault.
    pub fn error(code: Code, message: impl Into<String>) -> Self {
        Self { severity: Severity::Error, code, message: message.into(), remedy: None }
    }

    /// With what to do about it.
    #[must_use]
    pub fn with_remedy(mut self, remedy: impl Into<String>) -> Self {
        self.remedy = Some(remedy.into());
        self
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)?;
        self.remedy.iter().try_for_each(|remedy| write!(f, "; {remedy}"))
    }
}

/// What [`SegmentStore::check`](super::SegmentStore::check) found.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct StoreReport {
    /// The product, its version and where it is, without credentials.
    pub store: String,
    /// What was looked at.
    pub findings: Vec<Finding>,
}

impl StoreReport {
    /// What is as it should be, a line each.
    #[must_use]
    pub fn facts(&self) -> Vec<String> {
        self.lines(Severity::Ok)
    }

    /// What works but risks IDs, a line each, with the remedy.
    #[must_use]
    pub fn warnings(&self) -> Vec<String> {
        self.lines(Severity::Warning)
    }

    fn lines(&self, severity: Severity) -> Vec<String> {
        let found = self.findings.iter().filter(|finding| finding.severity == severity);
        found.map(Finding::to_string).collect()
    }
}

//! What was found: printed as it is found, or as JSON when all is.

use std::io;

use idalloc::escape::visible;
use idalloc::store::StoreError;
use idalloc::store::report::{Code, Finding, Severity};
use serde_json::{Value, json};

use crate::cli::RunError;
use crate::cli::output::{print, print_json};

pub(super) struct Report {
    as_json: bool,
    findings: Vec<Finding>,
}

impl Report {
    pub fn new(as_json: bool) -> Report {
        Report { as_json, findings: Vec::new() }
    }

    /// What follows is about this.
    pub fn begin(&mut self, heading: &str, finding: Finding) -> io::Result<()> {
        self.findings.push(finding);
        if self.as_json { Ok(()) } else { print(&visible(heading)) }
    }

    pub fn add(&mut self, findings: impl IntoIterator<Item = Finding>) -> io::Result<()> {
        for finding in findings {
            if !self.as_json {
                print(&format!("  {}: {}", label(finding.severity), visible(&finding.to_string())))?;
            }
            self.findings.push(finding);
        }
        Ok(())
    }

    /// Nothing more is looked at, because all was, or because of an error.
    pub fn end(mut self, outcome: Result<(), RunError>) -> Result<(), RunError> {
        if self.as_json {
            self.findings.extend(outcome.as_ref().err().map(finding));
            print_json(&self.to_json())?;
        }
        outcome
    }

    fn to_json(&self) -> Value {
        let worst = self.findings.iter().map(|finding| finding.severity).max().unwrap_or(Severity::Ok);
        let findings: Vec<_> = self.findings.iter().map(to_json).collect();
        json!({"result": worst.as_str(), "findings": findings})
    }
}

fn label(severity: Severity) -> &'static str {
    match severity {
        Severity::Ok => "good",
        Severity::Warning => "warning",
        Severity::Error => "fault",
    }
}

fn to_json(finding: &Finding) -> Value {
    json!({
        "severity": finding.severity.as_str(),
        "code": finding.code.as_str(),
        "message": finding.message,
        "remedy": finding.remedy,
    })
}

/// The error that the command ends with.
fn finding(error: &RunError) -> Finding {
    let code = match error {
        RunError::RowsAtFault(_) => Code::Rows,
        RunError::Config(_) => Code::Configuration,
        RunError::Store(StoreError::Schema(_)) => Code::Table,
        RunError::Store(StoreError::Unsafe(_) | StoreError::Replaced(_)) => Code::DatabaseFile,
        _ => Code::Store,
    };
    Finding::error(code, error.to_string())
}

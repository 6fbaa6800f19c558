//! Files: who can read and write the configuration, and whether a server finds its files where it can write them.

use std::fs::{self, Metadata};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use idalloc::config::secrets_in;
use idalloc::store::report::{Code, Finding};
use rustix::fs::{Access, AtFlags, CWD, accessat};

const READABLE_BY_OTHERS: u32 = 0o004;
const WRITABLE_BY_OTHERS: u32 = 0o002;
const SEARCHABLE_BY_OTHERS: u32 = 0o001;
/// In such a directory only a file's owner can replace it.
const STICKY: u32 = 0o1000;

/// Where containers get their secrets. They have no other accounts.
const SECRETS_OF_CONTAINERS: &str = "/run/secrets";

/// Who can read and write the configuration. `None` if that cannot be looked at.
pub(super) fn configuration(path: &Path) -> Option<Finding> {
    let secrets = secrets_in(&fs::read_to_string(path).ok()?).ok()?;
    let found = fs::metadata(path).ok()?;
    let shown = path.display();
    let mode = found.mode() & 0o777;
    let warning = |text: String, change: &str| {
        let remedy = format!("run: chmod {change} {}", quoted(path));
        Some(Finding::warning(Code::ConfigurationFile, text).with_remedy(remedy))
    };
    if others_may(WRITABLE_BY_OTHERS, path, &found) {
        return warning(
            format!("{shown} can be changed by every account of this machine (mode {mode:o})"),
            "o-w",
        );
    }
    if others_may(READABLE_BY_OTHERS, path, &found) && !secrets.is_empty() {
        let text = format!(
            "{shown} can be read by every account of this machine (mode {mode:o}), and holds secrets: {}",
            secrets.join(", ")
        );
        return warning(text, "o-rwx");
    }
    let text = match secrets.is_empty() {
        true => format!("{shown} holds no secrets"),
        false => format!("{shown} holds secrets, and not every account of this machine can read it"),
    };
    Some(Finding::ok(Code::ConfigurationFile, text))
}

pub(super) fn watermark(path: &Path) -> Vec<Finding> {
    look(Place {
        code: Code::WatermarkFile,
        key: "WatermarkPath",
        path,
        loss: "what was granted is forgotten",
    })
}

pub(super) fn database(path: &Path) -> Vec<Finding> {
    look(Place { code: Code::DatabaseFile, key: "DSN", path, loss: "IDs are granted again" })
}

/// A file that a server writes.
struct Place<'a> {
    code: Code,
    /// What names it.
    key: &'static str,
    path: &'a Path,
    /// What another file in its place means.
    loss: &'static str,
}

fn look(place: Place<'_>) -> Vec<Finding> {
    let Place { code, key, path, loss } = place;
    let shown = path.display();
    let warning = |text: String, remedy: String| Finding::warning(code, text).with_remedy(remedy);
    let mut findings = Vec::new();
    if let Ok(target) = fs::read_link(path) {
        findings.push(warning(
            format!(
                "{shown} is a symbolic link to {}: if it is made to lead elsewhere, {loss}",
                target.display()
            ),
            format!("name the file itself in {key}"),
        ));
    }
    let file = real_path(path);
    let directory = directory_of(&file);
    let may = |what: &Path, access| accessat(CWD, what, access, AtFlags::EACCESS);
    if let Err(error) = may(&directory, Access::WRITE_OK | Access::EXEC_OK) {
        findings.push(warning(
            format!("this account cannot write in the directory of {shown}: {error}; nor can a server that runs as it"),
            format!("let the server's account write in {}, or name another file in {key}", directory.display()),
        ));
    }
    if let Ok(found) = fs::metadata(&file) {
        if let Err(error) = may(&file, Access::READ_OK | Access::WRITE_OK) {
            findings.push(warning(
                format!("this account cannot write {shown}: {error}; nor can a server that runs as it"),
                format!("let the server's account own {}", file.display()),
            ));
        }
        if others_may(WRITABLE_BY_OTHERS, &file, &found) {
            let text = format!("{shown} can be changed by every account of this machine: {loss}");
            findings.push(warning(text, format!("run: chmod o-w {}", quoted(&file))));
        }
    }
    if fs::metadata(&directory)
        .is_ok_and(|found| found.mode() & STICKY == 0 && others_may(WRITABLE_BY_OTHERS, &directory, &found))
    {
        let text = format!(
            "{shown} can be replaced by every account of this machine, which can write in its directory: {loss}"
        );
        findings.push(warning(text, format!("run: chmod o-w {}", quoted(&directory))));
    }
    if findings.is_empty() {
        findings.push(Finding::ok(
            code,
            format!("this account can write {shown}, and not every account of this machine can"),
        ));
    }
    findings
}

/// Whether accounts that are neither the owner nor of the group may do this with the file, and get at it.
fn others_may(what: u32, path: &Path, found: &Metadata) -> bool {
    found.mode() & what != 0 && fs::canonicalize(path).is_ok_and(|path| !is_kept_from_others(&path))
}

fn is_kept_from_others(path: &Path) -> bool {
    let is_closed = |directory: &Path| {
        fs::metadata(directory).is_ok_and(|found| found.mode() & SEARCHABLE_BY_OTHERS == 0)
    };
    path.starts_with(SECRETS_OF_CONTAINERS) || path.ancestors().skip(1).any(is_closed)
}

/// Where the path leads, whether there is a file or not.
fn real_path(path: &Path) -> PathBuf {
    fs::canonicalize(path).unwrap_or_else(|_| match fs::read_link(path) {
        Ok(target) => directory_of(path).join(target),
        Err(_) => path.to_path_buf(),
    })
}

fn directory_of(path: &Path) -> PathBuf {
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent.to_path_buf(),
        _ => PathBuf::from("."),
    }
}

/// The path as a command takes it on a shell's line.
fn quoted(path: &Path) -> String {
    let text = path.display().to_string();
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "/._-".contains(c);
    let begin = if text.starts_with('-') { "./" } else { "" };
    match text.chars().all(is_plain) {
        true => format!("{begin}{text}"),
        false => format!("{begin}'{}'", text.replace('\'', r"'\''")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_is_quoted_for_the_shell_where_it_must_be() {
        for (path, expected) in [
            ("/etc/idalloc/a-b_c.json", "/etc/idalloc/a-b_c.json"),
            ("a b", "'a b'"),
            ("it's", r"'it'\''s'"),
            ("-a", "./-a"),
        ] {
            assert_eq!(quoted(Path::new(path)), expected);
        }
    }

    #[test]
    fn the_secrets_of_a_container_are_kept_from_others() {
        assert!(is_kept_from_others(Path::new("/run/secrets/config.json")));
        assert!(!is_kept_from_others(Path::new("/run/secretsx/config.json")));
    }
}

//! The database file as the operating system has it: whether it may be opened, and whether it still is where it was.
//!
//! SQLite's locks belong to the file, its journal and its shared memory to the path (`PATH-wal`, `PATH-shm`). Who reaches one
//! file by two paths, or two files by one path, one after the other, shares neither: each grants what the other granted.
//!
//! No file is opened here. To close any descriptor of a file ends every lock that this process has on it, SQLite's too.

use std::ffi::OsString;
use std::fs::{self, Metadata};
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Mutex;

use rustix::fs::{AtFlags, CWD, StatxAttributes, StatxFlags};

use crate::dsn::SqliteDsn;
use idalloc_core::store::StoreError;
use idalloc_core::store::report::{Code, Finding};
use idalloc_core::sync::lock;

/// Where the kernel tells what is mounted, if it is too old for `STATX_ATTR_MOUNT_ROOT`.
const MOUNTS: &str = "/proc/self/mountinfo";

/// File systems, by the number that `statfs` tells, whose locks or shared memory may not reach everybody who has the file.
const UNRELIABLE: [(u32, &str); 12] = [
    (0x6969, "NFS"),
    (0x517B, "SMB"),
    (0xFE53_4D42, "SMB"),
    (0xFF53_4D42, "CIFS"),
    (0x0102_1997, "9P"),
    (0x6573_5546, "FUSE"),
    (0x00C3_6400, "Ceph"),
    (0x5346_414F, "AFS"),
    (0x7375_7245, "Coda"),
    (0x0BD0_0BD0, "Lustre"),
    (0x0116_1970, "GFS2"),
    (0x7461_636F, "OCFS2"),
];

/// File systems that a reboot empties.
const VOLATILE: [(u32, &str); 2] = [(0x0102_1994, "tmpfs"), (0x8584_58F6, "ramfs")];

/// A new file before it has its name.
const NEW_FILE_PREFIX: &str = ".idalloc-new-";

/// Who may use a new file, as far as the process's umask allows: as SQLite has it.
const NEW_FILE_MODE: u32 = 0o644;

/// What tells one file from another for as long as somebody has it open.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct FileId {
    device: u64,
    inode: u64,
}

impl FileId {
    pub fn of(path: &Path) -> io::Result<FileId> {
        fs::metadata(path).map(|found| FileId::from(&found))
    }
}

impl From<&Metadata> for FileId {
    fn from(found: &Metadata) -> FileId {
        FileId { device: found.dev(), inode: found.ino() }
    }
}

/// The path of the configuration, and the one file that all sessions of this process use.
#[derive(Debug)]
pub(super) struct DatabaseFile {
    path: PathBuf,
    any_file_system: bool,
    opened: Mutex<Opened>,
}

#[derive(Debug)]
enum Opened {
    Nothing,
    This(FileId),
    /// It was found to be replaced. For good: whatever is at the path later, others may have used it meanwhile.
    Replaced(StoreError),
}

impl DatabaseFile {
    pub fn new(dsn: &SqliteDsn) -> DatabaseFile {
        DatabaseFile {
            path: dsn.path.clone(),
            any_file_system: dsn.any_file_system,
            opened: Mutex::new(Opened::Nothing),
        }
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Whether there is no such file, and never was one as far as this process knows.
    pub fn is_missing(&self) -> bool {
        matches!(*lock(&self.opened), Opened::Nothing)
            && FileId::of(&self.path).is_err_and(|error| error.kind() == io::ErrorKind::NotFound)
    }

    /// What a file that was removed without its journal leaves: opened beside a new file, it would be taken for the new one's.
    pub fn insist_on_no_leftovers(&self) -> Result<(), StoreError> {
        for left in companions(&self.path) {
            // The file is looked for once more, and last: another process may have made both meanwhile.
            if left.exists() && self.is_missing() {
                return Err(StoreError::Unsafe(format!(
                    "{}: there is no such file, but its {} is there: the file was moved or removed without it. \
                     Put the file back; to begin anew, remove that one too",
                    self.path.display(),
                    left.display()
                )));
            }
        }
        Ok(())
    }

    /// Makes the file, as `fill` fills a new one, and gives it its name only then: at the path there is a whole one or none.
    /// False if there is one meanwhile.
    pub fn create(&self, fill: impl FnOnce(&Path) -> Result<(), StoreError>) -> Result<bool, StoreError> {
        // Where a link leads to, if the path is one.
        let path = fs::read_link(&self.path)
            .map_or_else(|_| self.path.clone(), |target| beside(&self.path).join(target));
        let directory = beside(&path);
        self.insist_on_file_system(&directory)?;
        let not_made = |error: io::Error| {
            let text = format!("{}: cannot be made: {error}", self.path.display());
            match error.kind() {
                io::ErrorKind::PermissionDenied => StoreError::Denied(text),
                _ => StoreError::Unavailable(text),
            }
        };
        let mut builder = tempfile::Builder::new();
        builder.prefix(NEW_FILE_PREFIX).permissions(fs::Permissions::from_mode(NEW_FILE_MODE));
        // Closed before SQLite opens it, see above.
        let new = builder.tempfile_in(&directory).map_err(not_made)?.into_temp_path();
        fill(&new)?;
        match new.persist_noclobber(&path) {
            Ok(()) => {}
            Err(error) if error.error.kind() == io::ErrorKind::AlreadyExists => return Ok(false),
            Err(error) => return Err(not_made(error.error)),
        }
        fs::File::open(&directory).and_then(|directory| directory.sync_all()).map_err(not_made)?;
        Ok(true)
    }

    fn insist_on_file_system(&self, path: &Path) -> Result<(), StoreError> {
        match name_in(&UNRELIABLE, file_system(path)) {
            Some(name) if !self.any_file_system => Err(StoreError::Unsafe(format!(
                "{}: it is on {name}, where another machine or process may not see SQLite's locks, and grants the same \
                 IDs; put it on a local disk. If no other ever opens it, set AllowUnreliableFileSystem to yes",
                self.path.display()
            ))),
            _ => Ok(()),
        }
    }

    /// Looks whether the file may be opened: everybody who has it must share its locks and its journal.
    pub fn insist_on_fitness(&self) -> Result<(), StoreError> {
        let place = self.path.display();
        // First, because it also has the file system forget what it remembers of the file.
        let is_mount_point = self.is_mount_point();
        let found = fs::metadata(&self.path).map_err(|error| self.not_opened(&error))?;
        let refuse = |reason: String| Err(StoreError::Unsafe(format!("{place}: {reason}")));
        if !found.is_file() {
            return refuse("this is no file: the DSN must name one".into());
        }
        if found.nlink() > 1 {
            return refuse(format!(
                "the file has {} names (hard links), and who opens it by another grants the same IDs; \
                 leave it one: `find DIRECTORY -inum {}` finds the others",
                found.nlink(),
                found.ino()
            ));
        }
        if is_mount_point {
            return refuse(
                "the file itself is a mount point, so it is there under another path too, and who opens it by that \
                 grants the same IDs; mount its directory instead"
                    .into(),
            );
        }
        self.insist_on_file_system(&self.path)
    }

    /// What is good about the file's place, and what risks IDs.
    pub fn describe(&self) -> Vec<Finding> {
        let found = file_system(&self.path);
        let risk = match (name_in(&UNRELIABLE, found), name_in(&VOLATILE, found)) {
            (Some(name), _) => Some(Finding::warning(
                Code::DatabaseFile,
                format!(
                    "the file is on {name}, as AllowUnreliableFileSystem allows: if a second process opens it, the same IDs \
                     may be granted twice"
                ),
            )),
            (_, Some(name)) => Some(
                Finding::warning(
                    Code::DatabaseFile,
                    format!("the file is on {name}: it is gone after a reboot, and the IDs begin anew"),
                )
                .with_remedy("put it on a disk"),
            ),
            (None, None) => None,
        };
        let good = Finding::ok(Code::DatabaseFile, "the file has one name, and is no mount point");
        [good].into_iter().chain(risk).collect()
    }

    /// Why the file cannot be opened.
    pub fn not_opened(&self, error: &io::Error) -> StoreError {
        let text = format!("{}: {error}", self.path.display());
        match error.kind() {
            io::ErrorKind::NotFound if beside(&self.path).is_dir() => {
                StoreError::Unavailable(format!("{text}; `idalloc init` makes it"))
            }
            io::ErrorKind::PermissionDenied => StoreError::Denied(text),
            _ => StoreError::Unavailable(text),
        }
    }

    /// Takes note of what a session has opened: the first time that, later it must be the same.
    pub fn opened(&self, found: FileId) -> Result<(), StoreError> {
        let mut opened = lock(&self.opened);
        match *opened {
            Opened::Nothing => *opened = Opened::This(found),
            Opened::This(known) if known == found => {}
            Opened::This(_) => *opened = Opened::Replaced(replaced(&self.path, "another file is there")),
            Opened::Replaced(_) => {}
        }
        match &*opened {
            Opened::Replaced(error) => Err(error.clone()),
            _ => Ok(()),
        }
    }

    /// Looks whether the path leads to the file that was opened first, if any was.
    pub fn verify(&self) -> Result<(), StoreError> {
        let known = match &*lock(&self.opened) {
            Opened::Nothing => return Ok(()),
            Opened::This(known) => *known,
            Opened::Replaced(error) => return Err(error.clone()),
        };
        self.insist_on(&self.path, known)
    }

    /// Looks whether `path` leads to `known`, which is this file, or beside it and used with it.
    pub fn insist_on(&self, path: &Path, known: FileId) -> Result<(), StoreError> {
        let what = match FileId::of(path) {
            Ok(found) if found == known => return Ok(()),
            Ok(_) => "another file is there",
            Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {
                "it was moved or removed"
            }
            Err(error) => return Err(StoreError::Unavailable(format!("{}: {error}", path.display()))),
        };
        let error = replaced(path, what);
        *lock(&self.opened) = Opened::Replaced(error.clone());
        Err(error)
    }

    fn is_mount_point(&self) -> bool {
        match rustix::fs::statx(CWD, &self.path, AtFlags::STATX_FORCE_SYNC, StatxFlags::NLINK) {
            Ok(found) if found.stx_attributes_mask.contains(StatxAttributes::MOUNT_ROOT) => {
                found.stx_attributes.contains(StatxAttributes::MOUNT_ROOT)
            }
            _ => match (fs::canonicalize(&self.path), fs::read(MOUNTS)) {
                (Ok(path), Ok(mounts)) => is_mounted_at(&mounts, &path),
                _ => false,
            },
        }
    }
}

/// The number of its file system, of which 32 bits count.
fn file_system(path: &Path) -> Option<u32> {
    rustix::fs::statfs(path).ok().map(|found| found.f_type as u32)
}

/// The directory of `path`.
fn beside(path: &Path) -> PathBuf {
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent.to_path_buf(),
        _ => PathBuf::from("."),
    }
}

fn name_in(known: &[(u32, &'static str)], number: Option<u32>) -> Option<&'static str> {
    known.iter().find(|(known, _)| Some(*known) == number).map(|(_, name)| *name)
}

fn replaced(path: &Path, what: &str) -> StoreError {
    StoreError::Replaced(format!(
        "{}: this is not the file that the server has open: {what}. What it granted may be granted again by whoever uses the \
         other one, so it hands out nothing more. Put the right file back in its place, and restart the server",
        path.display()
    ))
}

/// The files beside the database: its journal and its shared memory.
pub(super) fn companions(path: &Path) -> [PathBuf; 2] {
    // SQLite follows links before it names them.
    let path = fs::canonicalize(path).unwrap_or_else(|_| path.to_path_buf());
    ["-wal", "-shm"].map(|ending| {
        let mut name = OsString::from(&path);
        name.push(ending);
        PathBuf::from(name)
    })
}

/// Whether `mounts`, the text of [`MOUNTS`], has something mounted at `path`.
fn is_mounted_at(mounts: &[u8], path: &Path) -> bool {
    mounts
        .split(|byte| *byte == b'\n')
        .filter_map(|line| line.split(|byte| *byte == b' ').nth(4))
        .any(|point| unescape(point) == path.as_os_str().as_bytes())
}

/// White space and backslashes are written as three octal digits.
fn unescape(text: &[u8]) -> Vec<u8> {
    let mut plain = Vec::with_capacity(text.len());
    let mut rest = text;
    while let Some((first, after)) = rest.split_first() {
        let octal = after.get(..3).and_then(|digits| std::str::from_utf8(digits).ok());
        match octal.and_then(|digits| u8::from_str_radix(digits, 8).ok()).filter(|_| *first == b'\\') {
            Some(byte) => {
                plain.push(byte);
                rest = &after[3..];
            }
            None => {
                plain.push(*first);
                rest = after;
            }
        }
    }
    plain
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mount_point_is_found_whatever_its_name_is() {
        let mounts = b"63 43 254:0 /a /tmp/a\\040b\\134c rw,relatime - ext4 /dev/vda rw\n27 1 254:0 / / rw - ext4 /dev/vda rw\n";
        for (path, expected) in [("/tmp/a b\\c", true), ("/", true), ("/a", false), ("/tmp/a", false)] {
            assert_eq!(is_mounted_at(mounts, Path::new(path)), expected, "{path}");
        }
    }
}

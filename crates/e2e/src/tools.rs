//! Programs that look at the files of deploy/, and those files.

use std::path::{Path, PathBuf};
use std::process::Command;

const INSTALL_HINT: &str = "install it: sh tests/install-e2e.sh (make e2e does)";

/// A file of the project.
pub fn project_file(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").join(path)
}

/// What it says.
pub fn text_of(path: &str) -> String {
    std::fs::read_to_string(project_file(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

/// A program: of the linters that tests/install-e2e.sh fetches, of Debian's sbin, or of the PATH.
pub fn program(name: &str) -> Command {
    let places = [project_file("target/e2e-tools/bin").join(name), Path::new("/usr/sbin").join(name)];
    Command::new(places.into_iter().find(|path| path.is_file()).unwrap_or_else(|| name.into()))
}

/// Starts what `run` starts of a program, or says how to install it.
pub fn installed<T>(name: &str, run: std::io::Result<T>) -> T {
    run.unwrap_or_else(|error| panic!("cannot run {name} ({error}); {INSTALL_HINT}"))
}

/// Runs a program to its end, which must be a good one.
pub fn runs(name: &str, command: &mut Command) {
    let output = installed(name, command.output());
    let said = [output.stdout, output.stderr].concat();
    assert!(output.status.success(), "{name}: {}\n{}", output.status, String::from_utf8_lossy(&said));
}

/// What a program says of its input, on both of its outputs; it must find nothing wrong.
pub fn approves(name: &str, args: &[&str]) -> String {
    let output = installed(name, program(name).args(args).current_dir(project_file("")).output());
    let said = [output.stdout, output.stderr].concat();
    let said = String::from_utf8_lossy(&said);
    assert!(output.status.success(), "{name} {args:?}: {}\n{said}", output.status);
    said.into_owned()
}

//! Which server gets the account's password.
//!
//! With `caching_sha2_password` a server may ask for the password itself. Through TLS or a Unix socket it goes as it is. Without,
//! it is encrypted for the server's RSA key, and the driver would ask for that key whoever answers: a server that is not the
//! database, or stands before it, would name its own. So without a key of the configuration it is not sent.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{SubjectPublicKeyInfoDer, alg_id};

use super::host::Host;
use super::{Failure, StoreError};
use crate::dsn::Tls;

/// What the driver is given where no key is configured, so that it asks no server for one: a path that is never a file, so
/// that to read it is an error before anything is sent.
const NO_KEY: &str = "/";

/// A server's error when it does not know the password.
const ACCESS_DENIED: u16 = 1045;

/// The file of the key that the driver encrypts the password for.
pub(super) fn key_path(configured: Option<&Path>) -> PathBuf {
    configured.unwrap_or(Path::new(NO_KEY)).to_path_buf()
}

/// Whether the driver can read the key: it panics if not.
pub(super) fn insist_on_key(path: &Path) -> Result<(), StoreError> {
    let refuse =
        |reason: &str| Err(StoreError::Unavailable(format!("serverPubKey {}: {reason}", path.display())));
    let text = match fs::read(path) {
        Ok(text) => text,
        Err(error) => return refuse(&error.to_string()),
    };
    let rsa = alg_id::RSA_ENCRYPTION.as_ref();
    match SubjectPublicKeyInfoDer::from_pem_slice(&text) {
        Ok(key) if key.windows(rsa.len()).any(|part| part == rsa) => Ok(()),
        _ => refuse("this is no RSA public key in PEM (BEGIN PUBLIC KEY), as in the server's public_key.pem"),
    }
}

/// What it means that there is no session with the host.
pub(super) fn judge(error: mysql::Error, host: &Host) -> Failure {
    let (name, may_be_open) = (&host.name, matches!(host.tls, Tls::Off | Tls::Preferred));
    match (&error, &host.server_key) {
        (mysql::Error::IoError(cause), None)
            if may_be_open && cause.kind() == io::ErrorKind::IsADirectory =>
        {
            StoreError::Denied(format!(
                "{name}: the server asks for the account's password (caching_sha2_password), and it was not sent: without TLS nobody \
                 knows who gets it. Set tls=true in the DSN (with tls-ca=FILE for an authority of your own), or \
                 serverPubKey=FILE, the server's public_key.pem, or give the account another plugin (mysql_native_password)"
            ))
            .into()
        }
        (mysql::Error::MySqlError(cause), Some(_)) if cause.code == ACCESS_DENIED => {
            StoreError::Denied(format!(
                "{name}: {} (error {ACCESS_DENIED}, state {}): the password is wrong, or serverPubKey is not this server's key",
                cause.message, cause.state
            ))
            .into()
        }
        _ => error.into(),
    }
}

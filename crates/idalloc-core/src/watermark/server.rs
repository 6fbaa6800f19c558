//! The server that granted what the watermarks say, and what rows owe since it is another: in the same file.

use tracing::debug;

use super::{Owed, WatermarkError, WatermarkFile, Watermarks};

impl Watermarks {
    /// The server that an earlier process remembered, and what rows owed then.
    pub fn recall(&self) -> (Option<String>, Owed) {
        self.with_file(|file| file.as_ref().map_or_else(|| (None, Owed::new()), |file| file.recall()))
    }

    /// Remembers the server and, if given, what rows owe, all of it or none; says whether that is durable. If not, the
    /// next start finds the server that was remembered before, and takes this one for another: that is safe.
    pub fn remember(&self, server: &str, owed: Option<&Owed>) -> bool {
        self.try_with_file("the database server is not remembered", |file| file.remember(server, owed))
    }

    /// The tag owes nothing any more.
    pub fn forget_debt(&self, tag: &str) {
        self.try_with_file("a tag will be raised once more after a restart", |file| file.forget_debt(tag));
    }

    fn try_with_file(
        &self,
        otherwise: &str,
        work: impl FnOnce(&mut dyn WatermarkFile) -> Result<(), WatermarkError>,
    ) -> bool {
        let done = self.with_file(|file| file.as_mut().map_or(Ok(()), |file| work(&mut **file)));
        if let Err(cause) = &done {
            debug!(%cause, "the watermark file cannot be written: {otherwise}");
        }
        done.is_ok()
    }
}

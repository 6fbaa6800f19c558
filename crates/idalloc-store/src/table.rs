//! Which table holds the tags, and the names that SQL may be made of.

/// The name of a database, table or column: 1 to 64 characters of `A-Z a-z 0-9 _ $`, so that nothing in it can end
/// the quotes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identifier(String);

/// Which table, and which of its columns holds the tag.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TableSpec {
    /// The database, where it is not the DSN's.
    pub database: Option<Identifier>,
    /// The table.
    pub name: Identifier,
    /// The column that holds the tag.
    pub tag_column: Identifier,
}

impl Identifier {
    const LEN_MAX: usize = 64;

    /// `None` if a character is not allowed, or if there are too few or too many.
    #[must_use]
    pub fn new(text: &str) -> Option<Self> {
        let allowed = |b: u8| b.is_ascii_alphanumeric() || b == b'_' || b == b'$';
        ((1..=Self::LEN_MAX).contains(&text.len()) && text.bytes().all(allowed))
            .then(|| Self(text.to_owned()))
    }

    /// The bare name, for messages and for values; SQL takes [`Self::quoted`].
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The name between backticks, as MySQL and SQLite both read it.
    #[must_use]
    pub fn quoted(&self) -> String {
        format!("`{}`", self.0)
    }
}

impl Default for TableSpec {
    /// The table and column of schema.sql, in the DSN's database.
    fn default() -> Self {
        let name = |text: &str| Identifier(text.to_owned());
        Self { database: None, name: name("segments"), tag_column: name("app_tag") }
    }
}

impl TableSpec {
    /// The table's name as the configuration has it.
    #[must_use]
    pub fn shown(&self) -> String {
        let database = self.database.iter().map(|database| format!("{}.", database.as_str()));
        database.chain([self.name.as_str().to_owned()]).collect()
    }

    /// The table's name for SQL, with its database if it has one.
    #[must_use]
    pub fn quoted(&self) -> String {
        let name = self.name.quoted();
        match &self.database {
            Some(database) => format!("{}.{name}", database.quoted()),
            None => name,
        }
    }
}

//! What the body of a request is.

/// The body of a POST. Any other is read and ignored.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub struct Body<'b> {
    /// What it is, by its Content-Type.
    pub media: Media,
    /// The body, not checked.
    pub bytes: &'b [u8],
}

/// The types of bodies that are told apart.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub enum Media {
    /// There is no body, or it is ignored.
    #[default]
    None,
    /// `application/x-www-form-urlencoded`
    Form,
    /// `application/json`
    Json,
    /// There is no Content-Type.
    Unsaid,
    /// Any `multipart`.
    Multipart,
    /// Another type.
    Other,
}

impl Media {
    /// Of a Content-Type. Its parameters are ignored: a form has none, and JSON is UTF-8.
    pub fn of(content_type: Option<&[u8]>) -> Self {
        let Some(content_type) = content_type else { return Self::Unsaid };
        let name = content_type.split(|&byte| byte == b';').next().unwrap_or_default().trim_ascii();
        match name {
            b"" => Self::Unsaid,
            _ if name.eq_ignore_ascii_case(b"application/x-www-form-urlencoded") => Self::Form,
            _ if name.eq_ignore_ascii_case(b"application/json") => Self::Json,
            _ if name.len() >= 10 && name[..10].eq_ignore_ascii_case(b"multipart/") => Self::Multipart,
            _ => Self::Other,
        }
    }
}

impl<'b> Body<'b> {
    /// No body.
    pub const EMPTY: Self = Self { media: Media::None, bytes: &[] };

    /// These bytes, of that type.
    pub fn new(media: Media, bytes: &'b [u8]) -> Self {
        if bytes.is_empty() || media == Media::None { Self::EMPTY } else { Self { media, bytes } }
    }

    /// The form, still encoded; empty if it is none.
    pub fn form(&self) -> &'b [u8] {
        if self.media == Media::Form { self.bytes } else { &[] }
    }
}

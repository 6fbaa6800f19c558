//! The values of a command, from the bytes that a client sent.

use std::borrow::Cow;

use super::Error;
use crate::store::tag::TAG_BYTES_MAX;

/// The tag in `bytes`.
///
/// # Errors
/// It is empty, too long, or no text.
pub fn tag(bytes: Cow<'_, [u8]>) -> Result<Cow<'_, str>, Error> {
    match bytes.len() {
        0 => Err(Error::invalid("app_tag is empty: it must be 1 to 128 bytes of UTF-8")),
        1..=TAG_BYTES_MAX => utf8(bytes),
        len => {
            Err(Error::invalid(format!("app_tag is {len} bytes long: it must be 1 to 128 bytes of UTF-8")))
        }
    }
}

/// The number of IDs in `text`, from 1 to `count_max`.
///
/// # Errors
/// It is no number, or out of bounds.
pub fn count(text: &[u8], count_max: u64) -> Result<u64, Error> {
    let number = std::str::from_utf8(text).ok().filter(|text| text.bytes().all(|byte| byte.is_ascii_digit()));
    match number.and_then(|digits| digits.parse::<u64>().ok()) {
        Some(count) if (1..=count_max).contains(&count) => Ok(count),
        _ => {
            let shown: String = String::from_utf8_lossy(text).chars().take(32).collect();
            Err(Error::invalid(format!("count is '{shown}': it must be a number from 1 to {count_max}")))
        }
    }
}

fn utf8(bytes: Cow<'_, [u8]>) -> Result<Cow<'_, str>, Error> {
    let error = |_| Error::invalid("app_tag is not UTF-8");
    match bytes {
        Cow::Borrowed(bytes) => std::str::from_utf8(bytes).map(Cow::Borrowed).map_err(error),
        Cow::Owned(bytes) => String::from_utf8(bytes).map(Cow::Owned).map_err(|e| error(e.utf8_error())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_count_is_digits_within_its_bounds() {
        assert_eq!(count(b"7", 10), Ok(7));
        assert_eq!(count(b"0007", 10), Ok(7));
        for bad in ["", "0", "11", "+7", "-1", "7 ", "1e3", "99999999999999999999"] {
            let error = count(bad.as_bytes(), 10).unwrap_err();
            assert_eq!(error.message, format!("count is '{bad}': it must be a number from 1 to 10"));
        }
    }

    #[test]
    fn a_tag_is_some_text() {
        assert_eq!(tag(Cow::Borrowed(b"a b")), Ok("a b".into()));
        assert!(tag(vec![b'a'; TAG_BYTES_MAX].into()).is_ok());
        for bad in [&b""[..], b"\xff", &[b'a'; TAG_BYTES_MAX + 1]] {
            assert!(tag(Cow::Borrowed(bad)).is_err(), "{bad:?}");
            assert!(tag(Cow::Owned(bad.to_vec())).is_err(), "{bad:?}");
        }
    }
}

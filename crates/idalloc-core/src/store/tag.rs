//! A tag's row as an operator writes it, and the values it may have: the rules of the command line and of the
//! operator's port.

use crate::bounds::{LEFT_MIN, MAX_ID_MAX, STEP_MAX};

/// The longest tag, in bytes.
pub const TAG_BYTES_MAX: usize = 128;

/// The longest description, in bytes; a column may hold less.
pub const DESCRIPTION_BYTES_MAX: usize = 1024;

/// The longest part of a value that an error quotes, in characters.
const QUOTED_CHARS_MAX: usize = 64;

/// One row, with what only operators care for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TagDetails {
    /// The tag, exactly as stored.
    pub name: String,
    /// The row's smallest reservation, in IDs.
    pub step: i64,
    /// The end of the newest reservation.
    pub max_id: i64,
    /// What the tag is for; `None` where the table has no such column. NULL in it is the empty text.
    pub description: Option<String>,
}

impl TagDetails {
    /// A new tag whose first ID is `start`.
    ///
    /// # Errors
    /// A value is not allowed.
    pub fn new(
        name: &str,
        step: i64,
        start: i64,
        description: Option<&str>,
    ) -> Result<TagDetails, InvalidField> {
        check_new_name(name)?;
        check_step(step)?;
        check_start(start)?;
        description.map_or(Ok(()), check_description)?;
        // The first range begins at max_id.
        Ok(TagDetails {
            name: name.to_owned(),
            step,
            max_id: start,
            description: description.map(str::to_owned),
        })
    }
}

/// A value that a row may not have.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{field} is {value}: {reason}")]
pub struct InvalidField {
    /// Which: `app_tag`, `step`, `start`, `max_id` or `description`.
    pub field: &'static str,
    /// What it was, quoted if it was text, and shortened if it was long.
    pub value: String,
    /// What is allowed.
    pub reason: String,
}

impl InvalidField {
    /// A number that is not allowed.
    #[must_use]
    pub fn number(field: &'static str, value: i64, reason: String) -> InvalidField {
        InvalidField { field, value: value.to_string(), reason }
    }

    /// A text that is not allowed.
    #[must_use]
    pub fn text(field: &'static str, value: &str, reason: String) -> InvalidField {
        InvalidField { field, value: quoted(value), reason }
    }
}

/// Text between quotes, shortened if it is long.
pub(super) fn quoted(text: &str) -> String {
    match text.char_indices().nth(QUOTED_CHARS_MAX) {
        Some((end, _)) => format!("{:?}.. ({} bytes)", &text[..end], text.len()),
        None => format!("{text:?}"),
    }
}

/// Whether a row may get this tag. One that is there already may be any text that `/alloc` takes.
///
/// # Errors
/// It is empty, too long, has control characters, begins or ends with white space, or is a part of a path that browsers
/// take for a direction (`/api/tags/..`).
pub fn check_new_name(name: &str) -> Result<(), InvalidField> {
    let is_odd = name.chars().any(char::is_control) || name.trim() != name || matches!(name, "." | "..");
    if (1..=TAG_BYTES_MAX).contains(&name.len()) && !is_odd {
        return Ok(());
    }
    let reason = format!(
        "allowed is 1 to {TAG_BYTES_MAX} bytes of UTF-8 without control characters, no white space at either end, and neither \".\" nor \"..\""
    );
    Err(InvalidField::text("app_tag", name, reason))
}

/// Whether a row may get this step.
///
/// # Errors
/// It is below 1, or above [`STEP_MAX`].
pub fn check_step(step: i64) -> Result<(), InvalidField> {
    check_number("step", step, 1, STEP_MAX)
}

/// Whether this may be a tag's first ID.
///
/// # Errors
/// It is no ID, or leaves the tag too few above it.
pub fn check_start(start: i64) -> Result<(), InvalidField> {
    check_number("start", start, 1, MAX_ID_MAX)
}

/// Whether a row's `max_id` may be raised to this.
///
/// # Errors
/// It is below 1.
pub fn check_max_id(max_id: i64) -> Result<(), InvalidField> {
    check_number("max_id", max_id, 1, i64::MAX)
}

/// Whether `max_id` may be set to `to`, which `field` says, where it is `present`.
///
/// # Errors
/// It would go down, and IDs would be handed out twice.
pub fn check_raise(field: &'static str, present: i64, to: i64) -> Result<(), InvalidField> {
    if to >= present {
        return Ok(());
    }
    let reason =
        format!("the table has {present}, and max_id only goes up, or IDs would be handed out twice");
    Err(InvalidField::number(field, to, reason))
}

/// Whether `max_id` may be raised to `to`, which `field` says, where it is `present`, and leave the tag enough IDs.
///
/// # Errors
/// A slip of the hand would use up the tag for good. One that has nearly come to its end is left a step.
pub fn check_room(field: &'static str, present: i64, to: i64, step: i64) -> Result<(), InvalidField> {
    let is_near_its_end = present > MAX_ID_MAX;
    let (last, left) = if is_near_its_end { (i64::MAX - step.max(1), step) } else { (MAX_ID_MAX, LEFT_MIN) };
    if to <= last {
        return Ok(());
    }
    let reason = format!("allowed is up to {last}, which leaves {left} IDs below 2^63");
    Err(InvalidField::number(field, to, reason))
}

/// Whether what is handed out next may begin at `from`, which `field` says, for a server with this watermark.
///
/// # Errors
/// That server was granted IDs above, and would refuse the tag.
pub fn check_watermark(field: &'static str, from: i64, watermark: Option<i64>) -> Result<(), InvalidField> {
    let Some(watermark) = watermark.filter(|watermark| from < *watermark) else { return Ok(()) };
    let reason = format!(
        "this server was granted the tag's IDs below {watermark} before; \
         allowed is {watermark} or more, or they would be handed out twice"
    );
    Err(InvalidField::number(field, from, reason))
}

/// Whether a row may get this description.
///
/// # Errors
/// It is too long, or has control characters.
pub fn check_description(description: &str) -> Result<(), InvalidField> {
    if description.len() <= DESCRIPTION_BYTES_MAX && !description.chars().any(char::is_control) {
        return Ok(());
    }
    let reason =
        format!("allowed is up to {DESCRIPTION_BYTES_MAX} bytes of UTF-8 without control characters");
    Err(InvalidField::text("description", description, reason))
}

fn check_number(field: &'static str, value: i64, min: i64, max: i64) -> Result<(), InvalidField> {
    if (min..=max).contains(&value) {
        return Ok(());
    }
    Err(InvalidField::number(field, value, format!("allowed is {min} to {max}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn complaint(result: Result<(), InvalidField>) -> String {
        result.expect_err("not allowed").to_string()
    }

    #[test]
    fn names_keep_to_what_alloc_takes_and_people_can_see() {
        for good in ["a", "...", "o'neil", "a b", "🦀", &"x".repeat(TAG_BYTES_MAX), "`?:x%_"] {
            assert_eq!(check_new_name(good), Ok(()), "{good:?}");
        }
        for bad in [
            "",
            " ",
            ".",
            "..",
            "a ",
            "\u{3000}a",
            "a\nb",
            "a\0",
            "\u{9b}31m",
            &"x".repeat(TAG_BYTES_MAX + 1),
        ] {
            let text = complaint(check_new_name(bad));
            assert!(text.starts_with("app_tag is \"") && text.contains("1 to 128 bytes"), "{text}");
        }
        let text = complaint(check_new_name(&"é".repeat(65)));
        assert!(text.starts_with(&format!("app_tag is {:?}.. (130 bytes): ", "é".repeat(64))), "{text}");
    }

    #[test]
    fn numbers_keep_to_their_range() {
        for (check, field, min, max) in [
            (check_step as fn(i64) -> _, "step", 1, STEP_MAX),
            (check_start as fn(i64) -> _, "start", 1, MAX_ID_MAX),
            (check_max_id as fn(i64) -> _, "max_id", 1, i64::MAX),
        ] {
            assert_eq!((check(min), check(max)), (Ok(()), Ok(())));
            for bad in [0, -1, i64::MIN].into_iter().chain(max.checked_add(1)) {
                assert_eq!(complaint(check(bad)), format!("{field} is {bad}: allowed is {min} to {max}"));
            }
        }
    }

    #[test]
    fn max_id_only_goes_up() {
        let raise = |present, to| check_raise("to", present, to);
        assert_eq!((raise(5, 5), raise(5, i64::MAX)), (Ok(()), Ok(())));
        let expected = "to is 4: the table has 5, and max_id only goes up";
        assert!(complaint(raise(5, 4)).starts_with(expected));
    }

    #[test]
    fn a_raise_leaves_ids_for_centuries_or_near_the_end_a_step() {
        let room = |present, to, step| check_room("max_id", present, to, step);
        for (present, step, last) in [
            (0, 10, MAX_ID_MAX),
            (MAX_ID_MAX, STEP_MAX, MAX_ID_MAX),
            (MAX_ID_MAX + 1, 10, i64::MAX - 10),
            (MAX_ID_MAX + 1, 0, i64::MAX - 1),
        ] {
            assert_eq!(room(present, last, step), Ok(()));
            let text = complaint(room(present, last + 1, step));
            assert!(text.contains(&format!("allowed is up to {last}, ")), "{text}");
        }
    }

    #[test]
    fn nothing_begins_below_what_was_granted() {
        let begin = |from, watermark| check_watermark("start", from, watermark);
        assert_eq!((begin(1, None), begin(7, Some(7))), (Ok(()), Ok(())));
        let expected =
            "start is 6: this server was granted the tag's IDs below 7 before; allowed is 7 or more";
        assert!(complaint(begin(6, Some(7))).starts_with(expected));
    }

    #[test]
    fn a_description_is_one_line() {
        for good in ["", "orders, of the shop", &"x".repeat(DESCRIPTION_BYTES_MAX)] {
            assert_eq!(check_description(good), Ok(()));
        }
        for bad in ["a\nb", &"x".repeat(DESCRIPTION_BYTES_MAX + 1)] {
            assert!(complaint(check_description(bad)).contains("up to 1024 bytes"), "{bad}");
        }
    }

    #[test]
    fn a_new_tag_starts_with_the_id_that_it_was_told() {
        let tag = TagDetails::new("a", 10, 1000, Some("why")).expect("all is allowed");
        assert_eq!((tag.step, tag.max_id, tag.description.as_deref()), (10, 1000, Some("why")));
        for (name, step, start, description, field) in [
            ("", 1, 1, None, "app_tag"),
            ("a", 0, 1, None, "step"),
            ("a", 1, 0, None, "start"),
            ("a", 1, 1, Some("\n"), "description"),
        ] {
            let result = TagDetails::new(name, step, start, description);
            assert_eq!(result.expect_err("not allowed").field, field);
        }
    }
}

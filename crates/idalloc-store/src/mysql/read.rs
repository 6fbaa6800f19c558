//! Rows as they come from the server: what of them is as it must be, and what is not.

use mysql::consts::ColumnType;
use mysql::{Row, Value};

use idalloc_core::store::rows::{UnreadableRow, askable_name, no_text, null_tag};
use idalloc_core::store::{TagDetails, TagRow};

/// The row that begins with a tag, read by `read`, which says what is wrong with the rest.
pub(super) fn listed<T>(row: Row, read: impl FnOnce(Row) -> Result<T, String>) -> Result<T, UnreadableRow> {
    let name = name(&row)?;
    askable_name(&name)?;
    read(row).map_err(|reason| UnreadableRow { name: Some(name), reason })
}

/// A row of tag, `max_id` and `step`.
pub(super) fn tag_row(row: &Row) -> Result<TagRow, String> {
    Ok(TagRow { name: text(row, 0)?, max_id: number(row, 1, "max_id")?, step: number(row, 2, "step")? })
}

/// As [`tag_row`], with a description.
pub(super) fn tag_details(row: &Row) -> Result<TagDetails, String> {
    let TagRow { name, step, max_id } = tag_row(row)?;
    let description = match row.as_ref(3) {
        Some(Value::Bytes(bytes)) => Some(String::from_utf8_lossy(bytes).into_owned()),
        _ => None,
    };
    Ok(TagDetails { name, step, max_id, description })
}

/// A whole number, whichever way the server sends it. Unsigned columns hold more than an ID may be; the excess is the
/// same as the maximum: nothing is left.
pub(super) fn number(row: &Row, index: usize, column: &str) -> Result<i64, String> {
    use ColumnType::{
        MYSQL_TYPE_INT24, MYSQL_TYPE_LONG, MYSQL_TYPE_LONGLONG, MYSQL_TYPE_SHORT, MYSQL_TYPE_TINY,
    };
    let type_ = column_type(row, index);
    let is_whole = matches!(
        type_,
        Some(MYSQL_TYPE_TINY | MYSQL_TYPE_SHORT | MYSQL_TYPE_INT24 | MYSQL_TYPE_LONG | MYSQL_TYPE_LONGLONG)
    );
    let value = match row.as_ref(index) {
        None | Some(Value::NULL) => return Err(format!("its {column} is NULL")),
        Some(Value::Int(value)) => Some(*value),
        Some(Value::UInt(value)) => Some(i64::try_from(*value).unwrap_or(i64::MAX)),
        Some(Value::Bytes(digits)) => std::str::from_utf8(digits).ok().and_then(saturated),
        Some(_) => None,
    };
    value.filter(|_| is_whole).ok_or_else(|| {
        format!("the column {column} is {}, and not BIGINT", type_.map_or_else(String::new, type_name))
    })
}

fn saturated(digits: &str) -> Option<i64> {
    digits.parse::<i128>().ok().map(|value| value.clamp(i64::MIN.into(), i64::MAX.into()) as i64)
}

/// The tag: text, and of a column that holds text.
pub(super) fn text(row: &Row, index: usize) -> Result<String, String> {
    match row.as_ref(index) {
        Some(Value::Bytes(bytes)) if !holds_numbers(row, index) => {
            String::from_utf8(bytes.clone()).map_err(|_| "its tag is no UTF-8".to_owned())
        }
        _ => {
            let type_ = column_type(row, index).map_or_else(String::new, type_name);
            Err(format!("the tag's column is {type_}, which does not hold text"))
        }
    }
}

fn holds_numbers(row: &Row, index: usize) -> bool {
    column_type(row, index).is_some_and(|type_| type_.is_numeric_type())
}

/// The tag as it may be asked for, if it is text.
fn name(row: &Row) -> Result<String, UnreadableRow> {
    match row.as_ref(0) {
        Some(Value::Bytes(bytes)) => {
            std::str::from_utf8(bytes).map(str::to_owned).map_err(|_| no_text(bytes))
        }
        None | Some(Value::NULL) => Err(null_tag()),
        Some(value) => Ok(value.as_sql(true)),
    }
}

fn column_type(row: &Row, index: usize) -> Option<ColumnType> {
    row.columns_ref().get(index).map(|column| column.column_type())
}

/// As in SQL, mostly.
fn type_name(column_type: ColumnType) -> String {
    let name = format!("{column_type:?}");
    match name.trim_start_matches("MYSQL_TYPE_") {
        "NEWDECIMAL" => "DECIMAL".to_owned(),
        "VAR_STRING" | "STRING" => "text".to_owned(),
        "LONGLONG" => "BIGINT".to_owned(),
        "LONG" => "INT".to_owned(),
        name => name.to_owned(),
    }
}

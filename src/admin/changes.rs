//! Changes of the table: straight to the store, and then the table is read again, so that this server acts on them at
//! once. Others notice within their TagReloadSeconds.

use std::future::poll_fn;
use std::sync::Arc;
use std::time::Duration;

use axum::Extension;
use axum::extract::{RawQuery, State};
use axum::http::StatusCode;
use tokio::time::timeout;
use tracing::{info, warn};

use super::Admin;
use super::answer::Json;
use super::guard::Caller;
use super::input::{Body, Sent, TagName, parameter};
use super::problem::Problem;
use super::tags::{TagView, view_of};
use crate::store::change::{self, Advance, ChangeError, Changed, RowChange};
use crate::store::tag::{check_description, check_max_id, check_step};
use crate::store::{TagDetails, TagStore};

/// How long an answer waits for the table to be read. The change is made whether or not this is enough.
const RELOAD_TIMEOUT: Duration = Duration::from_secs(10);

/// `GET /api/tags/{tag}`
pub async fn show(State(admin): State<Arc<Admin>>, TagName(tag): TagName) -> Result<Json<TagView>, Problem> {
    let details = in_store(&admin, tag, |store, tag| change::find(store, tag)).await?;
    view_of(&admin, details).await
}

/// `POST /api/tags`
pub async fn add(
    State(admin): State<Arc<Admin>>,
    Extension(caller): Extension<Caller>,
    sent: Sent,
) -> Result<(StatusCode, Json<TagView>), Problem> {
    let body = Body::read(sent, &["app_tag", "step", "start", "description"])?;
    let name = Body::required("app_tag", body.text("app_tag")?)?;
    let step = Body::required("step", body.integer("step")?)?;
    let start = body.integer("start")?.unwrap_or(1);
    let new = TagDetails::new(name, step, start, body.text("description")?).map_err(Problem::invalid)?;
    let watermark = admin.monitor.watermark(name);
    let added = in_store(&admin, name.to_owned(), move |store, tag| {
        let added = change::add(store, &new, watermark)?;
        info!(peer = %caller.peer, by = &*caller.by, tag, step, start, "the operator added the tag");
        Ok(added)
    });
    let added = added.await;
    read_table(&admin).await;
    Ok((StatusCode::CREATED, view_of(&admin, added?).await?))
}

/// `PATCH /api/tags/{tag}`
pub async fn change(
    State(admin): State<Arc<Admin>>,
    Extension(caller): Extension<Caller>,
    TagName(tag): TagName,
    sent: Sent,
) -> Result<Json<TagView>, Problem> {
    let wish = read_change(&Body::read(sent, &["step", "description", "max_id"])?)?;
    let watermark = admin.monitor.watermark(&tag);
    let changed = in_store(&admin, tag, move |store, tag| {
        let changed = change::change(store, tag, &wish, watermark)?;
        log_change(&caller, tag, &wish, &changed);
        Ok(changed.after)
    });
    let changed = changed.await;
    // When it has failed half-way, too.
    read_table(&admin).await;
    view_of(&admin, changed?).await
}

/// `DELETE /api/tags/{tag}`
pub async fn delete(
    State(admin): State<Arc<Admin>>,
    Extension(caller): Extension<Caller>,
    TagName(tag): TagName,
    RawQuery(query): RawQuery,
    _: Sent,
) -> Result<StatusCode, Problem> {
    if parameter(query.as_deref(), "confirm")?.as_ref() != Some(&tag) {
        return Err(Problem::bad(
            "confirm",
            "confirm must be the tag: IDs may repeat if it is ever made again",
        ));
    }
    let deleted = in_store(&admin, tag, move |store, tag| {
        let row = change::delete(store, tag)?;
        info!(
            peer = %caller.peer,
            by = &*caller.by,
            tag,
            step = row.step,
            max_id = row.max_id,
            "the operator deleted the tag"
        );
        Ok(())
    });
    let deleted = deleted.await;
    read_table(&admin).await;
    deleted.map(|()| StatusCode::NO_CONTENT)
}

/// `POST /api/tags/{tag}/advance`
pub async fn advance(
    State(admin): State<Arc<Admin>>,
    Extension(caller): Extension<Caller>,
    TagName(tag): TagName,
    sent: Sent,
) -> Result<Json<TagView>, Problem> {
    let given = Body::read(sent, &["to"])?.integer("to")?;
    let watermark = admin.monitor.watermark(&tag);
    let to = match (given, watermark) {
        (Some(to), _) => {
            check_max_id(to).map_err(|error| Problem::bad("to", error.to_string()))?;
            Advance::To(to)
        }
        (None, Some(watermark)) => Advance::ToWatermark(watermark),
        (None, None) => {
            let message = format!("to is missing, and this server knows no watermark of {tag:?}");
            return Err(Problem::conflict("to", message));
        }
    };
    let advanced = in_store(&admin, tag, move |store, tag| {
        let Changed { before, after, raised } = change::advance(store, tag, to, watermark)?;
        let (before, max_id, by) = (before.max_id, after.max_id, &*caller.by);
        match raised {
            true => info!(peer = %caller.peer, by, tag, max_id, before, "the operator advanced the tag"),
            false => {
                info!(peer = %caller.peer, by, tag, max_id, "the operator advanced the tag, which was there already")
            }
        }
        Ok(after)
    });
    let advanced = advanced.await;
    read_table(&admin).await;
    view_of(&admin, advanced?).await
}

fn read_change(body: &Body) -> Result<RowChange, Problem> {
    if body.is_empty() {
        let message = "nothing to change: give step, description or max_id";
        return Err(Problem::new(StatusCode::BAD_REQUEST, message));
    }
    let (step, max_id) = (body.integer("step")?, body.integer("max_id")?);
    let description = body.text("description")?;
    step.map_or(Ok(()), check_step).map_err(Problem::invalid)?;
    max_id.map_or(Ok(()), check_max_id).map_err(Problem::invalid)?;
    description.map_or(Ok(()), check_description).map_err(Problem::invalid)?;
    Ok(RowChange { step, max_id, description: description.map(str::to_owned) })
}

fn log_change(caller: &Caller, tag: &str, wish: &RowChange, changed: &Changed) {
    let Changed { before, after, raised } = changed;
    let (peer, by) = (caller.peer, &*caller.by);
    if let Some(description) = &wish.description {
        let before = before.description.as_deref().unwrap_or_default();
        info!(%peer, by, tag, description, before, "the operator changed the tag's description");
    }
    if wish.step.is_some() {
        info!(%peer, by, tag, step = after.step, before = before.step, "the operator changed the tag's step");
    }
    if *raised {
        let (max_id, before) = (after.max_id, before.max_id);
        info!(%peer, by, tag, max_id, before, "the operator raised the tag's max_id");
    }
}

/// Has `ask` talk to the store about `tag`.
async fn in_store<T: Send + 'static>(
    admin: &Admin,
    tag: String,
    ask: impl FnOnce(&mut dyn TagStore, &str) -> Result<T, ChangeError> + Send + 'static,
) -> Result<T, Problem> {
    let asked = admin.sessions.run(move |store| {
        ask(store, &tag).map_err(|error| {
            if let ChangeError::Store { done, .. } = &error
                && !done.is_empty()
            {
                warn!(tag, ?done, %error, "the operator's change was made in part");
            }
            Problem::of_change(&tag, &error)
        })
    });
    asked.await.unwrap_or_else(|| Err(Problem::bug()))
}

/// Has the table read, and waits for that.
async fn read_table(admin: &Admin) {
    let mut reading = admin.monitor.read_table();
    // Whether it was, or the store is away again: the change is made, and noticed later.
    let _ = timeout(RELOAD_TIMEOUT, poll_fn(|cx| reading.poll(cx))).await;
}

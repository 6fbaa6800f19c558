//! Changes of the table: straight to the store, and then the table is read again, so that this server acts on them at
//! once. Others notice within their TagReloadSeconds.

use std::future::poll_fn;
use std::sync::Arc;
use std::time::Duration;

use axum::Json;
use axum::body::Bytes;
use axum::extract::rejection::{BytesRejection, PathRejection};
use axum::extract::{Path, Query, State};
use axum::http::StatusCode;
use tokio::task::spawn_blocking;
use tokio::time::timeout;
use tracing::info;

use super::Admin;
use super::input::{Body, tag_of};
use super::problem::Problem;
use super::tags::TagView;
use crate::store::tag::{check_description, check_max_id, check_raise, check_step};
use crate::store::{self, TagDetails, TagStore};

/// How long an answer waits for the table to be read. The change is made whether or not this is enough.
const RELOAD_TIMEOUT: Duration = Duration::from_secs(10);

type Tag = Result<Path<String>, PathRejection>;
type Sent = Result<Bytes, BytesRejection>;

/// `GET /api/tags/{tag}`
pub async fn show(State(admin): State<Arc<Admin>>, tag: Tag) -> Result<Json<TagView>, Problem> {
    let tag = tag_of(tag)?;
    let details = in_store(&admin, move |store| find(store, &tag)).await?;
    Ok(Json(TagView::of(&admin, details)))
}

/// `POST /api/tags`
pub async fn add(
    State(admin): State<Arc<Admin>>,
    sent: Sent,
) -> Result<(StatusCode, Json<TagView>), Problem> {
    let body = Body::read(sent, &["app_tag", "step", "start", "description"])?;
    let name = Body::required("app_tag", body.text("app_tag")?)?;
    let step = Body::required("step", body.integer("step")?)?;
    let start = body.integer("start")?.unwrap_or(1);
    let details = TagDetails::new(name, step, start, body.text("description")?).map_err(Problem::invalid)?;
    let details = in_store(&admin, move |store| {
        store.insert(&details)?;
        info!(tag = details.name, step, start, "the operator added the tag");
        find(store, &details.name)
    });
    let details = details.await?;
    read_table(&admin).await;
    Ok((StatusCode::CREATED, Json(TagView::of(&admin, details))))
}

/// `PATCH /api/tags/{tag}`
pub async fn change(State(admin): State<Arc<Admin>>, tag: Tag, sent: Sent) -> Result<Json<TagView>, Problem> {
    let tag = tag_of(tag)?;
    let change = Change::read(&Body::read(sent, &["step", "description", "max_id"])?)?;
    let changed = in_store(&admin, move |store| change.make(store, &tag)).await;
    // When it has failed half-way, too.
    read_table(&admin).await;
    Ok(Json(TagView::of(&admin, changed?)))
}

/// `DELETE /api/tags/{tag}`
pub async fn delete(
    State(admin): State<Arc<Admin>>,
    tag: Tag,
    Query(parameters): Query<Vec<(String, String)>>,
) -> Result<StatusCode, Problem> {
    let tag = tag_of(tag)?;
    let confirmed = parameters.iter().find(|(name, _)| name == "confirm").map(|(_, value)| value);
    if confirmed != Some(&tag) {
        return Err(Problem::bad(
            "confirm",
            "confirm must be the tag: IDs may repeat if it is ever made again",
        ));
    }
    let deleted = in_store(&admin, move |store| {
        let row = find(store, &tag)?;
        store.delete(&tag)?;
        info!(tag, max_id = row.max_id, "the operator deleted the tag");
        Ok(())
    });
    deleted.await?;
    read_table(&admin).await;
    Ok(StatusCode::NO_CONTENT)
}

/// `POST /api/tags/{tag}/advance`
pub async fn advance(
    State(admin): State<Arc<Admin>>,
    tag: Tag,
    sent: Sent,
) -> Result<Json<TagView>, Problem> {
    let tag = tag_of(tag)?;
    let given = Body::read(sent, &["to"])?.integer("to")?;
    let to = given.or_else(|| admin.monitor.watermark(&tag));
    let to = to.ok_or_else(|| {
        let message = format!("to is missing, and this server knows no watermark of {tag:?}");
        Problem::conflict("to", message)
    })?;
    check_max_id(to).map_err(|error| Problem::bad("to", error.to_string()))?;
    let advanced = in_store(&admin, move |store| {
        find(store, &tag)?;
        store.raise(&tag, to)?;
        info!(tag, to, "the operator advanced the tag");
        find(store, &tag)
    });
    let details = advanced.await?;
    read_table(&admin).await;
    Ok(Json(TagView::of(&admin, details)))
}

/// What is to be changed of a row.
struct Change {
    step: Option<i64>,
    description: Option<String>,
    max_id: Option<i64>,
}

impl Change {
    fn read(body: &Body) -> Result<Self, Problem> {
        if body.is_empty() {
            let message = "nothing to change: give step, description or max_id";
            return Err(Problem::new(StatusCode::BAD_REQUEST, message));
        }
        let (step, max_id) = (body.integer("step")?, body.integer("max_id")?);
        let description = body.text("description")?;
        step.map_or(Ok(()), check_step).map_err(Problem::invalid)?;
        max_id.map_or(Ok(()), check_max_id).map_err(Problem::invalid)?;
        description.map_or(Ok(()), check_description).map_err(Problem::invalid)?;
        Ok(Self { step, max_id, description: description.map(str::to_owned) })
    }

    /// One statement for each column: what may fail for a reason of its own goes first.
    fn make(&self, store: &mut dyn TagStore, tag: &str) -> Result<TagDetails, Problem> {
        let before = find(store, tag)?;
        if let Some(max_id) = self.max_id {
            check_raise(before.max_id, max_id)
                .map_err(|error| Problem::conflict("max_id", error.to_string()))?;
        }
        if let Some(description) = &self.description {
            store.set_description(tag, description)?;
            info!(tag, "the operator changed the tag's description");
        }
        if let Some(step) = self.step {
            store.set_step(tag, step)?;
            info!(tag, step, before = before.step, "the operator changed the tag's step");
        }
        if let Some(max_id) = self.max_id {
            store.raise(tag, max_id)?;
            info!(tag, max_id, before = before.max_id, "the operator raised the tag's max_id");
        }
        find(store, tag)
    }
}

fn find(store: &mut dyn TagStore, tag: &str) -> Result<TagDetails, Problem> {
    store.find(tag)?.ok_or_else(|| Problem::no_tag(tag))
}

/// Has `ask` talk to the store, on a thread that may block, with a session of its own.
async fn in_store<T: Send + 'static>(
    admin: &Admin,
    ask: impl FnOnce(&mut dyn TagStore) -> Result<T, Problem> + Send + 'static,
) -> Result<T, Problem> {
    let place = admin.store_sessions.clone().acquire_owned().await;
    let (dsn, table) = (admin.config.dsn.clone(), admin.config.table.clone());
    let asked = spawn_blocking(move || {
        let _place = place;
        ask(&mut *store::open(&dsn, &table))
    });
    // A panic is in the log.
    asked.await.unwrap_or_else(|_| {
        Err(Problem::new(StatusCode::INTERNAL_SERVER_ERROR, "a bug: please report it, with the log"))
    })
}

/// Has the table read, and waits for that.
async fn read_table(admin: &Admin) {
    let mut reading = admin.monitor.read_table();
    // Whether it was, or the store is away again: the change is made, and noticed later.
    let _ = timeout(RELOAD_TIMEOUT, poll_fn(|cx| reading.poll(cx))).await;
}

//! Admin routes of the application.

use std::{collections::BTreeMap, sync::Arc};

use axum::{
    Json,
    body::Bytes,
    extract::{Path, Query, State},
    http::{Method, StatusCode, header},
    response::{IntoResponse as _, Response},
};
use serde_json::{Value, json};

use super::{
    audit::Line,
    error::{ApiError, ErrorBody, ErrorInfo},
    hook::AdminRequest,
    trail::Trail,
};
use crate::{
    app::{AdminHook, App, AppHandle},
    error::{HandlerError, codes},
    operations::Operations,
    reply::{IntoReply, Outcome},
};

impl App {
    /// Registers a route for operators, `/api/app/{server}/{path}` of the admin server, behind its token and its protection against web
    /// pages; `{server}` is the id of this server, or its type. `GET` reads, and `POST` with a JSON body may change something
    /// ([`AdminRequest::is_post`]).
    ///
    /// ```
    /// # use shaddock::prelude::*;
    /// # use shaddock::admin::AdminRequest;
    /// #[derive(serde::Deserialize)]
    /// struct Message { text: String }
    ///
    /// let mut app = App::new("lobby", "lobby-1");
    /// app.admin_route("rooms", async |app: AppHandle, _request: AdminRequest| Json(app.channels().count()));
    /// app.admin_route("rooms/message", async |app: AppHandle, request: AdminRequest| {
    ///     let message: Message = request.json()?;
    ///     let options = BroadcastOptions::bound();
    ///     let sent = app.channels().broadcast("connector", "onNotice", &message.text, options).await?;
    ///     Ok::<_, HandlerError>(Json(sent.queued))
    /// });
    /// ```
    ///
    /// The return value becomes JSON, as with handlers. An error becomes a response with the status of its code (`PIT-404` is 404), or 400
    /// for codes of the application. The time limit is [`admin.idle_timeout`](crate::config::AdminSettings::idle_timeout); then the
    /// connection is closed.
    ///
    /// # Panics
    /// The path contains characters other than letters, digits, `-`, `_` and `/` between segments, or is registered already.
    #[track_caller]
    pub fn admin_route<F, Fut>(&mut self, path: &str, route: F) -> &mut Self
    where
        F: Fn(AppHandle, AdminRequest) -> Fut + Send + Sync + 'static,
        Fut: Future + Send + 'static,
        Fut::Output: IntoReply,
    {
        assert!(
            is_path(path),
            "`{path}` is not a valid path of an admin route: write letters, digits, `-` and `_`, with `/` between the parts"
        );
        let hook: AdminHook = Arc::new(move |app, request| {
            let answer = route(app, request);
            Box::pin(async move { answer.await.into_reply() })
        });
        let before = self.hooks.admin_routes.insert(path.to_owned(), hook);
        assert!(
            before.is_none(),
            "the admin route `{path}` is registered already"
        );
        self
    }
}

/// Whether the path is valid for an app's route.
fn is_path(path: &str) -> bool {
    let fine = |b: u8| b.is_ascii_alphanumeric() || b == b'-' || b == b'_';
    path.split('/')
        .all(|part| !part.is_empty() && part.bytes().all(fine))
}

/// Serves `/api/app/{server}/{path}`: `server` is the id of a server of this process, or the type of one.
pub(super) async fn serve(
    State(operations): State<Operations>,
    method: Method,
    trail: Trail,
    Path((server, path)): Path<(String, String)>,
    Query(query): Query<BTreeMap<String, String>>,
    body: Bytes,
) -> Result<Response, ApiError> {
    let apps = operations.apps();
    let of_type = || apps.iter().find(|app| app.server_type() == server);
    let app = apps.iter().find(|app| app.id() == server).or_else(of_type);
    let app = app.ok_or_else(|| {
        let ids: Vec<_> = apps.iter().map(AppHandle::id).collect();
        ApiError::not_found(format!(
            "this process has no server `{server}`; there are {ids:?}"
        ))
    })?;
    let is_post = method == Method::POST;
    let request = AdminRequest {
        is_post,
        query,
        body,
    };
    let work = app.application().admin(app, &path, request);
    let work = work.ok_or_else(|| {
        let (id, paths) = (app.id(), app.application().admin_paths());
        ApiError::not_found(format!(
            "`{id}` has no admin route `{path}`; there are {paths:?}"
        ))
    })?;
    if !is_post {
        return Ok(respond(work.await));
    }
    let app = app.clone();
    super::api::to_its_end(async move {
        let to = json!({"server": app.id(), "path": path});
        let answered = respond(work.await);
        let mut line = Line::new("app", to, Value::Null);
        let status = answered.status();
        line.error = (!status.is_success()).then(|| format!("the response had status {status}"));
        trail.note(line).await;
        Ok(answered)
    })
    .await
}

fn respond(answered: Option<Outcome>) -> Response {
    match answered {
        Some(Ok(reply)) if reply.as_slice().is_empty() => StatusCode::NO_CONTENT.into_response(),
        Some(Ok(reply)) => {
            let json = [(header::CONTENT_TYPE, "application/json")];
            (json, reply.into_bytes()).into_response()
        }
        Some(Err(error)) => failed(&error),
        None => failed(&HandlerError::panicked("the admin route failed")),
    }
}

/// The response for an application's error: `PIT-404` is 404, and codes of the application are 400.
fn failed(error: &HandlerError) -> Response {
    let number = error.code().strip_prefix("PIT-");
    let number = number.and_then(|number| number.parse().ok());
    let status = match StatusCode::from_u16(number.unwrap_or(400)) {
        Ok(status) if status.is_client_error() || status.is_server_error() => status,
        _ => StatusCode::INTERNAL_SERVER_ERROR,
    };
    if status.is_server_error() || error.code() == codes::UNKNOWN {
        tracing::warn!(%error, "an admin route failed");
    }
    let body = ErrorBody {
        error: ErrorInfo {
            code: error.code().to_owned(),
            message: error.message().to_owned(),
            column: None,
        },
    };
    (status, Json(body)).into_response()
}

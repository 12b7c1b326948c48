//! The console: a page for operators, on top of the public admin API.
//!
//! Its files are compiled in and contain no data, so they require no token; the page requests data with the token that the operator enters.
//! It loads nothing from other hosts and runs only its own scripts; the headers below enforce this.

use axum::{
    Router,
    extract::Path,
    http::{HeaderName, HeaderValue, header},
    middleware,
    response::{IntoResponse, Redirect, Response},
    routing::get,
};

use super::{
    error::ApiError,
    guard::{Guard, guard_page},
};

/// The path of the console.
const PLACE: &str = "/console/";

/// The content security policy: only scripts, styles and requests of this server. Text is never inserted as HTML.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; base-uri 'none'; \
                      form-action 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'; trusted-types 'none'";

/// The other response headers.
const HEADERS: [(&str, &str); 7] = [
    ("content-security-policy", POLICY),
    ("x-content-type-options", "nosniff"),
    ("x-frame-options", "DENY"),
    ("referrer-policy", "no-referrer"),
    ("cross-origin-opener-policy", "same-origin"),
    ("cross-origin-resource-policy", "same-origin"),
    // A new version of the server serves a new page.
    ("cache-control", "no-cache"),
];

const HTML: &str = "text/html; charset=utf-8";
const CSS: &str = "text/css; charset=utf-8";
const JS: &str = "text/javascript; charset=utf-8";
const SVG: &str = "image/svg+xml";

/// Declares files of the folder, with their content types.
macro_rules! files {
    ($($name:literal $kind:ident,)*) => {
        const FILES: &[(&str, &str, &str)] = &[
            $(($name, $kind, include_str!(concat!("console/", $name)))),*
        ];
    };
}

files! {
    "index.html" HTML,
    "icon.svg" SVG,
    "style.css" CSS,
    "parts.css" CSS,
    "api.js" JS,
    "app.js" JS,
    "config.js" JS,
    "dom.js" JS,
    "drain.js" JS,
    "events.js" JS,
    "format.js" JS,
    "kick.js" JS,
    "load.js" JS,
    "login.js" JS,
    "overview.js" JS,
    "plot.js" JS,
    "rooms.js" JS,
    "server.js" JS,
    "session.js" JS,
    "sessions.js" JS,
    "table.js" JS,
    "text.js" JS,
}

pub(super) fn routes<S: Clone + Send + Sync + 'static>(guard: Guard) -> Router<S> {
    // Relative, for servers behind a path of a proxy.
    let to_page = || async { Redirect::temporary("console/") };
    Router::new()
        .route("/", get(to_page))
        .route("/console", get(to_page))
        .route(PLACE, get(|| async { file("index.html") }))
        .route(
            "/console/{name}",
            get(|Path(name): Path<String>| async move { file(&name) }),
        )
        .layer(middleware::map_response(protect))
        .layer(middleware::from_fn_with_state(guard, guard_page))
}

fn file(name: &str) -> Response {
    if let Some((_, kind, text)) = FILES.iter().find(|(known, ..)| *known == name) {
        return ([(header::CONTENT_TYPE, *kind)], *text).into_response();
    }
    let message = format!("the console has no file {name}; it is at {PLACE}");
    ApiError::not_found(message).into_response()
}

async fn protect(mut response: Response) -> Response {
    for (name, value) in HEADERS {
        let (name, value) = (
            HeaderName::from_static(name),
            HeaderValue::from_static(value),
        );
        response.headers_mut().insert(name, value);
    }
    response
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    /// All files of the folder are served, and all are short enough to be reviewed.
    #[test]
    fn all_files_are_served_and_short() {
        let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/src/admin/console");
        let there: BTreeSet<String> = std::fs::read_dir(folder)
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        let served: BTreeSet<String> = FILES.iter().map(|(name, ..)| (*name).to_owned()).collect();
        assert_eq!(there, served);
        for (name, kind, text) in FILES {
            assert!(text.lines().count() < 500, "{name} is too long");
            let is_script = *kind == JS;
            for sink in [
                "innerHTML",
                "outerHTML",
                "insertAdjacentHTML",
                "eval(",
                "document.write",
            ] {
                assert!(!is_script || !text.contains(sink), "{name} has {sink}");
            }
            // `xmlns` names are not URLs.
            let outside = text.replace("http://www.w3.org/", "");
            assert!(
                !outside.contains("http://") && !outside.contains("https://"),
                "{name} names another server"
            );
        }
    }
}

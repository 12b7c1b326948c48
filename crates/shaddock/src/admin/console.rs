//! The console: a page for people, which asks the API that programs ask.
//!
//! Its files are compiled in, and there is no data in them, so they need no token; what the page shows it asks with the token that is typed in.
//! It loads nothing from elsewhere and runs no script but its own, and browsers are told so.

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

/// Where it is.
const PLACE: &str = "/console/";

/// What the browser may do with the page: run and show what comes from here, and ask this server. Texts never become HTML.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; base-uri 'none'; \
                      form-action 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'; trusted-types 'none'";

/// What else browsers are told.
const HEADERS: [(&str, &str); 7] = [
    ("content-security-policy", POLICY),
    ("x-content-type-options", "nosniff"),
    ("x-frame-options", "DENY"),
    ("referrer-policy", "no-referrer"),
    ("cross-origin-opener-policy", "same-origin"),
    ("cross-origin-resource-policy", "same-origin"),
    // A new version of the server has a new page.
    ("cache-control", "no-cache"),
];

const HTML: &str = "text/html; charset=utf-8";
const CSS: &str = "text/css; charset=utf-8";
const JS: &str = "text/javascript; charset=utf-8";
const SVG: &str = "image/svg+xml";

/// Names files of the folder, with their types.
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
    // Relative, for servers that are shown below a path of another one.
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

    /// What lies in the folder is served, and no file is so long that nobody reads it.
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
            // `xmlns` names are no addresses.
            let outside = text.replace("http://www.w3.org/", "");
            assert!(
                !outside.contains("http://") && !outside.contains("https://"),
                "{name} names another server"
            );
        }
    }
}

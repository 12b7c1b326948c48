//! Authentication of the admin API.
//!
//! If a token is configured, it is required. On a loopback address without a token, every process of the machine may call, which includes
//! every web page in a browser there. Therefore requests must not come from pages of other sites:
//!
//! - the `Host` must be a loopback name, because a page could use a name of its own that resolves to 127.0.0.1;
//! - an `Origin`, and the browser's header for cross-site requests, must not be foreign;
//! - requests that change something must be JSON, which pages cannot send across sites without a preflight, which is never answered.

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    sync::Arc,
};

use axum::{
    extract::{Request, State},
    http::{HeaderMap, Method, StatusCode, header},
    middleware::Next,
    response::{IntoResponse, Response},
};
use parking_lot::RwLock;

use super::{
    error::ApiError,
    openapi::scope_of,
    tokens::{Caller, Tokens},
};

/// The rules of one server.
#[derive(Debug, Clone, Default)]
pub(crate) struct Guard(Arc<RwLock<Rules>>);

#[derive(Debug, Clone, Default)]
struct Rules {
    /// Empty: no token is required, on a loopback address. A reload replaces them.
    tokens: Tokens,
    /// Whether the bound address can be reached from other machines. A reload does not change it, whatever address the new file contains.
    is_public: bool,
}

impl Guard {
    fn rules(&self) -> Rules {
        self.0.read().clone()
    }

    /// Sets the address and the tokens of a server that listens.
    pub(crate) fn bound(&self, address: IpAddr, tokens: Tokens) {
        let mut rules = self.0.write();
        rules.is_public |= !address.to_canonical().is_loopback();
        rules.tokens = tokens;
    }

    /// Replaces the tokens. A server that can be reached from other machines keeps its tokens if the new list is empty.
    pub(crate) fn set(&self, tokens: Tokens) {
        let mut rules = self.0.write();
        if rules.is_public && tokens.is_empty() {
            tracing::error!(
                "the new configuration has no `admin.token`, and others can reach the admin server until the process is restarted: the tokens \
                 stay as they were; set `admin.token`, or restart with `admin.address` on 127.0.0.1"
            );
            return;
        }
        rules.tokens = tokens;
    }

    /// Authenticates a request.
    fn check(&self, method: &Method, path: &str, headers: &HeaderMap) -> Result<Caller, ApiError> {
        let Rules { tokens, is_public } = self.rules();
        // Without tokens, all requests from other machines are rejected.
        let caller = if tokens.is_empty() && !is_public {
            check_host(headers)?;
            Caller::local()
        } else {
            check_token(&tokens, headers)?
        };
        check_origin(headers)?;
        check_body_type(method, headers)?;
        match scope_of(method.as_str(), path) {
            Some(wanted) if !caller.scope.allows(wanted) => Err(ApiError::forbidden(format!(
                "this requires a token with scope `{}`, and this token has `{}`",
                wanted.name(),
                caller.scope.name()
            ))),
            _ => Ok(caller),
        }
    }
}

fn check_token(tokens: &Tokens, headers: &HeaderMap) -> Result<Caller, ApiError> {
    let given = headers
        .get(header::AUTHORIZATION)
        .and_then(|value| value.to_str().ok())
        .and_then(|value| value.split_once(' '))
        .filter(|(scheme, _)| scheme.eq_ignore_ascii_case("bearer"))
        .map(|(_, token)| token.trim());
    given.and_then(|given| tokens.find(given)).cloned().ok_or_else(|| {
            let message = "send `Authorization: Bearer <token>` with the value of `admin.token`, or with a token of `admin.operate_tokens`, `push_tokens` or `read_tokens`";
            ApiError::new(StatusCode::UNAUTHORIZED, "unauthorized", message)
        })
}

/// The middleware of pages without data, which every client that reaches the address may read. Without tokens only under a loopback name, so that
/// a page of another site whose name resolves to 127.0.0.1 is not served as this server's.
pub(super) async fn guard_page(
    State(guard): State<Guard>,
    request: Request,
    next: Next,
) -> Response {
    let Rules { tokens, is_public } = guard.rules();
    if tokens.is_empty()
        && !is_public
        && let Err(error) = check_host(request.headers())
    {
        return error.into_response();
    }
    next.run(request).await
}

/// The middleware.
pub(crate) async fn guard(
    State(guard): State<Guard>,
    mut request: Request,
    next: Next,
) -> Response {
    match guard.check(request.method(), request.uri().path(), request.headers()) {
        Ok(caller) => {
            request.extensions_mut().insert(caller);
            next.run(request).await
        }
        Err(error) => error.into_response(),
    }
}

/// Whether this is `localhost` or a loopback address, with or without a port (RFC 3986, 3.2).
fn is_loopback(authority: &str) -> bool {
    let is_loopback = |ip: IpAddr| ip.to_canonical().is_loopback();
    let (is_named, rest) = if let Some(rest) = authority.strip_prefix('[') {
        let Some((v6, rest)) = rest.split_once(']') else {
            return false;
        };
        let ip = v6.parse::<Ipv6Addr>();
        (ip.is_ok_and(|ip| is_loopback(ip.into())), rest)
    } else {
        let end = authority.find(':').unwrap_or(authority.len());
        let (host, rest) = authority.split_at(end);
        let ip = host.parse::<Ipv4Addr>();
        let is_local = host.eq_ignore_ascii_case("localhost");
        (is_local || ip.is_ok_and(|ip| is_loopback(ip.into())), rest)
    };
    let is_port = |port: &str| port.len() <= 5 && port.bytes().all(|byte| byte.is_ascii_digit());
    is_named && (rest.is_empty() || rest.strip_prefix(':').is_some_and(is_port))
}

/// The value of a header that occurs once. A repeated header counts as unreadable, because a service behind this one could use the other
/// value.
fn text(headers: &HeaderMap, name: header::HeaderName) -> Option<&str> {
    let mut lines = headers.get_all(name).iter();
    let first = lines.next()?;
    lines.next().is_none().then(|| first.to_str().ok())?
}

fn check_host(headers: &HeaderMap) -> Result<(), ApiError> {
    match text(headers, header::HOST) {
        Some(host) if is_loopback(host) => Ok(()),
        _ => Err(ApiError::forbidden(
            "without `admin.token`, only `localhost` and loopback addresses are accepted in the `Host` header",
        )),
    }
}

fn check_origin(headers: &HeaderMap) -> Result<(), ApiError> {
    let foreign = || ApiError::forbidden("requests from web pages of other sites are refused");
    let is_ours = |site: &header::HeaderValue| site == "same-origin" || site == "none";
    if !headers.get_all("sec-fetch-site").iter().all(is_ours) {
        return Err(foreign());
    }
    if !headers.contains_key(header::ORIGIN) {
        return Ok(());
    }
    let Some(origin) = text(headers, header::ORIGIN) else {
        return Err(foreign());
    };
    let authority = origin.split_once("://").map(|(_, authority)| authority);
    if authority.is_some() && authority == text(headers, header::HOST) {
        return Ok(());
    }
    Err(foreign())
}

fn check_body_type(method: &Method, headers: &HeaderMap) -> Result<(), ApiError> {
    if matches!(*method, Method::GET | Method::HEAD) {
        return Ok(());
    }
    let kind = text(headers, header::CONTENT_TYPE).unwrap_or_default();
    let kind = kind.split(';').next().unwrap_or_default().trim();
    if kind.eq_ignore_ascii_case("application/json") {
        return Ok(());
    }
    Err(ApiError::new(
        StatusCode::UNSUPPORTED_MEDIA_TYPE,
        "unsupported_media_type",
        "send JSON with `Content-Type: application/json`",
    ))
}

#[cfg(test)]
mod tests {
    use shaddock_cluster::Secret;

    use super::*;
    use crate::config::AdminSettings;

    fn headers(pairs: &[(&'static str, &str)]) -> HeaderMap {
        pairs
            .iter()
            .map(|(name, value)| {
                let name = header::HeaderName::from_static(name);
                (name, value.parse().unwrap())
            })
            .collect()
    }

    fn verdict(token: &str, method: &Method, pairs: &[(&'static str, &str)]) -> u16 {
        let guard = Guard::default();
        guard.set(tokens(token));
        let path = "/api/sessions";
        match guard.check(method, path, &headers(pairs)) {
            Ok(_) => 200,
            Err(error) => error.into_response().status().as_u16(),
        }
    }

    #[test]
    fn hosts_must_be_loopback_without_a_token() {
        for host in [
            "localhost",
            "LocalHost:3005",
            "127.0.0.1:3005",
            "[::1]:3005",
            "127.9.9.9",
            "127.0.0.1:",
            "[::1]",
            "[::ffff:127.0.0.1]:3005",
        ] {
            assert_eq!(verdict("", &Method::GET, &[("host", host)]), 200, "{host}");
        }
        for host in [
            "evil.example:3005",
            "localhost.evil.example",
            "10.0.0.1",
            "[::2]",
            "",
            "[::1].evil",
            "[::1].evil.example:3005",
            "[::1]evil",
            "[::1]:3005.evil.example",
            "[::1]:3005@evil.example",
            "[::1",
            "[127.0.0.1]",
            "::1",
            "localhost:3005@evil.example",
            "localhost:evil.example",
            "localhost:123456",
            "localhost.",
            "127.0.0.1.evil.example",
            "127.0.0.1:3005:3005",
            "evil@localhost",
            " localhost",
        ] {
            assert_eq!(verdict("", &Method::GET, &[("host", host)]), 403, "{host}");
        }
        assert_eq!(verdict("", &Method::GET, &[]), 403);
        let twice = [("host", "localhost"), ("host", "evil.example")];
        assert_eq!(verdict("", &Method::GET, &twice), 403);
    }

    fn tokens(token: &str) -> Tokens {
        Tokens::of(&AdminSettings {
            token: Secret::from(token),
            ..AdminSettings::default()
        })
    }

    fn status(guard: &Guard, pairs: &[(&'static str, &str)]) -> u16 {
        match guard.check(&Method::GET, "/api/sessions", &headers(pairs)) {
            Ok(_) => 200,
            Err(error) => error.into_response().status().as_u16(),
        }
    }

    /// A reload with another address does not move the open socket.
    #[tokio::test]
    async fn a_reload_without_tokens_opens_no_public_server() {
        use crate::{admin::Admin, operations::Operations};
        let old = "0123456789abcdef";
        let bearer = format!("Bearer {old}");
        let (local, signed) = (
            [("host", "localhost")],
            [("host", "x"), ("authorization", bearer.as_str())],
        );
        for (address, without) in [([0, 0, 0, 0], 401), ([127, 0, 0, 1], 200)] {
            let settings = AdminSettings {
                token: Secret::from(old),
                ..AdminSettings::default()
            };
            let operations = Operations::new();
            let bound = Admin::bind((address, 0).into(), &settings, operations.clone());
            let _listening = bound.await.unwrap();
            let guard = operations.guard();
            assert_eq!(status(guard, &local), 401);
            guard.set(Tokens::default());
            assert_eq!(status(guard, &local), without, "{address:?}");
            if without == 401 {
                assert_eq!(status(guard, &signed), 200, "the old token stays");
            }
            guard.set(tokens("another-another-another"));
            assert_eq!(status(guard, &signed), 401, "{address:?}");
        }
    }

    #[test]
    fn a_public_server_requires_tokens() {
        for address in [
            "0.0.0.0",
            "192.0.2.7",
            "::",
            "2001:db8::1",
            "::ffff:192.0.2.7",
        ] {
            let guard = Guard::default();
            guard.bound(address.parse().unwrap(), Tokens::default());
            assert_eq!(status(&guard, &[("host", "localhost")]), 401, "{address}");
            let empty = [("host", "localhost"), ("authorization", "Bearer ")];
            assert_eq!(status(&guard, &empty), 401, "{address}");
        }
        for address in ["127.0.0.1", "::1", "::ffff:127.0.0.1"] {
            let guard = Guard::default();
            guard.bound(address.parse().unwrap(), Tokens::default());
            assert_eq!(status(&guard, &[("host", "localhost")]), 200, "{address}");
        }
    }

    #[test]
    fn a_token_is_compared_whole() {
        let token = "0123456789abcdef";
        let check = |value: &str| {
            verdict(
                token,
                &Method::GET,
                &[("host", "x"), ("authorization", value)],
            )
        };
        assert_eq!(check("Bearer 0123456789abcdef"), 200);
        assert_eq!(check("bearer  0123456789abcdef"), 200);
        for wrong in [
            "Bearer 0123456789abcdeX",
            "Bearer 0123456789abcde",
            "Bearer 0123456789abcdef0",
            "Bearer ",
            "Basic 0123456789abcdef",
            "0123456789abcdef",
        ] {
            assert_eq!(check(wrong), 401, "{wrong}");
        }
        assert_eq!(verdict(token, &Method::GET, &[("host", "localhost")]), 401);
    }

    #[test]
    fn pages_of_others_are_refused() {
        let host = ("host", "127.0.0.1:3005");
        let json = ("content-type", "application/json; charset=utf-8");
        let post = |pairs: &[(&'static str, &str)]| verdict("", &Method::POST, pairs);
        assert_eq!(post(&[host, json]), 200);
        assert_eq!(
            post(&[host, json, ("origin", "http://127.0.0.1:3005")]),
            200
        );
        assert_eq!(post(&[host, json, ("origin", "http://evil.example")]), 403);
        assert_eq!(
            post(&[host, json, ("origin", "http://127.0.0.1:8000")]),
            403
        );
        assert_eq!(post(&[host, json, ("origin", "null")]), 403);
        assert_eq!(post(&[host, json, ("sec-fetch-site", "cross-site")]), 403);
        assert_eq!(post(&[host, json, ("sec-fetch-site", "same-origin")]), 200);
        assert_eq!(post(&[host, json, ("sec-fetch-site", "none")]), 200);
        assert_eq!(post(&[host, json, ("sec-fetch-site", "cross-origin")]), 403);
        let own = ("origin", "http://127.0.0.1:3005");
        assert_eq!(
            post(&[host, json, own, ("origin", "http://evil.example")]),
            403
        );
        assert_eq!(post(&[host]), 415);
        assert_eq!(post(&[host, ("content-type", "text/plain")]), 415);
    }
}

//! Names and attributes of the framework's spans. The names form a closed set; clients cannot add to it.

use std::fmt::Write as _;

use ring::digest;
use shaddock_cluster::ServerInfo;
use shaddock_protocol::Route;

use super::{Kind, Span, TraceContext, TracedUsers, Tracer, span::Record};
use crate::{app::AppHandle, received, request::RequestContext, session::SessionView};

const ROUTE: &str = "shaddock.route";
const SERVER: &str = "shaddock.server";
const PEER: &str = "shaddock.peer";
/// Bytes of the hash of a uid.
const HASHED: usize = 8;

/// Begins the spans of an app that has telemetry.
#[derive(Clone, Copy)]
pub(crate) struct Spans<'a> {
    app: &'a AppHandle,
    tracer: &'a Tracer,
}

impl<'a> Spans<'a> {
    /// `None` without telemetry.
    #[inline]
    pub(crate) fn of(app: &'a AppHandle) -> Option<Self> {
        let tracer = app.tracer()?;
        Some(Self { app, tracer })
    }

    /// The span of a request; `parent` is the span of the server that forwarded it.
    pub(crate) fn of_request(
        self,
        request: &RequestContext,
        parent: Option<&TraceContext>,
    ) -> Span {
        let mut span = self.tracer.begin(Kind::Server, parent, true);
        if let Some(record) = span.record() {
            let route = request.route();
            record.name = self.name_of(route);
            record.text(ROUTE, route.as_str());
            record.text(SERVER, self.app.id());
            about_session(record, self.tracer.users(), request.session());
        }
        span
    }

    /// The route if this server has a handler for it, otherwise the server type of the route if there is one, otherwise `request`.
    fn name_of(self, route: &Route) -> String {
        let name = match route.server_type() {
            Some(server_type) if server_type != self.app.server_type() => {
                let is_there = self.app.backends().contains_key(server_type)
                    || self
                        .app
                        .membership()
                        .is_ok_and(|all| !all.members().servers_of(server_type).is_empty());
                is_there.then_some(server_type)
            }
            _ => {
                let short = route.short();
                let is_there = short.is_some_and(|short| self.app.handlers().contains(short));
                is_there.then_some(route.as_str())
            }
        };
        name.unwrap_or("request").to_owned()
    }

    /// The span of a forward to another server.
    pub(crate) fn of_forward(request: &RequestContext, server: &ServerInfo) -> Option<Span> {
        request.app().tracer()?;
        let mut span = request.span()?.child(Kind::Client);
        if let Some(record) = span.record() {
            record.name = format!("forward {}", server.server_type);
            record.text(ROUTE, request.route().as_str());
            record.text(PEER, server.id.as_str());
        }
        Some(span)
    }

    /// The span of a request to an HTTP backend: for a request of a client (`parent`), or for an event.
    pub(crate) fn of_backend(self, parent: Option<&Span>, server_type: &str, what: &str) -> Span {
        let mut span = match parent {
            Some(parent) => parent.child(Kind::Client),
            None => self.tracer.begin(Kind::Client, None, false),
        };
        if let Some(record) = span.record() {
            record.name = format!("POST {server_type}");
            record.text("http.request.method", "POST");
            record.text(ROUTE, what);
            record.text(SERVER, self.app.id());
        }
        span
    }

    /// The span of an RPC.
    pub(crate) fn of_call(self, route: &str, server: &ServerInfo) -> Span {
        let mut span = self.tracer.within(Kind::Client);
        if let Some(record) = span.record() {
            record.name = format!("call {route}");
            record.text(ROUTE, route);
            record.text(SERVER, self.app.id());
            record.text(PEER, server.id.as_str());
        }
        span
    }

    /// The span of a remote that serves an RPC.
    pub(crate) fn of_remote(self, route: &str, parent: Option<&TraceContext>) -> Span {
        let mut span = self.tracer.begin(Kind::Server, parent, true);
        if let Some(record) = span.record() {
            let short = route.split_once('.').map(|(_, short)| short);
            let is_there = short.is_some_and(|short| self.app.remotes().contains(short));
            record.name = String::from(if is_there { route } else { "remote" });
            record.text(ROUTE, route);
            record.text(SERVER, self.app.id());
        }
        span
    }

    /// The span of a push. `to` is the kind of receivers, and `name` the channel, topic or server type.
    pub(crate) fn of_push(self, route: &str, to: &'static str, name: Option<&str>) -> Span {
        let mut span = self.tracer.within(Kind::Producer);
        if let Some(record) = span.record() {
            record.name = format!("push {to}");
            record.text(ROUTE, route);
            record.text(SERVER, self.app.id());
            if let Some(name) = name {
                record.text("shaddock.to", name);
            }
        }
        span
    }
}

impl Tracer {
    /// A child of the request that is being served, or a root span.
    fn within(&self, kind: Kind) -> Span {
        self.begin(kind, received::trace().as_ref(), false)
    }
}

fn about_session(record: &mut Record, users: TracedUsers, view: &SessionView) {
    if let Some(sid) = view.id() {
        record.text("shaddock.sid", sid.to_string());
    }
    record.text("shaddock.frontend", view.frontend_id());
    match (users, view.uid()) {
        (TracedUsers::Plain, Some(uid)) => record.text("enduser.id", uid.as_str()),
        (TracedUsers::Hashed, Some(uid)) => {
            record.text("enduser.pseudo.id", hashed(uid.as_str()));
        }
        (TracedUsers::Left, _) | (_, None) => {}
    }
}

fn hashed(uid: &str) -> String {
    let hash = digest::digest(&digest::SHA256, uid.as_bytes());
    let mut text = String::with_capacity(2 * HASHED);
    for byte in &hash.as_ref()[..HASHED] {
        // Writing to a String does not fail.
        let _ = write!(text, "{byte:02x}");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn users_are_distinguished_and_not_named() {
        // `printf ann | sha256sum`
        assert_eq!(hashed("ann"), "49915e0d7d4b402e");
        assert_ne!(hashed("ann"), hashed("bob"));
    }
}

//! Sends events of sessions to a backend.
//!
//! Binds, lost connections, returns and closes are sent by the app's listeners: in order for each session, concurrently for different
//! sessions, and with the limits of listeners. An event is repeated until the backend responds with 200 or 204, within the time limit of a
//! listener ([`AppConfig::event_timeout`](crate::app::AppConfig::event_timeout)), with the same `webhook-id` each time. Then it is dropped,
//! counted and logged. The actions of the response are executed. A handshake is sent once, because its client waits.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::Bytes;
use serde_json::value::RawValue;
use shaddock_core::{CloseReason, Uid};

use super::{
    Backend, BackendEvent, actions,
    client::{Outgoing, hash_of},
    failure::{Excerpt, Failure, Fault},
    wire::{Action, Answer, ClientJson, Envelope, Object},
};
use crate::{
    app::{App, AppHandle},
    handshake::{Accept, HandshakeInfo, HandshakeReject},
    session::SessionEvent,
    telemetry::Spans,
};

const FIRST_PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(5);
/// The limit for apps whose listeners have none.
const NO_LIMIT: Duration = Duration::from_secs(60);

impl App {
    /// Registers listeners for the events that the backend subscribes to.
    pub(super) fn listen_for(&mut self, backend: &Arc<Backend>) {
        let wants = |event| backend.settings.events.contains(&event);
        if wants(BackendEvent::Handshake) {
            let backend = Arc::clone(backend);
            self.on_handshake(move |info| {
                let backend = Arc::clone(&backend);
                async move { backend.check_login(info).await }
            });
        }
        for event in BackendEvent::ALL.into_iter().filter(|event| wants(*event)) {
            let backend = Arc::clone(backend);
            let tell = move |app: AppHandle, what: SessionEvent| {
                let backend = Arc::clone(&backend);
                async move { backend.send_event(&app, event, &what).await }
            };
            match event {
                BackendEvent::Handshake => continue,
                BackendEvent::Bound => self.on_session_bound(tell),
                BackendEvent::Suspended => self.on_session_suspended(tell),
                BackendEvent::Resumed => self.on_session_resumed(tell),
                BackendEvent::Closed => self.on_session_closed(tell),
            };
        }
    }
}

impl Backend {
    async fn send_event(&self, app: &AppHandle, kind: BackendEvent, event: &SessionEvent) {
        let body = Envelope::event(
            kind.name(),
            event.session(),
            event.uid().map(Uid::as_str),
            event.reason().map(CloseReason::name),
            self.timeout(),
        );
        let span =
            Spans::of(app).map(|spans| spans.of_backend(None, &self.server_type, kind.name()));
        let outgoing = match body {
            Ok(body) => self.outgoing(kind.name().to_owned(), body, span.as_ref()),
            Err(error) => return self.missed(app, kind, event, &error.to_string()),
        };
        let key = self.key_of(event.session().uid(), Some(event.session().id()));
        let heard = self.send_until_accepted(app, key, kind, &outgoing).await;
        if let (Some(span), Err(failure)) = (&span, &heard) {
            span.failed("unheard", failure);
        }
        drop(span);
        match heard {
            Ok(text) => {
                if let Err(reason) = follow(app, event, &text).await.map_err(Excerpt::new) {
                    shaddock_net::quiet!(
                        warn,
                        "the response of a backend to an event",
                        backend = &*self.server_type,
                        event = kind.name(),
                        %reason
                    );
                }
            }
            Err(failure) => self.missed(app, kind, event, &failure),
        }
    }

    fn missed(&self, app: &AppHandle, kind: BackendEvent, event: &SessionEvent, reason: &str) {
        app.stats().lost_events.add(1);
        shaddock_net::quiet!(error, "a backend was not notified of an event", backend = &*self.server_type, event = kind.name(), sid = %event.session().id(), reason);
    }

    async fn send_until_accepted(
        &self,
        app: &AppHandle,
        key: u64,
        kind: BackendEvent,
        outgoing: &Outgoing,
    ) -> Result<Bytes, String> {
        let most = app.config().event_timeout;
        let most = if most.is_zero() { NO_LIMIT } else { most };
        let start = Instant::now();
        let mut pause = FIRST_PAUSE;
        loop {
            // The last attempt ends before the time limit of the listener.
            let left = most.saturating_sub(start.elapsed()).mul_f32(0.9);
            let failure = match self
                .ask(app.tasks(), key, outgoing, self.timeout().min(left))
                .await
            {
                Ok(text) => return Ok(text),
                Err(failure) => failure,
            };
            self.complain(kind.name(), &outgoing.id, &failure);
            if start.elapsed() + pause >= most.mul_f32(0.8) {
                return Err(failure.to_string());
            }
            app.sleep(pause).await;
            pause = (pause * 2).min(LONGEST_PAUSE);
        }
    }

    async fn check_login(&self, info: HandshakeInfo) -> Result<Accept, HandshakeReject> {
        let request = info.request();
        let client = ClientJson {
            client_type: request.client_type.as_deref(),
            version: request.version.as_deref(),
            address: info.address(),
            transport: info.peer().transport.name(),
        };
        let user: Option<&RawValue> = info.user_as().ok();
        let event = BackendEvent::Handshake.name();
        let refused = |id: &str, failure: Failure| {
            self.complain(event, id, &failure);
            HandshakeReject::new(format!(
                "the backend `{}` did not check it: {failure}",
                self.server_type
            ))
        };
        let body = Envelope::handshake(client, user, self.timeout())
            .map_err(|error| refused("", Failure::broken(Fault::Form, error.to_string())))?;
        let span =
            Spans::of(info.app()).map(|spans| spans.of_backend(None, &self.server_type, event));
        let outgoing = self.outgoing(event.to_owned(), body, span.as_ref());
        let key = hash_of(info.address().ip().to_string().as_bytes());
        let text = self
            .ask(info.app().tasks(), key, &outgoing, self.timeout())
            .await
            .map_err(|failure| {
                if let Some(span) = &span {
                    span.failed(failure.name(), &failure.to_string());
                }
                refused(&outgoing.id, failure)
            })?;
        drop(span);
        let broken = |failure| refused(&outgoing.id, failure);
        let answer = Answer::read(&text).map_err(broken)?;
        if let Some(Object(error)) = answer.error {
            return Err(HandshakeReject::new(Excerpt::new(error.text()).to_string()));
        }
        let mut accept = login(answer.actions)
            .map_err(|reason| broken(Failure::broken(Fault::Action, reason)))?;
        if let Some(body) = answer.body {
            let data: serde_json::Value = serde_json::from_str(body.get())
                .map_err(|error| broken(Failure::broken(Fault::Form, error.to_string())))?;
            accept = accept.reply(data);
        }
        Ok(accept)
    }
}

/// Converts the actions of a handshake's response, which are possible before the session exists.
fn login(list: Vec<Action>) -> Result<Accept, String> {
    let mut accept = Accept::new();
    let mut is_bound = false;
    for action in list {
        accept = match action {
            Action::Bind(_) if is_bound => return Err("its response binds twice".to_owned()),
            Action::Bind(uid) => {
                is_bound = true;
                let uid = Uid::new(uid);
                accept.bind(uid.map_err(|error| format!("it binds an invalid user: {error}"))?)
            }
            Action::Set(settings) => accept.settings(settings),
            _ => {
                return Err(
                    "its response contains an action other than `bind` and `set`, but there is no session yet"
                        .to_owned(),
                );
            }
        };
    }
    Ok(accept)
}

/// Executes the actions of an event's response. The event was received, so it is not repeated if they fail.
async fn follow(app: &AppHandle, event: &SessionEvent, text: &Bytes) -> Result<(), String> {
    let said = |failure: Failure| format!("{failure}; {}", failure.advice());
    let answer = Answer::read(text).map_err(said)?;
    if let Some(Object(error)) = answer.error {
        return Err(error.text());
    }
    let plan = actions::Plan::check(event.session(), answer.actions).map_err(said)?;
    let done = plan.execute(app, event.session()).await;
    done.map_err(|error| error.to_string())
}

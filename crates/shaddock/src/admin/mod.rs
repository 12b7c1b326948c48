//! The admin server: health checks, metrics, and the API for operators.
//!
//! | request | response |
//! | --- | --- |
//! | `GET /healthz` | 200 while the process lives |
//! | `GET /readyz` | 200 while clients are accepted, 503 while the process starts or drains |
//! | `GET /metrics` | [metrics](crate::metrics) |
//! | `GET /api/sessions?where=&uid=&address=&frontend=&transport=&limit=&after=` | [`SessionPage`], by ascending id |
//! | `GET /api/sessions/{sid}` | [`SessionInfo`] with settings |
//! | `POST /api/kick` with [`KickRequest`] | [`KickReport`] |
//! | `GET /api/servers` | [`ServerList`] |
//! | `GET /api/stats` | [`Stats`] |
//! | `GET /api/whoami` | what the caller's token allows |
//! | `GET /console/` | the console, a page for operators |
//! | `POST /api/drain` with `{}` or `{"linger": "10m"}` | 202; the process drains and ends |
//! | `/api/app/{server}/{path}` | routes of the application ([`App::admin_route`](crate::App::admin_route)) |
//!
//! These concern one process. The following concern the whole cluster, and name the servers that did not reply ([`crate::operators`]):
//!
//! | request | response |
//! | --- | --- |
//! | `GET /api/cluster/servers`, `/api/cluster/servers/{id}` | [`ServerOverview`](crate::operators::ServerOverview), [`ServerStatus`](crate::operators::ServerStatus) |
//! | `GET /api/cluster/servers/{id}/work`, `/config` | [`ServerWork`](crate::operators::ServerWork), [`EffectiveKey`](crate::operators::EffectiveKey)s |
//! | `GET /api/cluster/load?after_ms=` | [`LoadReport`](crate::operators::LoadReport): the last ten minutes |
//! | `GET /api/cluster/events?..` | [`EventPage`](crate::operators::EventPage): recent events of sessions |
//! | `GET /api/cluster/audiences?..`, `/members?key=` | [`AudiencePage`](crate::operators::AudiencePage), [`MemberPage`](crate::operators::MemberPage) |
//! | `GET /api/cluster/sessions?..`, `/api/cluster/sessions/{sid}` | [`SessionOverview`](crate::operators::SessionOverview), [`SessionInfo`] |
//! | `POST /api/cluster/kick` with [`KickRequest`] | [`KickOutcome`](crate::operators::KickOutcome) |
//! | `POST /api/cluster/call` with [`CallRequest`] | [`CallAnswer`]: pushes, kicks, settings, binds and topics |
//! | `GET /api/cluster/jobs/{id}`, `POST /api/cluster/jobs/{id}/stop` with `{}` | [`JobStatus`] |
//! | `GET /api/openapi.json` | the OpenAPI 3.1 document of all routes |
//! | `POST /api/cluster/drain` with [`DrainRequest`](crate::operators::DrainRequest) | 202 and [`DrainStarted`](crate::operators::DrainStarted) |
//!
//! Errors are [`ErrorBody`]. The server listens on a loopback address by default; any other address requires a token. `guard.rs` describes
//! the protection against web pages.
//!
//! The module needs the feature `admin` of this crate. The types that servers exchange are in [`operators`](crate::operators), which is
//! always there.

mod answers;
mod api;
mod audit;
mod cluster;
mod commands;
mod console;
mod error;
mod guard;
mod hook;
mod jobs;
mod look;
mod once;
mod openapi;
mod own;
mod server;
mod tokens;
mod trail;
mod types;

pub use self::{
    commands::{
        BindCommand, CallAnswer, CallRequest, Command, CommandOutcome, CommandResult, CountCommand,
        KickCommand, PushCommand, SetCommand, To, TopicCommand,
    },
    error::{ErrorBody, ErrorInfo},
    hook::AdminRequest,
    jobs::JobStatus,
    server::{Admin, AdminError, loopback_api},
    types::{ServerList, ServerReport, ServerStats, Stats},
};
pub(crate) use self::{guard::Guard, tokens::Tokens};
pub use crate::operators::{KickReport, KickRequest, SessionInfo, SessionPage, SessionQuery};

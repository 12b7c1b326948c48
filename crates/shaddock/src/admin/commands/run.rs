//! Executes commands.

use axum::http::StatusCode;

use super::{
    Api, CallRequest, CommandOutcome, CommandResult,
    prepare::{Kind, Prepared},
};
use crate::{
    admin::{
        audit::{self, Audit, Line},
        error::ApiError,
        jobs::{Host, Job},
        tokens::Caller,
    },
    channel::Latest,
    operations::Phase,
    operators::{
        Act, Everywhere, Find, Found, MOST_FOUND, Obeyed, Order, Select, Unanswered, WhyUnanswered,
    },
};

impl Host for Api {
    fn is_draining(&self) -> bool {
        self.operations.phase() != Phase::Running
    }

    async fn step(&self, sids: &[String], act: &Act) -> Result<Everywhere<Obeyed>, ApiError> {
        Ok(self.view()?.obey_each(sids, act).await)
    }

    fn audit(&self) -> &Audit {
        &self.audit
    }
}

impl Api {
    pub(super) async fn execute(
        &self,
        caller: &Caller,
        request: &CallRequest,
        command: &Prepared,
    ) -> CommandResult {
        let mut line = Line::new(command.name, command.to.clone(), command.what.clone());
        line.who.clone_from(&caller.name);
        line.dry_run = request.dry_run;
        let result = match self.run(request, command, &line).await {
            Ok(ok) => CommandResult {
                ok: Some(ok),
                error: None,
            },
            Err(error) => CommandResult {
                ok: None,
                error: Some(error.into_info()),
            },
        };
        if matches!(command.kind, Kind::Count(_)) {
            return result;
        }
        line.time_ms = audit::now_ms();
        if let Some(ok) = &result.ok {
            line.matched = ok.matched;
            line.done = ok.done;
            line.failed = ok.failed;
            line.unanswered = ok.unanswered.iter().map(|one| one.server.clone()).collect();
            line.job.clone_from(&ok.job);
        }
        line.error = result.error.as_ref().map(|error| error.message.clone());
        self.audit.write(&line).await;
        result
    }

    async fn run(
        &self,
        request: &CallRequest,
        command: &Prepared,
        line: &Line,
    ) -> Result<CommandOutcome, ApiError> {
        match &command.kind {
            Kind::Count(select) => self.count(select).await,
            Kind::Topic { name, .. } if request.dry_run => {
                let members = self.app()?.topic(name).len().await.map_err(|error| {
                    ApiError::new(StatusCode::BAD_GATEWAY, "unanswered", error.to_string())
                })?;
                Ok(CommandOutcome {
                    matched: Some(members as u64),
                    ..CommandOutcome::default()
                })
            }
            Kind::Topic {
                name,
                except,
                route,
                body,
                latest,
            } => {
                let topic = self.app()?.topic(name);
                let topic = Latest::of(&topic, latest.as_deref());
                let push = match except {
                    Some(uid) => topic.push_except(uid, route, body),
                    None => topic.push(route, body),
                };
                push.await
                    .map_err(|error| ApiError::bad_request(error.to_string()))?;
                Ok(CommandOutcome::default())
            }
            Kind::Do { order, may_be_all } => self.order(request, order, *may_be_all, line).await,
        }
    }

    async fn count(&self, select: &Select) -> Result<CommandOutcome, ApiError> {
        let find = Find {
            select: select.clone(),
            list: false,
            after: None,
        };
        let found = self.view()?.find(&find).await;
        Ok(CommandOutcome {
            matched: Some(found.all.matched),
            by_frontend: found.by_frontend,
            unanswered: found.unanswered,
            ..CommandOutcome::default()
        })
    }

    async fn order(
        &self,
        request: &CallRequest,
        order: &Order,
        may_be_all: bool,
        line: &Line,
    ) -> Result<CommandOutcome, ApiError> {
        if request.dry_run {
            return self.count(&order.select).await;
        }
        let view = self.view()?;
        let is_paced = request.per_second > 0;
        let is_guarded = !may_be_all && matches!(order.select, Select::Where(_));
        if !is_paced && !is_guarded {
            return Ok(outcome(view.obey(order).await));
        }
        let find = Find {
            select: order.select.clone(),
            list: true,
            after: None,
        };
        let found = view.find(&find).await;
        confirm(&found, is_guarded)?;
        let Everywhere {
            all,
            by_frontend,
            unanswered,
        } = found;
        let matched = all.sids.len() as u64;
        if is_paced && matched > request.per_second {
            let act = order.act.clone();
            let job = Job {
                act,
                sids: all.sids,
                per_second: request.per_second,
                line: line.clone(),
            };
            return Ok(CommandOutcome {
                matched: Some(matched),
                by_frontend,
                unanswered,
                job: Some(self.jobs.start(self.clone(), job)?),
                ..CommandOutcome::default()
            });
        }
        // Only the sessions that were found: the predicate may match more sessions by now.
        let mut ended = outcome(view.obey_each(&all.sids, &order.act).await);
        ended.matched = Some(matched);
        for one in unanswered {
            if ended
                .unanswered
                .iter()
                .all(|other| other.server != one.server)
            {
                ended.unanswered.push(one);
            }
        }
        Ok(ended)
    }
}

/// Checks that the command may act on the sessions that were found.
fn confirm(found: &Everywhere<Found>, is_guarded: bool) -> Result<(), ApiError> {
    // A frontend that is gone has no sessions, and one that does not support the query does not support the command either. All others may
    // have sessions that were not counted.
    let is_open =
        |one: &&Unanswered| !matches!(one.why, WhyUnanswered::Gone | WhyUnanswered::Unable);
    if let Some(one) = found.unanswered.iter().find(is_open) {
        let message = format!(
            "{} did not report its sessions, so nothing was done: {}; try again",
            one.server, one.reason
        );
        return Err(ApiError::new(
            StatusCode::BAD_GATEWAY,
            "unanswered",
            message,
        ));
    }
    if found.all.more {
        let message = format!(
            "more than {MOST_FOUND} sessions are meant, so nothing was done; name fewer at a time (such as with `frontend = ..` or `age > ..` in `where`), \
             or add `\"all\": true` (`--all`) and omit `per_second`"
        );
        return Err(ApiError::new(StatusCode::CONFLICT, "too_many", message));
    }
    let (matched, total) = (found.all.sids.len() as u64, found.all.total);
    if is_guarded && matched >= total && total > 1 {
        let message = format!(
            "`where` matches all {total} sessions, so nothing was done; to confirm, add `\"all\": true` (`--all`)"
        );
        return Err(ApiError::new(StatusCode::CONFLICT, "everybody", message));
    }
    Ok(())
}

fn outcome(ended: Everywhere<Obeyed>) -> CommandOutcome {
    CommandOutcome {
        matched: Some(ended.all.matched),
        done: Some(ended.all.done),
        failed: ended.all.failed,
        errors: ended.all.errors,
        by_frontend: ended.by_frontend,
        unanswered: ended.unanswered,
        job: None,
    }
}

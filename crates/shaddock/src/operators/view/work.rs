//! How much servers do: plots, routes, and what is configured.

use super::{ClusterView, OperatorError, Target, sort};
use crate::{
    config::EffectiveKey,
    history::unix_ms,
    operators::{
        ask::{Ask, CONFLICT},
        question::unanswered,
        work::{LoadReport, ServerLoad, ServerWork},
    },
    series::{STEP_MS, Series},
};

impl ClusterView {
    /// The last ten minutes of all servers; with `after_ms` only the samples after that time.
    pub async fn load(&self, after_ms: u64) -> LoadReport {
        let targets = self.targets();
        let said = self.ask(&targets, &Ask::Load(after_ms)).await;
        let (answers, unanswered) = sort::<Series>(&targets, said);
        let load = |(id, series): (String, Series)| {
            let frontend = targets
                .iter()
                .any(|target| target.is(&id) && target.is_frontend());
            ServerLoad {
                id,
                frontend,
                series,
            }
        };
        LoadReport {
            now_ms: unix_ms(),
            step_ms: STEP_MS,
            servers: answers.into_iter().map(load).collect(),
            unanswered,
        }
    }

    /// The work of one server, by route.
    ///
    /// # Errors
    /// It is not there, or did not answer.
    pub async fn work(&self, id: &str) -> Result<ServerWork, OperatorError> {
        self.ask_one(id, &Ask::Work).await
    }

    /// What is configured at one server. Secrets are not shown.
    ///
    /// # Errors
    /// It is not there, did not answer, or has none.
    pub async fn config(&self, id: &str) -> Result<Vec<EffectiveKey>, OperatorError> {
        self.ask_one(id, &Ask::Config).await
    }

    async fn ask_one<T: serde::de::DeserializeOwned>(
        &self,
        id: &str,
        ask: &Ask,
    ) -> Result<T, OperatorError> {
        let target: Vec<Target> = self.target(id).into_iter().collect();
        match self.ask::<T>(&target, ask).await.pop() {
            Some(Ok(answer)) => Ok(answer),
            Some(Err(error)) if error.code() == CONFLICT => Err(OperatorError::Refused {
                server: id.to_owned(),
                reason: error.message().to_owned(),
            }),
            Some(Err(error)) => Err(OperatorError::Unanswered(unanswered(id, &error))),
            None => Err(self.no_server(id)),
        }
    }
}

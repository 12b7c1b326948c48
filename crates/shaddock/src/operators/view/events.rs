//! Recent events of sessions, on all frontends.

use super::{ClusterView, OperatorError, sort};
use crate::operators::{
    ask::Ask,
    events::{EventPage, EventQuery, Wanted},
};

impl ClusterView {
    /// Recent events of sessions, newest first.
    ///
    /// # Errors
    /// The query makes no sense.
    pub async fn events(&self, query: &EventQuery) -> Result<EventPage, OperatorError> {
        let wanted = Wanted::new(query).map_err(OperatorError::BadRequest)?;
        let targets = match wanted.sid {
            Some(sid) => self.holders(sid.node()),
            None => self.frontends(),
        };
        let said = self.ask(&targets, &Ask::Events(query.clone())).await;
        let (answers, unanswered) = sort::<EventPage>(&targets, said);
        let mut page = EventPage {
            unanswered,
            ..EventPage::default()
        };
        for (_, part) in answers {
            page.since_ms = page.since_ms.max(part.since_ms);
            page.events.extend(part.events);
        }
        page.events
            .sort_by_key(|event| std::cmp::Reverse(event.time_ms));
        page.events.truncate(wanted.limit);
        Ok(page)
    }
}

//! Channels and topics, with who is in them, on all frontends.

use super::{ClusterView, OperatorError, sort};
use crate::operators::{
    ask::Ask,
    audiences::{
        AudiencePage, AudienceQuery, AudiencesHere, MemberPage, MemberQuery, MembersHere,
        merge_audiences, merge_members,
    },
    filter::limit_of,
};

impl ClusterView {
    /// Channels and topics that have members.
    ///
    /// # Errors
    /// The query makes no sense.
    pub async fn audiences(&self, query: &AudienceQuery) -> Result<AudiencePage, OperatorError> {
        query.check().map_err(OperatorError::BadRequest)?;
        let targets = self.frontends();
        let said = self.ask(&targets, &Ask::Audiences(query.clone())).await;
        let (answers, unanswered) = sort::<AudiencesHere>(&targets, said);
        Ok(merge_audiences(answers, limit_of(query.limit), unanswered))
    }

    /// The members of a channel or topic.
    ///
    /// # Errors
    /// The query makes no sense.
    pub async fn members(&self, query: &MemberQuery) -> Result<MemberPage, OperatorError> {
        query.check().map_err(OperatorError::BadRequest)?;
        let targets = self.frontends();
        let said = self.ask(&targets, &Ask::Members(query.clone())).await;
        let (answers, unanswered) = sort::<MembersHere>(&targets, said);
        Ok(merge_members(answers, limit_of(query.limit), unanswered))
    }
}

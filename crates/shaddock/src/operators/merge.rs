//! One answer out of those of many servers.

use shaddock_core::Sid;

use super::SessionPage;
use super::types::{SessionOverview, Unanswered};

/// One page of sessions out of one page of each frontend, all of them after the same sid.
pub(crate) fn pages(
    pages: Vec<SessionPage>,
    limit: usize,
    unanswered: Vec<Unanswered>,
) -> SessionOverview {
    let total = pages.iter().map(|page| page.total).sum();
    let more_there = pages.iter().any(|page| page.next.is_some());
    let mut sessions: Vec<_> = pages.into_iter().flat_map(|page| page.sessions).collect();
    // As numbers: as text, "10" is before "9".
    sessions.sort_by_key(|session| session.sid.parse::<Sid>().ok());
    let more = more_there || sessions.len() > limit;
    sessions.truncate(limit);
    let last = sessions.last().map(|session| session.sid.clone());
    SessionOverview {
        total,
        next: last.filter(|_| more),
        sessions,
        unanswered,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn page(sids: &[u64], total: usize, next: Option<u64>) -> SessionPage {
        let session = |sid: &u64| {
            serde_json::json!({
                "sid": sid.to_string(), "uid": null, "frontend": "f", "state": "open", "transport": "tcp",
                "dialect": "pomelo", "address": null, "age_ms": 0, "messages_in": 0, "bytes_in": 0,
                "messages_out": 0, "bytes_out": 0, "queued_bytes": 0
            })
        };
        let sessions: Vec<_> = sids.iter().map(session).collect();
        let next = next.map(|sid| sid.to_string());
        let page = serde_json::json!({ "sessions": sessions, "total": total, "next": next });
        serde_json::from_value(page).unwrap()
    }

    fn sids(overview: &SessionOverview) -> Vec<&str> {
        let sessions = overview.sessions.iter();
        sessions.map(|session| session.sid.as_str()).collect()
    }

    #[test]
    fn a_page_is_cut_where_no_frontend_can_have_skipped_one() {
        let merged = pages(
            vec![page(&[2, 9], 5, Some(9)), page(&[3, 10], 2, None)],
            2,
            Vec::new(),
        );
        assert_eq!(sids(&merged), ["2", "3"]);
        assert_eq!((merged.total, merged.next.as_deref()), (7, Some("3")));
        let last = pages(
            vec![page(&[9], 1, None), page(&[10], 1, None)],
            2,
            Vec::new(),
        );
        assert_eq!(sids(&last), ["9", "10"], "ordered as numbers");
        assert_eq!(last.next, None);
    }
}

//! Examples of the responses for the console.

use std::collections::BTreeMap;

use super::{Example, value};
use crate::operators::{
    AudienceInfo, AudienceName, AudiencePage, EventPage, LoadReport, Member, MemberPage, RouteWork,
    Series, ServerLoad, ServerWork, SessionRecord, Unanswered, WhyUnanswered,
};

/// One example of each response with all optional members.
pub(super) fn examples() -> Vec<Example> {
    vec![
        (
            "LoadReport",
            &["now_ms", "step_ms", "servers"],
            value(&load()),
        ),
        (
            "ServerWork",
            &["time_ms", "bounds_us", "routes"],
            value(&work()),
        ),
        ("EventPage", &["events"], value(&events())),
        ("AudiencePage", &["audiences"], value(&audiences())),
        ("MemberPage", &["members", "total"], value(&members())),
    ]
}

fn text() -> String {
    "text".to_owned()
}

fn unanswered() -> Vec<Unanswered> {
    vec![Unanswered {
        server: text(),
        why: WhyUnanswered::Silent,
        reason: text(),
    }]
}

fn counts() -> BTreeMap<String, u64> {
    [(text(), 1)].into()
}

fn route() -> RouteWork {
    RouteWork {
        route: text(),
        errors: 1,
        panics: 1,
        blocked: 1,
        answers: vec![1],
    }
}

fn load() -> LoadReport {
    LoadReport {
        now_ms: 1,
        step_ms: 1,
        servers: vec![ServerLoad {
            id: text(),
            frontend: true,
            series: Series {
                columns: vec![text()],
                rows: vec![vec![1]],
                bounds_us: vec![1],
                answers: vec![vec![1]],
            },
        }],
        unanswered: unanswered(),
    }
}

fn work() -> ServerWork {
    ServerWork {
        time_ms: 1,
        bounds_us: vec![1],
        routes: vec![route()],
        calls: vec![route()],
        refused: counts(),
        closed: counts(),
        dropped: counts(),
    }
}

fn events() -> EventPage {
    EventPage {
        events: vec![SessionRecord {
            time_ms: 1,
            event: text(),
            sid: text(),
            frontend: text(),
            uid: Some(text()),
            address: Some(([127, 0, 0, 1], 1).into()),
            age_ms: 1,
            reason: Some(text()),
            code: Some(1),
            text: Some(text()),
        }],
        since_ms: Some(1),
        unanswered: unanswered(),
    }
}

fn audiences() -> AudiencePage {
    AudiencePage {
        audiences: vec![AudienceInfo {
            name: AudienceName {
                key: text(),
                kind: text(),
                name: text(),
                owner: Some(text()),
            },
            members: 1,
            by_frontend: counts(),
        }],
        next: Some(text()),
        unanswered: unanswered(),
    }
}

fn members() -> MemberPage {
    MemberPage {
        members: vec![Member {
            uid: text(),
            frontend: text(),
        }],
        total: 1,
        next: Some(text()),
        unanswered: unanswered(),
    }
}

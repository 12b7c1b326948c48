//! The sessions of a frontend, as simply as they can be written: a list.

use shaddock_core::{Conflict, Next, SendError, kick_package};
use std::collections::BTreeMap;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum State {
    Open,
    Closed,
}

/// A reason to close: name, text of the KICK, whether what is queued is written.
pub(crate) struct Close {
    name: &'static str,
    kick: Option<String>,
    flush: bool,
}

impl Close {
    fn code(&self) -> u16 {
        match self.name {
            "kicked" => 3500,
            "replaced" => 3501,
            "attack" => 3504,
            "rate_limited" => 3503,
            "draining" => 3001,
            other => panic!("no KICK for {other}"),
        }
    }

    pub(crate) fn new(name: &'static str, kick: Option<&str>, flush: bool) -> Self {
        Self {
            name,
            kick: kick.map(str::to_owned),
            flush,
        }
    }

    pub(crate) fn kick(reason: &str) -> Self {
        Self::new("kicked", Some(reason), true)
    }
}

pub(crate) struct NaiveSession {
    pub(crate) state: State,
    pub(crate) uid: Option<String>,
    pub(crate) settings: BTreeMap<&'static str, i32>,
    pub(crate) events: Vec<String>,
    pub(crate) queued: Vec<u8>,
    pub(crate) taken: Vec<u8>,
    /// The socket did not take everything that it was offered last.
    blocked: bool,
    pub(crate) messages: u64,
    end: Next,
    /// When it was bound, to sort by.
    bound_at: usize,
}

struct View {
    session: usize,
    settings: BTreeMap<&'static str, i32>,
}

pub(crate) struct Naive {
    pub(crate) all: Vec<NaiveSession>,
    single: Option<Conflict>,
    limit: usize,
    max_settings: usize,
    binds: usize,
    view: Option<View>,
}

impl Naive {
    pub(crate) fn new(single: Option<Conflict>, limit: usize, max_settings: usize) -> Self {
        Self {
            all: vec![],
            single,
            limit,
            max_settings,
            binds: 0,
            view: None,
        }
    }

    pub(crate) fn create(&mut self) {
        self.all.push(NaiveSession {
            state: State::Open,
            uid: None,
            settings: BTreeMap::new(),
            events: vec![],
            queued: vec![],
            taken: vec![],
            blocked: false,
            messages: 0,
            end: Next::Continue,
            bound_at: 0,
        });
    }

    pub(crate) fn open(&self) -> impl Iterator<Item = usize> {
        (0..self.all.len()).filter(|&s| self.all[s].state != State::Closed)
    }

    pub(crate) fn bound_to(&self, user: &str) -> impl Iterator<Item = usize> {
        let mut bound: Vec<_> = self
            .open()
            .filter(|&s| self.all[s].uid.as_deref() == Some(user))
            .collect();
        bound.sort_by_key(|&s| self.all[s].bound_at);
        bound.into_iter()
    }

    pub(crate) fn bind(&mut self, s: usize, user: &str) -> Result<(), String> {
        if self.all[s].state == State::Closed {
            return Err("gone".into());
        }
        match &self.all[s].uid {
            Some(bound) if bound == user => return Ok(()),
            Some(bound) => return Err(format!("bound to {bound}")),
            None => {}
        }
        let rivals: Vec<_> = self.bound_to(user).collect();
        match self.single {
            Some(Conflict::RejectNew) if !rivals.is_empty() => return Err(format!("taken {user}")),
            Some(Conflict::ReplaceOld) => {
                for rival in rivals {
                    self.close(rival, &Close::new("replaced", Some("replaced"), true));
                }
            }
            _ => {}
        }
        self.binds += 1;
        let session = &mut self.all[s];
        session.uid = Some(user.to_owned());
        session.bound_at = self.binds;
        session.events.push(format!("bind {user}"));
        Ok(())
    }

    pub(crate) fn unbind(&mut self, s: usize, user: &str) -> bool {
        let session = &mut self.all[s];
        if session.state == State::Closed || session.uid.as_deref() != Some(user) {
            return false;
        }
        session.uid = None;
        session.events.push(format!("unbind {user}"));
        true
    }

    pub(crate) fn close(&mut self, s: usize, close: &Close) -> bool {
        let session = &mut self.all[s];
        if session.state == State::Closed {
            return false;
        }
        session.state = State::Closed;
        session.events.push(format!("closed {}", close.name));
        if close.flush {
            session.end = Next::CloseAfterFlush;
            if let Some(text) = &close.kick {
                session
                    .queued
                    .extend_from_slice(&kick_package(text, close.code()));
                session.messages += 1;
            }
        } else {
            session.end = Next::CloseNow;
            session.queued.clear();
        }
        true
    }

    pub(crate) fn kick(&mut self, user: &str, reason: &str) -> usize {
        let bound: Vec<_> = self.bound_to(user).collect();
        bound
            .into_iter()
            .filter(|&s| self.close(s, &Close::kick(reason)))
            .count()
    }

    pub(crate) fn close_all(&mut self) -> usize {
        let open: Vec<_> = self.open().collect();
        let close = Close::new("draining", Some("draining"), true);
        open.into_iter().filter(|&s| self.close(s, &close)).count()
    }

    pub(crate) fn set(&mut self, s: usize, values: &[(&'static str, i32)]) -> bool {
        let session = &mut self.all[s];
        let mut after = session.settings.clone();
        after.extend(values.iter().copied());
        if session.state == State::Closed || after.len() > self.max_settings {
            return false;
        }
        session.settings = after;
        true
    }

    pub(crate) fn send(
        &mut self,
        s: usize,
        bytes: &[u8],
        is_answer: bool,
    ) -> Result<(), SendError> {
        let (session, limit) = (&mut self.all[s], self.limit);
        if session.state == State::Closed {
            return Err(SendError::Closed);
        }
        if bytes.len() > limit {
            return Err(SendError::TooLarge {
                len: bytes.len(),
                limit,
            });
        }
        let waiting = session.queued.len() + session.taken.len() + bytes.len();
        if !bytes.is_empty() && session.blocked && waiting > limit {
            self.close(s, &Close::new("slow_client", None, false));
            return Err(SendError::SlowClient);
        }
        if !bytes.is_empty() && !session.blocked && !is_answer && waiting > limit {
            return Err(SendError::Busy);
        }
        session.queued.extend_from_slice(bytes);
        session.messages += u64::from(!bytes.is_empty());
        Ok(())
    }

    pub(crate) fn send_to_user(&mut self, user: &str, bytes: &[u8]) -> usize {
        let bound: Vec<_> = self.bound_to(user).collect();
        bound
            .into_iter()
            .filter(|&s| self.send(s, bytes, false).is_ok())
            .count()
    }

    pub(crate) fn broadcast(&mut self, bytes: &[u8]) {
        let open: Vec<_> = self.open().collect();
        for s in open {
            let _ = self.send(s, bytes, false);
        }
    }

    pub(crate) fn drain(&mut self, s: usize, n: usize) -> (Vec<u8>, Next) {
        let session = &mut self.all[s];
        let queued = std::mem::take(&mut session.queued);
        session.taken.extend_from_slice(&queued);
        let rest = session.taken.split_off(n);
        session.blocked = !rest.is_empty() && session.end != Next::CloseNow;
        (std::mem::replace(&mut session.taken, rest), session.end)
    }

    pub(crate) fn view(&mut self, s: usize) {
        self.view = Some(View {
            session: s,
            settings: self.all[s].settings.clone(),
        });
    }

    pub(crate) fn view_set(&mut self, key: &'static str, value: i32) {
        if let Some(view) = &mut self.view {
            view.settings.insert(key, value);
        }
    }

    pub(crate) fn view_push(&mut self, key: &'static str) -> bool {
        let Some(view) = &self.view else {
            return false;
        };
        let Some(&value) = view.settings.get(key) else {
            return false;
        };
        self.set(view.session, &[(key, value)])
    }

    pub(crate) fn view_push_all(&mut self) -> bool {
        let Some(view) = &self.view else {
            return false;
        };
        let values: Vec<_> = view
            .settings
            .iter()
            .map(|(key, value)| (*key, *value))
            .collect();
        self.set(view.session, &values)
    }
}

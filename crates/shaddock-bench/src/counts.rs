//! Resumable sessions: the counts of both ends, and the packages kept until the server has acknowledged them.

use std::collections::VecDeque;

use bytes::{Bytes, BytesMut};
use serde_json::{Value, json};
use shaddock_protocol::{put_heartbeat, read_acknowledgement};

/// The counts of one session.
#[derive(Debug)]
pub(crate) struct Counts {
    token: String,
    /// Acknowledge after this number of packages.
    ack: u64,
    sent: u64,
    received: u64,
    /// The number of sent packages that the server has acknowledged.
    acknowledged: u64,
    /// The number of the server's packages that were acknowledged.
    told: u64,
    kept: VecDeque<Bytes>,
}

/// The server's response to a resuming client.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// The same session, and the number of packages that the server could not keep.
    Resumed { missed: u64 },
    /// Another session, and the reason.
    Restarted(String),
}

impl Counts {
    /// `sys.resume` of a response. `None`: resumption was not granted.
    pub(crate) fn granted(resume: &Value) -> Option<Self> {
        Some(Self {
            token: resume["token"].as_str()?.to_owned(),
            ack: resume["ack"].as_u64()?.max(1),
            sent: 0,
            received: 0,
            acknowledged: 0,
            told: 0,
            kept: VecDeque::new(),
        })
    }

    /// `sys.resume` of the handshake that resumes this session.
    pub(crate) fn ask(&self) -> Value {
        json!({"v": 1, "token": self.token, "received": self.received, "sent": self.sent, "early": true})
    }

    pub(crate) fn keep(&mut self, package: Bytes) {
        self.sent += 1;
        self.kept.push_back(package);
    }

    pub(crate) fn kept(&self) -> impl Iterator<Item = &Bytes> {
        self.kept.iter()
    }

    /// A DATA package arrived. Returns whether an acknowledgement is due.
    pub(crate) fn taken(&mut self) -> bool {
        self.received += 1;
        self.received - self.told >= self.ack
    }

    /// The next HEARTBEAT to the server.
    pub(crate) fn heartbeat(&mut self) -> Bytes {
        let news = (self.received > self.told).then_some(self.received);
        self.told = self.received;
        let mut out = BytesMut::new();
        put_heartbeat(news, &mut out);
        out.freeze()
    }

    /// The server's HEARTBEAT. Fails if the acknowledgement is impossible.
    pub(crate) fn acknowledged(&mut self, body: &[u8]) -> Result<(), String> {
        match read_acknowledgement(body) {
            Ok(None) => Ok(()),
            Ok(Some(count)) => self.forget(count),
            Err(error) => Err(error.to_string()),
        }
    }

    fn forget(&mut self, count: u64) -> Result<(), String> {
        if count < self.acknowledged || count > self.sent {
            let (sent, before) = (self.sent, self.acknowledged);
            return Err(format!(
                "{count} of {sent} are acknowledged, after {before}"
            ));
        }
        while self.acknowledged < count {
            self.kept.pop_front();
            self.acknowledged += 1;
        }
        Ok(())
    }

    /// The server's response to a resuming client. Fails if it is impossible.
    pub(crate) fn returned(&mut self, resume: &Value) -> Result<Outcome, String> {
        if resume["resumed"] != true {
            let why = resume["why"].as_str().unwrap_or("nothing is granted");
            return Ok(Outcome::Restarted(why.to_owned()));
        }
        let count = |name: &str| resume[name].as_u64().ok_or(format!("no `{name}`"));
        let position = count("position")?;
        if position < self.received {
            let received = self.received;
            return Err(format!("it counts from {position}, but {received} came"));
        }
        self.forget(count("received")?)?;
        self.received = position;
        self.told = position;
        let token = resume["token"].as_str().ok_or("no `token`")?;
        token.clone_into(&mut self.token);
        Ok(Outcome::Resumed {
            missed: count("missed")?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_session_that_comes_back_sends_what_the_server_has_not() {
        let granted = json!({"v": 1, "token": "a", "ack": 2});
        let mut counts = Counts::granted(&granted).unwrap();
        for n in [1_u8, 2, 3] {
            counts.keep(Bytes::copy_from_slice(&[n]));
        }
        counts.acknowledged(b"\x01").unwrap();
        assert!(counts.acknowledged(b"\x00").is_err());
        assert!(counts.acknowledged(b"\x04").is_err());
        assert!(!counts.taken());
        assert!(counts.taken());
        assert_eq!(&counts.heartbeat()[..], b"\x03\x00\x00\x01\x02");
        let asked = json!({"v": 1, "token": "a", "received": 2, "sent": 3, "early": true});
        assert_eq!(counts.ask(), asked);
        let answer =
            json!({"token": "b", "resumed": true, "received": 2, "position": 3, "missed": 1});
        assert_eq!(counts.returned(&answer), Ok(Outcome::Resumed { missed: 1 }));
        assert_eq!(counts.kept().map(|kept| kept[0]).collect::<Vec<_>>(), [3]);
        let asked = json!({"v": 1, "token": "b", "received": 3, "sent": 3, "early": true});
        assert_eq!(counts.ask(), asked);
        assert!(counts.returned(&answer.clone()).is_ok());
        let behind =
            json!({"token": "b", "resumed": true, "received": 3, "position": 2, "missed": 0});
        assert!(counts.returned(&behind).is_err());
        let none = json!({"resumed": false, "why": "unknown"});
        assert_eq!(
            counts.returned(&none),
            Ok(Outcome::Restarted("unknown".to_owned()))
        );
    }
}

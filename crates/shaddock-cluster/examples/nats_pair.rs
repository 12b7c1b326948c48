//! The floor of `bench/cluster`: a bare `async-nats` request and its reply, between two processes.
//!
//! `nats_pair answer URL SUBJECT` answers every request with its own body, until it is killed.
//!
//! `nats_pair ask URL SUBJECT IN_FLIGHT SECONDS PID` asks for so long after a short warm-up, and prints one line of JSON: answers, latency,
//! and the processor time that it and the process PID (the one that answers) took meanwhile.

use std::error::Error;
use std::time::{Duration, Instant};

use async_nats::Client;
use bytes::Bytes;
use futures_util::StreamExt;

/// As long as a body of `shaddock bench echo`.
const BODY: &[u8] = br#"{"i":"000000000000000000000000","p":"xxxxxxxxxxxxxxxxxxxxxxxxx"}"#;
const WARM_UP: Duration = Duration::from_millis(500);

type Result<T> = std::result::Result<T, Box<dyn Error>>;

#[tokio::main]
async fn main() -> Result<()> {
    let words: Vec<String> = std::env::args().skip(1).collect();
    match words.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["answer", url, subject] => answer(url, subject).await,
        ["ask", url, subject, in_flight, seconds, pid] => {
            let run = Ask {
                in_flight: in_flight.parse()?,
                seconds: seconds.parse()?,
                pids: [std::process::id(), pid.parse()?],
            };
            run.run(url, subject).await
        }
        _ => Err("nats_pair answer URL SUBJECT | ask URL SUBJECT IN_FLIGHT SECONDS PID".into()),
    }
}

async fn answer(url: &str, subject: &str) -> Result<()> {
    let client = async_nats::connect(url).await?;
    let mut requests = client.subscribe(subject.to_owned()).await?;
    client.flush().await?;
    println!("ready");
    while let Some(request) = requests.next().await {
        if let Some(reply) = request.reply {
            client.publish(reply, request.payload).await?;
        }
    }
    Ok(())
}

struct Ask {
    in_flight: usize,
    seconds: f64,
    pids: [u32; 2],
}

impl Ask {
    async fn run(&self, url: &str, subject: &str) -> Result<()> {
        let client = async_nats::connect(url).await?;
        let begin = Instant::now() + WARM_UP;
        let end = begin + Duration::from_secs_f64(self.seconds);
        let askers: Vec<_> = (0..self.in_flight)
            .map(|_| tokio::spawn(ask(client.clone(), subject.to_owned(), begin, end)))
            .collect();
        tokio::time::sleep_until(begin.into()).await;
        let before = self.cpu()?;
        tokio::time::sleep_until(end.into()).await;
        let cpu = self.cpu()?.saturating_sub(before);
        let mut times = Vec::new();
        for asker in askers {
            times.extend(asker.await??);
        }
        times.sort_unstable();
        let at = |part: f64| {
            // Positions in a list are small numbers.
            #[allow(
                clippy::cast_possible_truncation,
                clippy::cast_sign_loss,
                clippy::cast_precision_loss
            )]
            let position = (times.len() as f64 * part) as usize;
            times
                .get(position)
                .map_or(0.0, |time| time.as_secs_f64() * 1e6)
        };
        println!(
            r#"{{"messages":{},"seconds":{},"cpu_s":{},"latency":{{"p50":{:.1},"p99":{:.1}}}}}"#,
            times.len(),
            self.seconds,
            cpu.as_secs_f64(),
            at(0.5),
            at(0.99)
        );
        Ok(())
    }

    /// Of both processes, all threads, as the scheduler counts it.
    fn cpu(&self) -> Result<Duration> {
        let mut sum = 0;
        for pid in self.pids {
            for task in std::fs::read_dir(format!("/proc/{pid}/task"))? {
                let text = std::fs::read_to_string(task?.path().join("schedstat"))?;
                sum += text.split(' ').next().unwrap_or_default().parse::<u64>()?;
            }
        }
        Ok(Duration::from_nanos(sum))
    }
}

/// The times of the answers that came in the measured time.
async fn ask(
    client: Client,
    subject: String,
    begin: Instant,
    end: Instant,
) -> std::result::Result<Vec<Duration>, String> {
    let mut times = Vec::new();
    loop {
        let start = Instant::now();
        let answer = client.request(subject.clone(), Bytes::from_static(BODY));
        let answer = answer.await.map_err(|e| e.to_string())?;
        if answer.payload != BODY {
            return Err("a wrong answer".to_owned());
        }
        let now = Instant::now();
        if now >= end {
            return Ok(times);
        }
        if start >= begin {
            times.push(now - start);
        }
    }
}

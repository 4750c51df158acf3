//! Unary reads in a closed loop: what they cost the server's process.

use std::time::{Duration, Instant};

use tokio::{task::JoinSet, time::timeout};

use crate::{
    grpc::{Connection, Failure},
    report::{Quartiles, Unary},
    servers::Server,
};

/// How long a round may take; one that takes it measures something else than it should.
const PATIENCE: Duration = Duration::from_secs(30);

/// How often what is done.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Amounts {
    pub(crate) rounds: usize,
    pub(crate) requests: u32,
}

/// What the rounds of one server came to: microseconds of processor time a request, and requests a
/// second.
#[derive(Debug, Default)]
struct Rounds {
    cpu_micros: Vec<f64>,
    rate: Vec<f64>,
}

/// Calls each server over so many connections, in turns.
pub(crate) async fn measure(servers: &[&Server], connections: u32, amounts: Amounts) -> Result<Vec<Unary>, Failure> {
    let mut open = Vec::new();
    for server in servers {
        let mut own = Vec::new();
        for _ in 0..connections {
            own.push(Connection::open(&server.target).await?);
        }
        open.push(own);
    }
    let mut taken: Vec<_> = servers.iter().map(|_| Rounds::default()).collect();
    // The first round is for warming up, and counts nowhere.
    for round in 0..=amounts.rounds {
        for turn in 0..servers.len() {
            // None is always the first.
            let index = (round + turn) % servers.len();
            let running = run(servers[index], &open[index], amounts.requests / connections);
            let slow = |_| format!("{}: {} calls take longer than {PATIENCE:?}", servers[index].name, amounts.requests);
            let (cpu, wall) = timeout(PATIENCE, running).await.map_err(slow)??;
            if round > 0 {
                let requests = f64::from(amounts.requests / connections * connections);
                taken[index].cpu_micros.push(cpu.as_secs_f64() * 1e6 / requests);
                taken[index].rate.push(requests / wall.as_secs_f64());
            }
        }
    }
    let unary = |(server, rounds): (&&Server, &Rounds)| Unary {
        name: server.name.to_owned(),
        connections,
        cpu_micros: Quartiles::of(&rounds.cpu_micros),
        requests_per_second: Quartiles::of(&rounds.rate),
    };
    Ok(servers.iter().zip(&taken).map(unary).collect())
}

/// The server's processor time and the time that passed, while each connection makes so many calls,
/// one at a time.
async fn run(server: &Server, connections: &[Connection], calls: u32) -> Result<(Duration, Duration), Failure> {
    let (path, request) = server.read();
    let (cpu, begin) = (server.process.cpu()?, Instant::now());
    let mut callers = JoinSet::new();
    for connection in connections {
        let (connection, request) = (connection.clone(), request.clone());
        callers.spawn(async move {
            for _ in 0..calls {
                let answer = connection.call(path, &request).await?;
                if answer.len() < 1_000 {
                    return Err(Failure::from("an answer is too short to hold the value"));
                }
            }
            Ok(())
        });
    }
    while let Some(outcome) = callers.join_next().await {
        outcome??;
    }
    Ok((server.process.cpu()?.saturating_sub(cpu), begin.elapsed()))
}

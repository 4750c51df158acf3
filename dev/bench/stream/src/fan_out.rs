//! One commit, and a thousand who watch the key, each over a connection of its own.

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use tokio::{sync::Notify, task::JoinSet, time::timeout};

use crate::{
    grpc::Failure,
    report::{FanOut, Quartiles},
    servers::{Server, Writer, number_in},
    watcher::Watcher,
};

/// How long all watches may take to begin, and a commit to reach the last watcher: a change that is
/// lost shows as that.
const PATIENCE: Duration = Duration::from_secs(30);

/// How often what is done.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Amounts {
    pub(crate) rounds: u32,
    pub(crate) watchers: u32,
}

/// Who has got what.
#[derive(Debug, Default)]
struct Arrivals {
    state: Mutex<State>,
    all_there: Notify,
}

#[derive(Debug, Default)]
struct State {
    /// The value that is waited for.
    number: u32,
    missing: u32,
    first: Option<Instant>,
    last: Option<Instant>,
}

impl Arrivals {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn expect(&self, number: u32, watchers: u32) {
        *self.state() = State { number, missing: watchers, first: None, last: None };
    }

    fn note(&self, number: u32) {
        let now = Instant::now();
        let mut state = self.state();
        if number != state.number {
            return;
        }
        state.first.get_or_insert(now);
        state.last = Some(now);
        state.missing = state.missing.saturating_sub(1);
        if state.missing == 0 {
            self.all_there.notify_one();
        }
    }
}

/// A server and all who watch it.
struct Watched<'a> {
    server: &'a Server,
    writer: Writer,
    arrivals: Arc<Arrivals>,
    watchers: JoinSet<Failure>,
    kib_a_watcher: f64,
    times: Times,
}

/// Of each round, in milliseconds.
#[derive(Debug, Default)]
struct Times {
    first_to_last: Vec<f64>,
    begin_to_first: Vec<f64>,
    begin_to_last: Vec<f64>,
    answer_to_last: Vec<f64>,
    cpu: Vec<f64>,
}

/// Has each server tell its watchers of commits, in turns.
pub(crate) async fn measure(servers: &[&Server], amounts: Amounts) -> Result<Vec<FanOut>, Failure> {
    let mut watched = Vec::new();
    for server in servers {
        watched.push(timeout(PATIENCE, Watched::begin(server, amounts.watchers)).await??);
    }
    // The first round is for warming up, and counts nowhere.
    for round in 0..=amounts.rounds {
        for turn in 0..watched.len() {
            // None is always the first.
            let index = (usize::try_from(round)? + turn) % watched.len();
            watched[index].round(round + 1, amounts.watchers, round > 0).await?;
        }
    }
    Ok(watched.iter().map(Watched::result).collect())
}

impl<'a> Watched<'a> {
    async fn begin(server: &'a Server, count: u32) -> Result<Self, Failure> {
        let resident = server.process.resident_kib()?;
        let arrivals = Arc::new(Arrivals::default());
        let (path, request, is_last) = server.watch();
        let mut watchers = JoinSet::new();
        for _ in 0..count {
            let mut watcher = Watcher::begin(&server.target, path, &request, is_last).await?;
            // Says that the watch has begun.
            watcher.next().await?;
            watchers.spawn(follow(watcher, Arc::clone(&arrivals)));
        }
        let kib = u32::try_from(server.process.resident_kib()?.saturating_sub(resident))?;
        let writer = server.writer().await?;
        let kib_a_watcher = f64::from(kib) / f64::from(count);
        Ok(Self { server, writer, arrivals, watchers, kib_a_watcher, times: Times::default() })
    }

    async fn round(&mut self, number: u32, count: u32, counts: bool) -> Result<(), Failure> {
        self.arrivals.expect(number, count);
        let cpu = self.server.process.cpu()?;
        let begin = Instant::now();
        let commit = async {
            self.server.commit(&self.writer, number).await?;
            Ok::<_, Failure>(Instant::now())
        };
        let arrived = async {
            tokio::select! {
                () = self.arrivals.all_there.notified() => Ok(()),
                Some(end) = self.watchers.join_next() => Err(end?),
            }
        };
        let (answered, arrived) = timeout(PATIENCE, async { tokio::join!(commit, arrived) }).await?;
        let answered = answered?;
        arrived?;
        let cpu = self.server.process.cpu()?.saturating_sub(cpu);
        let state = self.arrivals.state();
        let (first, last) = state.first.zip(state.last).ok_or("nobody was told")?;
        if counts {
            let millis = |time: Duration| time.as_secs_f64() * 1e3;
            self.times.first_to_last.push(millis(last - first));
            self.times.begin_to_first.push(millis(first - begin));
            self.times.begin_to_last.push(millis(last - begin));
            // Below zero if the last watcher has it before whoever wrote it has the answer.
            self.times.answer_to_last.push(millis(last - begin) - millis(answered - begin));
            self.times.cpu.push(millis(cpu));
        }
        Ok(())
    }

    fn result(&self) -> FanOut {
        FanOut {
            name: self.server.name.to_owned(),
            first_to_last: Quartiles::of(&self.times.first_to_last),
            begin_to_first: Quartiles::of(&self.times.begin_to_first),
            begin_to_last: Quartiles::of(&self.times.begin_to_last),
            answer_to_last: Quartiles::of(&self.times.answer_to_last),
            cpu: Quartiles::of(&self.times.cpu),
            kib_a_watcher: self.kib_a_watcher,
        }
    }
}

/// Notes what comes.
async fn follow(mut watcher: Watcher, arrivals: Arc<Arrivals>) -> Failure {
    loop {
        match watcher.next().await {
            Ok(message) => _ = number_in(&message).map(|number| arrivals.note(number)),
            Err(failure) => return failure,
        }
    }
}

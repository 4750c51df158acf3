//! The watchers: some over the bare interface, some with the client, who leave and come back at
//! random, some of whom are slow.

use std::{collections::BTreeMap, net::SocketAddr, sync::Arc, time::Duration};

use config_client::{Backoff, Client, Filter, LiveConfig, Options, Start, StaticToken};
use config_proto::v1::{self, config_service_client::ConfigServiceClient};
use fastrand::Rng;
use tokio::sync::watch;
use tonic::{Code, transport::Endpoint};

use super::{
    account::{Account, Part},
    deeds::Deeds,
};
use crate::stream::{Grpc, Watching};

/// How many messages a watcher takes before it leaves, at most.
const STAY: usize = 60;
/// How many changes of its tenant a slow watcher sleeps through now and then.
const SLEEP: usize = 40;
/// Less room on the way than there is by default, so that what is not read is not on its way.
const WINDOW: u32 = 65_535;

/// How a watcher watches.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// Over the bare interface.
    Bare,
    /// Over the bare interface, and slowly.
    Slow,
    /// With the client, event by event.
    Watch,
    /// With the client, which holds the state.
    Live,
}

/// What all watchers know.
#[derive(Debug)]
pub(super) struct Scene {
    /// Where the instances are.
    pub(super) addresses: Vec<SocketAddr>,
    pub(super) deeds: Arc<Deeds>,
    /// The tenants' last revisions, as soon as they are known. Then nobody leaves before it is
    /// there.
    pub(super) heads: watch::Receiver<Option<Vec<u64>>>,
}

/// A watcher.
#[derive(Debug)]
pub(super) struct Watcher {
    pub(super) kind: Kind,
    pub(super) tenant: usize,
    pub(super) token: String,
    pub(super) rng: Rng,
    pub(super) account: Account,
}

impl Scene {
    fn head(&self, tenant: usize) -> Option<u64> {
        self.heads.borrow().as_ref().map(|heads| heads[tenant])
    }

    /// Waits until so much has happened to a tenant, or everything; in a rush, until it is over.
    async fn sleep(&self, tenant: usize) {
        let (mut changes, mut heads) = (self.deeds.of_tenant[tenant].subscribe(), self.heads.clone());
        let (mut rushing, begin) = (self.deeds.rushing.subscribe(), *changes.borrow());
        tokio::select! {
            _ = changes.wait_for(|changes| *changes >= begin + SLEEP) => {}
            _ = heads.wait_for(Option::is_some) => {}
            _ = rushing.wait_for(|rushing| *rushing) => {}
        }
        if tenant == 0 && *rushing.borrow() {
            self.deeds.asleep.send_modify(|asleep| *asleep += 1);
        }
        // An error says that nobody is left to end it.
        _ = rushing.wait_for(|rushing| !rushing).await;
    }
}

impl Watcher {
    /// Watches until all is known. What it was told.
    pub(super) async fn watch(mut self, scene: Arc<Scene>) -> Account {
        match self.kind {
            Kind::Bare | Kind::Slow => self.watch_bare(&scene).await,
            Kind::Watch => self.watch_with_client(&scene).await,
            Kind::Live => self.watch_live(&scene).await,
        }
        self.account
    }

    fn is_over(&self, scene: &Scene) -> bool {
        scene.head(self.tenant).is_some_and(|head| self.account.at.is_some_and(|at| at >= head))
    }

    async fn watch_bare(&mut self, scene: &Scene) {
        let mut position = None;
        while !self.is_over(scene) {
            let mut stay = self.rng.usize(1..STAY);
            let Some(mut watching) = self.connect(scene, position.clone()).await else { continue };
            self.account.connected();
            loop {
                if self.kind == Kind::Slow && (*scene.deeds.rushing.borrow() || self.rng.u8(..10) == 0) {
                    scene.sleep(self.tenant).await;
                }
                match watching.next().await {
                    Ok(event) => {
                        let told = watching.position.take();
                        self.account.record(event, told.as_ref());
                        position = told.or(position);
                    }
                    Err(status) => {
                        self.may_end_with(&status);
                        break;
                    }
                }
                stay -= 1;
                if self.is_over(scene) || (stay == 0 && scene.head(self.tenant).is_none()) {
                    break;
                }
                stay = stay.max(1);
            }
        }
    }

    /// Ends that have to do with faults and instances that go. A position that leads nowhere is
    /// none of them. A slow reader's own library may end its connection, too, where too many small
    /// messages wait to be read.
    fn may_end_with(&self, status: &tonic::Status) {
        let is_of_its_library = status.message().starts_with("h2 protocol error");
        let is_own_end = self.kind == Kind::Slow && status.code() == Code::ResourceExhausted && is_of_its_library;
        let is_expected = matches!(status.code(), Code::Unavailable | Code::Unknown | Code::Cancelled | Code::Internal);
        let is_expected = is_expected || is_own_end;
        assert!(is_expected, "{:?}: {status}", self.account);
    }

    async fn connect(&mut self, scene: &Scene, position: Option<v1::Position>) -> Option<Watching> {
        let address = scene.addresses[self.rng.usize(..scene.addresses.len())];
        let endpoint = Endpoint::from_shared(format!("http://{address}")).expect("an address");
        let endpoint = endpoint.initial_stream_window_size(WINDOW).initial_connection_window_size(WINDOW);
        let grpc = Grpc { client: ConfigServiceClient::new(endpoint.connect_lazy()), token: self.token.clone() };
        let Part { keys, prefixes, .. } = self.account.part.clone();
        let request = v1::WatchConfigRequest { keys, prefixes, position };
        match grpc.try_watch(request).await {
            Ok(watching) => Some(watching),
            Err(status) => {
                self.may_end_with(&status);
                tokio::time::sleep(Duration::from_millis(self.rng.u64(1..100))).await;
                None
            }
        }
    }

    fn client(&self, scene: &Scene) -> (Client, Filter) {
        let mut urls = scene.addresses.iter().map(|address| format!("http://{address}"));
        let first = urls.next().expect("an instance");
        let options = Options::new(first, StaticToken::new(&self.token))
            .heartbeat_interval(Duration::from_secs(5))
            .reconnect_spread(Duration::ZERO);
        let backoff = Backoff { initial: Duration::from_millis(20), max: Duration::from_millis(500) };
        let options = urls.fold(options.backoff(backoff), Options::endpoint);
        let Part { keys, prefixes, .. } = &self.account.part;
        let filter = keys.iter().fold(Filter::all(), Filter::key);
        (Client::connect(options).expect("usable options"), prefixes.iter().fold(filter, Filter::prefix))
    }

    async fn watch_with_client(&mut self, scene: &Scene) {
        let mut start = Start::Snapshot;
        while !self.is_over(scene) {
            let (client, filter) = self.client(scene);
            let mut watch = client.watch(filter, start.clone());
            self.account.connected();
            for _ in 0..self.rng.usize(1..STAY) {
                let event = watch.next().await.expect("it does not end").expect("nothing ends it");
                self.account.take(event);
                if self.is_over(scene) {
                    break;
                }
            }
            start = watch.position().cloned().map_or(Start::Snapshot, Start::After);
        }
    }

    async fn watch_live(&mut self, scene: &Scene) {
        while !self.is_over(scene) {
            let (client, filter) = self.client(scene);
            let mut live = client.live(filter);
            self.account.connected();
            // Another instance may be behind what this watcher knew.
            self.account.at = None;
            for _ in 0..self.rng.usize(1..STAY) {
                let mut heads = scene.heads.clone();
                tokio::select! {
                    changed = live.changed() => changed.expect("nothing ends it"),
                    _ = heads.wait_for(Option::is_some) => {}
                }
                if let Some(head) = scene.head(self.tenant) {
                    live.wait_for(head).await.expect("nothing ends it");
                }
                self.record_view(&live);
                if self.is_over(scene) {
                    break;
                }
            }
        }
    }

    fn record_view(&mut self, live: &LiveConfig) {
        if let Some(view) = live.view() {
            self.account.record_view(&view);
        }
    }
}

/// Whose watcher the `number`th is, of how many.
pub(super) fn kind(number: usize) -> Kind {
    [Kind::Bare, Kind::Slow, Kind::Watch, Kind::Bare, Kind::Live][number % 5]
}

/// What the `number`th watcher asks for, and may read.
pub(super) fn part(number: usize) -> Part {
    let (keys, prefixes): (&[&str], &[&str]) = match number % 4 {
        0 | 1 => (&[], &[]),
        2 => (&["tenant_config_k0", "secret_config_k1"], &["param_config_"]),
        _ => (&[], &["secret_config_", "tenant_config_large/"]),
    };
    let owned = |texts: &[&str]| texts.iter().map(|text| (*text).to_owned()).collect();
    Part { keys: owned(keys), prefixes: owned(prefixes), may_read_secrets: number % 3 != 2 }
}

/// How many watchers there are of each kind.
pub(super) fn tally(accounts: &[(Kind, Account)]) -> BTreeMap<String, (usize, usize, u64, usize)> {
    let mut tally = BTreeMap::new();
    for (kind, account) in accounts {
        let (skipped, snapshots) = account.counts();
        let of_kind: &mut (usize, usize, u64, usize) = tally.entry(format!("{kind:?}")).or_default();
        *of_kind = (of_kind.0 + 1, of_kind.1 + account.connections, of_kind.2 + skipped, of_kind.3 + snapshots);
    }
    tally
}

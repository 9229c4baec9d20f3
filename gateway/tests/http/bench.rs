//! A running gateway, and how to speak to it.

use std::{
    net::{Ipv4Addr, SocketAddr},
    sync::atomic::{AtomicU8, Ordering},
    time::Duration,
};

use gateway::Config;
use reqwest::{Client, RequestBuilder, Response};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::watch,
    task::JoinHandle,
};

use crate::{streams::Exchanges, worker::worker};

/// A gateway, its worker, and the way to stop it.
pub(crate) struct Bench {
    pub(crate) base: String,
    pub(crate) address: SocketAddr,
    pub(crate) metrics: String,
    pub(crate) exchanges: Exchanges,
    pub(crate) stop: watch::Sender<bool>,
    pub(crate) task: JoinHandle<Result<(), gateway::RunError>>,
}

impl Bench {
    pub(crate) async fn start() -> Self {
        let exchanges = Exchanges::start().await;
        let vip = worker(exchanges.clone()).await;
        let (listen, metrics_listen) = (free_port().await, free_port().await);
        let proxy = PROXY;
        let file = tempfile::NamedTempFile::new().unwrap();
        let text = format!(
            "listen = '{listen}'\nvip = '{vip}'\nmetrics_listen = '{metrics_listen}'\n\
             trusted_proxies = ['{proxy}']\nbudget_ms = 2000\nread_timeout_ms = 500\nmax_body_bytes = 200000"
        );
        std::fs::write(file.path(), text).unwrap();
        let config = Config::load(file.path()).unwrap();
        let (stop, stopped) = watch::channel(false);
        let task = tokio::spawn(gateway::run(config, stopped));
        let listening = async {
            while TcpStream::connect(listen).await.is_err() {
                assert!(!task.is_finished(), "the gateway did not start");
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(10), listening)
            .await
            .expect("the gateway listens");
        Self {
            base: format!("http://{listen}"),
            address: listen,
            metrics: format!("http://{metrics_listen}/metrics"),
            exchanges,
            stop,
            task,
        }
    }

    /// The value of a metric.
    pub(crate) async fn count(&self, metric: &str) -> u64 {
        let text = client().get(&self.metrics).send().await.unwrap();
        let text = text.text().await.unwrap();
        let line = text.lines().find_map(|line| line.strip_prefix(metric));
        line.expect("the metric is there").trim().parse().unwrap()
    }

    pub(crate) fn post(&self, function: &str) -> RequestBuilder {
        client().post(format!("{}/run/{function}", self.base))
    }
}

/// An address of the client's host that the gateway trusts as a proxy's.
pub(crate) const PROXY: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 9);

pub(crate) fn client() -> Client {
    Client::builder().no_proxy().build().unwrap()
}

/// A free port on a loopback address that no other call gives away: a port that was free a moment ago may
/// by now be another test's.
async fn free_port() -> SocketAddr {
    static NEXT: AtomicU8 = AtomicU8::new(1);
    let address = Ipv4Addr::new(127, 77, 0, NEXT.fetch_add(1, Ordering::Relaxed));
    TcpListener::bind((address, 0))
        .await
        .unwrap()
        .local_addr()
        .unwrap()
}

pub(crate) fn header<'a>(response: &'a Response, name: &str) -> &'a str {
    response
        .headers()
        .get(name)
        .map_or("", |value| value.to_str().unwrap())
}

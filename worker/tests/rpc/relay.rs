//! A bad network: a relay between client and workers that loses, repeats and reorders packets as a
//! seed tells it, and sends them to another worker when it is told to.

use std::{
    collections::HashMap,
    net::SocketAddr,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use rand::{Rng, SeedableRng, rngs::StdRng};
use tokio::net::UdpSocket;

/// How bad the network is, in per cent of packets.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Weather {
    pub(crate) lost: u32,
    pub(crate) repeated: u32,
    pub(crate) delayed: u32,
}

/// What stands between client and worker.
pub(crate) struct Relay {
    /// Where clients send to.
    pub(crate) vip: SocketAddr,
    target: Arc<Mutex<SocketAddr>>,
    forwarded: Arc<AtomicU64>,
    returned: Arc<AtomicU64>,
}

impl Relay {
    pub(crate) async fn to(target: SocketAddr, weather: Weather, seed: u64) -> Self {
        let front = Arc::new(UdpSocket::bind("127.0.0.1:0").await.unwrap());
        let relay = Self {
            vip: front.local_addr().unwrap(),
            target: Arc::new(Mutex::new(target)),
            forwarded: Arc::default(),
            returned: Arc::default(),
        };
        let sky = Sky {
            weather,
            rng: Arc::new(Mutex::new(StdRng::seed_from_u64(seed))),
        };
        tokio::spawn(forward(
            front,
            Arc::clone(&relay.target),
            Arc::clone(&relay.forwarded),
            Arc::clone(&relay.returned),
            sky,
        ));
        relay
    }

    /// From now on packets go to `target`, as when a balancer moves traffic.
    pub(crate) fn send_to(&self, target: SocketAddr) {
        *self.target.lock().unwrap() = target;
    }

    /// Packets that have come from clients.
    pub(crate) fn forwarded(&self) -> u64 {
        self.forwarded.load(Ordering::Relaxed)
    }

    /// Packets of workers that have gone to clients, or been lost on the way.
    pub(crate) fn returned(&self) -> u64 {
        self.returned.load(Ordering::Relaxed)
    }
}

#[derive(Clone)]
struct Sky {
    weather: Weather,
    rng: Arc<Mutex<StdRng>>,
}

impl Sky {
    async fn carry(&self, socket: Arc<UdpSocket>, packet: Vec<u8>, to: SocketAddr) {
        let (lost, repeated, delay) = {
            let mut rng = self.rng.lock().unwrap();
            let mut happens = |percent| rng.random_range(0..100) < percent;
            let fate = (happens(self.weather.lost), happens(self.weather.repeated));
            let delayed = happens(self.weather.delayed);
            (
                fate.0,
                fate.1,
                delayed.then(|| Duration::from_millis(rng.random_range(1..8))),
            )
        };
        if lost {
            return;
        }
        let Some(delay) = delay else {
            for _ in 0..=u32::from(repeated) {
                socket.send_to(&packet, to).await.unwrap();
            }
            return;
        };
        tokio::spawn(async move {
            tokio::time::sleep(delay).await;
            socket.send_to(&packet, to).await.unwrap();
        });
    }
}

/// Both ways, with one socket of its own for each client and target, so that workers tell clients apart.
async fn forward(
    front: Arc<UdpSocket>,
    target: Arc<Mutex<SocketAddr>>,
    forwarded: Arc<AtomicU64>,
    returned: Arc<AtomicU64>,
    sky: Sky,
) {
    let mut backs: HashMap<SocketAddr, Arc<UdpSocket>> = HashMap::new();
    let mut buffer = [0; 2_000];
    loop {
        let (len, client) = front.recv_from(&mut buffer).await.unwrap();
        let to = *target.lock().unwrap();
        // Counted once it is settled where the packet goes.
        forwarded.fetch_add(1, Ordering::Relaxed);
        let back = match backs.get(&client) {
            Some(back) => Arc::clone(back),
            None => {
                let back = Arc::new(UdpSocket::bind("127.0.0.1:0").await.unwrap());
                backs.insert(client, Arc::clone(&back));
                tokio::spawn(give_back(
                    Arc::clone(&back),
                    Arc::clone(&front),
                    client,
                    Arc::clone(&returned),
                    sky.clone(),
                ));
                back
            }
        };
        sky.carry(back, buffer[..len].to_vec(), to).await;
    }
}

async fn give_back(
    back: Arc<UdpSocket>,
    front: Arc<UdpSocket>,
    client: SocketAddr,
    returned: Arc<AtomicU64>,
    sky: Sky,
) {
    let mut buffer = [0; 2_000];
    loop {
        let (len, _worker) = back.recv_from(&mut buffer).await.unwrap();
        sky.carry(Arc::clone(&front), buffer[..len].to_vec(), client)
            .await;
        returned.fetch_add(1, Ordering::Relaxed);
    }
}

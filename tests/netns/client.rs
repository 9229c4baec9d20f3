//! A client that sends one request and waits for its answer. It never sends again: a loss shows.

use std::{
    collections::BTreeSet,
    net::{IpAddr, SocketAddr, UdpSocket},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use ebpf_common::{
    hash::slot_of_key,
    ids::FunctionId,
    wire::{Kind, RpcHeader, flags},
};
use tests::topology::{Host, VIP, VIP_PORT};

/// What is not answered by then is lost: a local network answers in microseconds.
const LOST_AFTER: Duration = Duration::from_millis(500);

pub(crate) struct Client {
    socket: UdpSocket,
    vip: SocketAddr,
}

#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) header: RpcHeader,
    /// Name of the worker that answered.
    pub(crate) worker: String,
    pub(crate) from: SocketAddr,
    /// When it was read.
    pub(crate) at: Instant,
}

impl Answer {
    fn read(datagram: &[u8], from: SocketAddr) -> Self {
        let (header, payload) = RpcHeader::parse(datagram).unwrap().unwrap();
        Self {
            header,
            worker: String::from_utf8(payload.to_vec()).unwrap(),
            from,
            at: Instant::now(),
        }
    }

    /// Whether a worker answered.
    pub(crate) fn is_served(&self) -> bool {
        self.header.kind == Kind::Response
    }
}

impl Client {
    pub(crate) fn new(host: &Host) -> Self {
        Self::to(host, (VIP, VIP_PORT).into())
    }

    /// One on `host` that calls `vip`, from the host's address of that family.
    pub(crate) fn to(host: &Host, vip: SocketAddr) -> Self {
        let own: IpAddr = if vip.is_ipv4() {
            host.address().into()
        } else {
            host.address6().into()
        };
        let socket = host.netns.enter(|| UdpSocket::bind((own, 0)));
        Self {
            socket: socket.unwrap().unwrap(),
            vip,
        }
    }

    /// Sends `requests` without waiting, each under an id of its own, and returns what was answered.
    pub(crate) fn burst(&self, requests: impl IntoIterator<Item = RpcHeader>) -> Vec<Answer> {
        let mut open = BTreeSet::new();
        let mut answers = Vec::new();
        for request in requests {
            let request_id = rand::random();
            open.insert(request_id);
            let request = RpcHeader {
                request_id,
                ..request
            };
            self.socket.send_to(&request.emit(), self.vip).unwrap();
            // The socket has room for some two hundred.
            self.socket.set_nonblocking(true).unwrap();
            self.receive(&mut open, &mut answers);
        }
        self.socket.set_nonblocking(false).unwrap();
        self.socket.set_read_timeout(Some(LOST_AFTER)).unwrap();
        self.receive(&mut open, &mut answers);
        answers
    }

    /// Takes answers to what is `open` until none comes.
    fn receive(&self, open: &mut BTreeSet<u64>, answers: &mut Vec<Answer>) {
        let mut buffer = [0; 2048];
        while !open.is_empty()
            && let Ok((len, from)) = self.socket.recv_from(&mut buffer)
        {
            let answer = Answer::read(&buffer[..len], from);
            if open.remove(&answer.header.request_id) {
                answers.push(answer);
            }
        }
    }

    /// Sends `request` under a new id; none if no answer comes.
    pub(crate) fn send(&self, request: RpcHeader) -> Option<Answer> {
        self.send_payload(request, b"")
    }

    /// The same, with a payload.
    pub(crate) fn send_payload(&self, request: RpcHeader, payload: &[u8]) -> Option<Answer> {
        let request = RpcHeader {
            request_id: rand::random(),
            payload_len: u32::try_from(payload.len()).unwrap(),
            ..request
        };
        let datagram = [&request.emit()[..], payload].concat();
        self.socket.send_to(&datagram, self.vip).unwrap();
        let deadline = Instant::now() + LOST_AFTER;
        let mut buffer = [0; 2048];
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return None;
            }
            self.socket.set_read_timeout(Some(left)).unwrap();
            let Ok((len, from)) = self.socket.recv_from(&mut buffer) else {
                return None;
            };
            let answer = Answer::read(&buffer[..len], from);
            if answer.header.request_id == request.request_id {
                return Some(answer);
            }
        }
    }

    pub(crate) fn call(&self, function: &str) -> Option<Answer> {
        self.send(request(function))
    }

    pub(crate) fn call_session(&self, function: &str, session: u64) -> Option<Answer> {
        self.send(RpcHeader {
            flags: flags::FIRST | flags::LAST | flags::HAS_SESSION,
            session_id: session,
            ..request(function)
        })
    }

    pub(crate) fn call_key(&self, function: &str, key: &str) -> Option<Answer> {
        self.send(RpcHeader {
            flags: flags::FIRST | flags::LAST | flags::HAS_SLOT,
            slot: slot_of_key(key.as_bytes()),
            ..request(function)
        })
    }
}

pub(crate) fn request(function: &str) -> RpcHeader {
    RpcHeader::request(FunctionId::of(function), 0)
}

/// Requests without pause until it is stopped.
pub(crate) struct Load {
    stop: Arc<AtomicBool>,
    thread: JoinHandle<Tally>,
}

#[derive(Debug, Default)]
pub(crate) struct Tally {
    pub(crate) sent: u64,
    pub(crate) lost: u64,
    pub(crate) refused: u64,
    /// Which request was lost, by number, and when.
    pub(crate) losses: Vec<(u64, Instant)>,
}

impl Load {
    pub(crate) fn start(
        client: Client,
        mut next: impl FnMut(&Client, u64) -> Option<Answer> + Send + 'static,
    ) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let thread = thread::spawn(move || {
            let mut tally = Tally::default();
            while !stopped.load(Ordering::Relaxed) {
                let answer = next(&client, tally.sent);
                let number = tally.sent;
                tally.sent += 1;
                let is_refused = |answer: &Answer| answer.header.kind == Kind::Error;
                match answer {
                    Some(answer) if !is_refused(&answer) => continue,
                    Some(_) => tally.refused += 1,
                    None => {
                        tally.lost += 1;
                        tally.losses.push((number, Instant::now()));
                    }
                }
            }
            tally
        });
        Self { stop, thread }
    }

    pub(crate) fn stop(self) -> Tally {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.join().unwrap()
    }
}

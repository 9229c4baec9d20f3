//! An echo server that is a member: it answers requests at the VIP with its name and a route cookie.

use std::{
    io::ErrorKind,
    net::{Ipv6Addr, SocketAddr, UdpSocket},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
    time::Duration,
};

use balancer_userspace::membership::{
    client::MembershipClient,
    protocol::{Assignment, Heartbeat, Hello},
};
use ebpf_common::{
    cookie::{CookieKeys, CookieScope},
    hash::SipKey,
    ids::{FunctionId, WorkerId},
    wire::{Kind, RpcHeader, flags},
};
use tests::topology::{Host, VIP, VIP_PORT};
use tokio::sync::watch;

use crate::bed::TOKEN;

const LOOK_UP: Duration = Duration::from_millis(20);

pub(crate) struct Echo {
    pub(crate) heartbeat: watch::Sender<Heartbeat>,
    /// Ends the connection, as the kernel does for a process that was killed.
    membership: Option<watch::Sender<bool>>,
    assignment: watch::Receiver<Option<Assignment>>,
    stop: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
}

impl Echo {
    /// One that no control plane knows.
    pub(crate) fn alone(host: &Host, vip: SocketAddr) -> Self {
        let mut echo = Self {
            heartbeat: watch::channel(Heartbeat::default()).0,
            membership: None,
            assignment: watch::channel(None).1,
            stop: Arc::new(AtomicBool::new(false)),
            threads: Vec::new(),
        };
        echo.listen(host, vip);
        echo
    }

    pub(crate) fn start(
        host: &Host,
        control_plane: SocketAddr,
        slots: &str,
        address6: Option<Ipv6Addr>,
    ) -> Self {
        let name = host.role.clone();
        let hello = Hello {
            token: TOKEN.to_owned(),
            name: name.clone(),
            id: None,
            address: host.address(),
            address6,
            mac: host.nic().mac_text(),
            slots: vec![slots.parse().unwrap()],
            db_url: None,
        };
        let beat = Heartbeat {
            in_flight: 0,
            capacity: 16,
            warm: ["echo", "talk"].map(FunctionId::of).to_vec(),
            draining: false,
            kept: Vec::new(),
        };
        let (heartbeat, beats) = watch::channel(beat);
        let (assigned, assignment) = watch::channel(None);
        let (membership, ended) = watch::channel(false);
        let stop = Arc::new(AtomicBool::new(false));
        let netns = host.netns.clone();
        let member = thread::spawn(move || {
            netns
                .enter(|| follow(control_plane, hello, beats, &assigned, ended))
                .unwrap();
        });
        let mut echo = Self {
            heartbeat,
            membership: Some(membership),
            assignment,
            stop,
            threads: vec![member],
        };
        echo.listen(host, (VIP, VIP_PORT).into());
        echo
    }

    /// Answers at `vip`, too: requests as before, anything else by its name.
    pub(crate) fn listen(&mut self, host: &Host, vip: SocketAddr) {
        let socket = host.netns.enter(|| UdpSocket::bind(vip)).unwrap().unwrap();
        socket.set_read_timeout(Some(LOOK_UP)).unwrap();
        let (name, stop) = (host.role.clone(), Arc::clone(&self.stop));
        let assignment = self.assignment.clone();
        let answerer = thread::spawn(move || answer(&socket, &name, &assignment, &stop));
        self.threads.push(answerer);
    }

    /// What the control plane has told it.
    pub(crate) fn assignment(&self) -> Assignment {
        let assignment = self.assignment.borrow().clone();
        assignment.expect("a bed's echoes have joined before a test goes on")
    }

    /// What SIGKILL does: no more answers, and the connection is closed.
    pub(crate) fn die(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(membership) = self.membership.take() {
            membership.send_replace(true);
        }
        for thread in self.threads.drain(..) {
            thread.join().unwrap();
        }
    }
}

impl Drop for Echo {
    fn drop(&mut self) {
        self.die();
    }
}

fn follow(
    control_plane: SocketAddr,
    hello: Hello,
    beats: watch::Receiver<Heartbeat>,
    assigned: &watch::Sender<Option<Assignment>>,
    mut ended: watch::Receiver<bool>,
) {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(async {
        let mut told = MembershipClient::spawn(control_plane, hello, beats);
        loop {
            tokio::select! {
                _ = ended.wait_for(|ended| *ended) => return,
                changed = told.changed() => {
                    changed.unwrap();
                    let told = told.borrow_and_update().clone();
                    assigned.send_replace(told.map(|told| told.assignment));
                }
            }
        }
    });
}

fn answer(
    socket: &UdpSocket,
    name: &str,
    assignment: &watch::Receiver<Option<Assignment>>,
    stop: &AtomicBool,
) {
    let mut buffer = [0; 2048];
    while !stop.load(Ordering::Relaxed) {
        let (len, from) = match socket.recv_from(&mut buffer) {
            Ok(received) => received,
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {
                continue;
            }
            Err(error) => panic!("{error}"),
        };
        let Some(Ok((request, _))) = RpcHeader::parse(&buffer[..len]) else {
            socket.send_to(name.as_bytes(), from).unwrap();
            continue;
        };
        let cookie = assignment
            .borrow()
            .as_ref()
            .map(|assignment| seal(assignment, &request));
        let mut reply = RpcHeader {
            kind: Kind::Response,
            flags: flags::FIRST | flags::LAST,
            payload_len: u32::try_from(name.len()).unwrap(),
            ..request
        };
        if let Some(cookie) = cookie {
            reply.flags |= flags::HAS_COOKIE;
            reply.route_cookie = cookie;
        }
        let mut datagram = reply.emit().to_vec();
        datagram.extend_from_slice(name.as_bytes());
        socket.send_to(&datagram, from).unwrap();
    }
}

fn seal(assignment: &Assignment, request: &RpcHeader) -> u64 {
    let keys = CookieKeys {
        epoch: assignment.key_epoch,
        keys: assignment.cookie_keys.map(|[k0, k1]| SipKey { k0, k1 }),
    };
    let session = if request.has(flags::HAS_SESSION) {
        request.session_id
    } else {
        0
    };
    let scope = CookieScope {
        function: request.function,
        session,
    };
    keys.seal(WorkerId(assignment.worker_id), scope)
}

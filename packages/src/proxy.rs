//! The way out of a cell: an HTTP proxy that connects to the index's hosts and refuses all others.
//!
//! It knows what pip and npm only hint at: which host refused, which answered with an error, which was asked
//! for and is not the index.

use std::{
    collections::BTreeSet,
    net::TcpListener,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWriteExt, copy_bidirectional},
    net::TcpStream,
    task::JoinHandle,
    time::timeout,
};

/// Longest head of a request.
const HEAD_BYTES_MAX: usize = 64 * 1024;
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// What happened that the package manager will not tell.
#[derive(Debug, Clone, Default)]
pub(crate) struct Seen {
    /// The first host that could not be connected to, and why.
    pub(crate) unreachable: Option<(String, String)>,
    /// The first host that is not allowed.
    pub(crate) foreign: Option<String>,
}

/// A running proxy; it ends when dropped.
#[derive(Debug)]
pub(crate) struct Proxy {
    task: JoinHandle<()>,
    seen: Arc<Mutex<Seen>>,
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Proxy {
    /// Serves `listener` with a way to `allowed` (`host:port` each). Within a tokio runtime.
    pub(crate) fn start(listener: TcpListener, allowed: BTreeSet<String>) -> std::io::Result<Self> {
        listener.set_nonblocking(true)?;
        let listener = tokio::net::TcpListener::from_std(listener)?;
        let (allowed, seen) = (Arc::new(allowed), Arc::<Mutex<Seen>>::default());
        let noted = Arc::clone(&seen);
        let task = tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                let (allowed, noted) = (Arc::clone(&allowed), Arc::clone(&noted));
                tokio::spawn(async move {
                    if let Err(error) = serve(client, &allowed, &noted).await {
                        tracing::debug!(%error, "a connection to the index ended");
                    }
                });
            }
        });
        Ok(Self { task, seen })
    }

    /// What was seen so far.
    pub(crate) fn seen(&self) -> Seen {
        self.seen
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }
}

async fn serve(
    mut client: TcpStream,
    allowed: &BTreeSet<String>,
    noted: &Mutex<Seen>,
) -> std::io::Result<()> {
    let (head, rest) = read_head(&mut client).await?;
    let Some(request) = Request::parse(&head) else {
        return client.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n").await;
    };
    let note = |change: &dyn Fn(&mut Seen)| {
        change(&mut noted.lock().unwrap_or_else(PoisonError::into_inner));
    };
    if !allowed.contains(&request.address) {
        note(&|seen| {
            seen.foreign.get_or_insert_with(|| request.address.clone());
        });
        return client
            .write_all(b"HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\n\r\n")
            .await;
    }
    let connected = timeout(CONNECT_TIMEOUT, TcpStream::connect(&request.address)).await;
    let mut index = match connected.unwrap_or_else(|_| Err(std::io::ErrorKind::TimedOut.into())) {
        Ok(index) => index,
        Err(error) => {
            note(&|seen| {
                seen.unreachable
                    .get_or_insert_with(|| (request.address.clone(), error.to_string()));
            });
            return client
                .write_all(b"HTTP/1.1 502 Bad Gateway\r\nContent-Length: 0\r\n\r\n")
                .await;
        }
    };
    match &request.forward {
        Some(head) => index.write_all(head.as_bytes()).await?,
        None => client.write_all(b"HTTP/1.1 200 Connected\r\n\r\n").await?,
    }
    index.write_all(&rest).await?;
    copy_bidirectional(&mut client, &mut index).await.map(drop)
}

/// The head of a request, and what came behind it.
async fn read_head(client: &mut (impl AsyncRead + Unpin)) -> std::io::Result<(String, Vec<u8>)> {
    let mut bytes = Vec::new();
    let end = loop {
        if let Some(at) = bytes.windows(4).position(|four| four == b"\r\n\r\n") {
            break at + 4;
        }
        if bytes.len() > HEAD_BYTES_MAX || client.read_buf(&mut bytes).await? == 0 {
            return Err(std::io::ErrorKind::UnexpectedEof.into());
        }
    };
    let rest = bytes.split_off(end);
    let head = String::from_utf8(bytes).or(Err(std::io::ErrorKind::InvalidData))?;
    Ok((head, rest))
}

/// Where a request wants to go.
#[derive(Debug, PartialEq, Eq)]
struct Request {
    /// `host:port`.
    address: String,
    /// For a plain HTTP request: its head as the index takes it. `None`: a tunnel.
    forward: Option<String>,
}

impl Request {
    fn parse(head: &str) -> Option<Self> {
        let (line, headers) = head.split_once("\r\n")?;
        let mut words = line.split(' ');
        let (method, target, version) = (words.next()?, words.next()?, words.next()?);
        if method == "CONNECT" {
            return Some(Self {
                address: target.to_ascii_lowercase(),
                forward: None,
            });
        }
        let rest = target.strip_prefix("http://")?;
        let (host, path) = rest.find('/').map_or((rest, "/"), |at| rest.split_at(at));
        let address = with_port(host, 80)?;
        let mut forward = format!("{method} {path} {version}\r\nConnection: close\r\n");
        for header in headers.split("\r\n").filter(|header| !header.is_empty()) {
            let name = header.split(':').next()?.to_ascii_lowercase();
            // One request a connection, or the next one would go to this host whatever it asks for.
            if name != "connection" && name != "proxy-connection" {
                forward.push_str(header);
                forward.push_str("\r\n");
            }
        }
        forward.push_str("\r\n");
        Some(Self {
            address,
            forward: Some(forward),
        })
    }
}

/// `host` with `port` if it has none; `None` for what is no host.
pub(crate) fn with_port(host: &str, port: u16) -> Option<String> {
    let host = host.rsplit_once('@').map_or(host, |(_, host)| host);
    if host.is_empty() || host.contains(char::is_whitespace) {
        return None;
    }
    let has_port = host.rsplit_once(':').is_some_and(|(name, port)| {
        !name.is_empty() && !name.ends_with(':') && port.parse::<u16>().is_ok()
    });
    let host = host.to_ascii_lowercase();
    Some(if has_port {
        host
    } else {
        format!("{host}:{port}")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tunnel_and_a_plain_request_say_where_they_go() {
        let tunnel = Request::parse("CONNECT Files.Example:443 HTTP/1.1\r\n\r\n").unwrap();
        assert_eq!(
            (tunnel.address.as_str(), tunnel.forward),
            ("files.example:443", None)
        );
        let head = "GET http://u:p@index.example:8080/simple/a/ HTTP/1.1\r\nHost: index.example\r\nProxy-Connection: keep-alive\r\n\r\n";
        let plain = Request::parse(head).unwrap();
        assert_eq!(plain.address, "index.example:8080");
        let forward = "GET /simple/a/ HTTP/1.1\r\nConnection: close\r\nHost: index.example\r\n\r\n";
        assert_eq!(plain.forward.as_deref(), Some(forward));
        for bad in [
            "",
            "GET /x HTTP/1.1\r\n\r\n",
            "GET ftp://a/ HTTP/1.1\r\n\r\n",
            "GET http:// HTTP/1.1\r\n\r\n",
            "GET\r\n\r\n",
        ] {
            assert_eq!(Request::parse(bad), None, "{bad}");
        }
    }

    #[test]
    fn a_host_gets_the_port_of_its_scheme() {
        assert_eq!(
            with_port("a.example", 443).as_deref(),
            Some("a.example:443")
        );
        assert_eq!(
            with_port("a.example:80", 443).as_deref(),
            Some("a.example:80")
        );
        assert_eq!(with_port("", 443), None);
    }
}

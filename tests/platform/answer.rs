//! Answers of the gateway, as a client on the network gets them.

use serde_json::Value;
use tests::cluster::Cluster;

/// One answer.
pub(crate) struct Answer {
    pub(crate) code: u16,
    head: String,
    pub(crate) body: String,
}

impl Answer {
    /// What `curl` is answered with these arguments.
    pub(crate) fn to(cluster: &Cluster, args: &[&str]) -> Self {
        let client = &cluster.topology.client.netns;
        let args = [&["-s", "-i"], args].concat();
        Self::parse(&client.run("curl", &args).unwrap())
    }

    fn parse(text: &str) -> Self {
        let (head, body) = text.split_once("\r\n\r\n").unwrap_or((text, ""));
        let code = head.split_whitespace().nth(1).unwrap_or_default();
        Self {
            code: code.parse().unwrap_or_else(|_| panic!("no answer: {text}")),
            head: head.to_ascii_lowercase(),
            body: body.to_owned(),
        }
    }

    pub(crate) fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_else(|_| panic!("no JSON: {}", self.body))
    }

    /// The value of a header, in lower case; empty without it.
    pub(crate) fn header(&self, name: &str) -> &str {
        let lines = self.head.lines().filter_map(|line| line.split_once(": "));
        lines
            .filter(|(key, _)| *key == name)
            .map(|(_, value)| value)
            .next()
            .unwrap_or_default()
    }

    /// Code, fault and status of an error.
    pub(crate) fn blame(&self) -> (u16, &str, &str) {
        (
            self.code,
            self.header("x-warmpath-fault"),
            self.header("x-warmpath-status"),
        )
    }
}

//! Who pays for a call: whom a gateway names, if it is one of ours.

use warmpath_sdk::{
    Client,
    http::{CALLER, RequestHead},
};
use worker::bill::{BillConfig, Word};

use crate::bench::{Bench, call};

/// Who pays for a call whose head names `callers`.
async fn payer(client: &Client, callers: &[&str]) -> String {
    let line = |caller: &&str| (CALLER.to_owned(), (*caller).to_owned());
    let head = RequestHead {
        headers: callers.iter().map(line).collect(),
        ..RequestHead::of_call(0)
    };
    let call = call("payer").http(&head, b"").unwrap();
    let reply = client.call(call).await.unwrap();
    let (_, body) =
        warmpath_sdk::http::split::<warmpath_sdk::http::ResponseHead>(&reply.payload).unwrap();
    String::from_utf8(body.to_vec()).unwrap()
}

fn counted(bench: &Bench) -> [u64; 3] {
    [Word::Believed, Word::Ignored, Word::Garbled].map(|word| bench.metrics.callers_named(word))
}

#[tokio::test]
async fn a_gateway_is_believed_about_who_calls() {
    let bench = Bench::start();
    bench.server.believe(BillConfig {
        gateways: vec!["127.0.0.1".parse().unwrap()],
    });
    let client = bench.client();
    assert_eq!(payer(&client, &["192.0.2.7"]).await, "192.0.2.7");
    assert_eq!(payer(&client, &["2001:db8::1"]).await, "2001:db8::1");
    assert_eq!(payer(&client, &[]).await, "127.0.0.1");
    assert_eq!(counted(&bench), [2, 0, 0]);
    for garbled in [&["mallory"][..], &[""], &["192.0.2.7", "192.0.2.8"]] {
        assert_eq!(payer(&client, garbled).await, "127.0.0.1", "{garbled:?}");
    }
    assert_eq!(counted(&bench), [2, 0, 3]);
}

#[tokio::test]
async fn nobody_else_is_and_each_try_is_counted() {
    let bench = Bench::start();
    let client = bench.client();
    assert_eq!(payer(&client, &["192.0.2.7"]).await, "127.0.0.1");
    bench.server.believe(BillConfig {
        gateways: vec!["127.0.0.2".parse().unwrap()],
    });
    assert_eq!(payer(&client, &["192.0.2.7"]).await, "127.0.0.1");
    // No word is no try.
    assert_eq!(payer(&client, &[]).await, "127.0.0.1");
    assert_eq!(counted(&bench), [0, 2, 0]);
}

//! What handlers print: each request's own, whole, and bounded.

use ebpf_common::wire::Status;
use serde_json::json;
use worker::log::{Entry, Stream, Wanted};

use super::bed::Bed;

const TALKS: &str = r#"
import os, subprocess, sys
print("loading")
def f(event):
    n = event["n"]
    print(f"out {n}")
    print(f"err {n}", file=sys.stderr)
    os.write(1, f"raw {n}\n".encode())
    subprocess.run(["/bin/sh", "-c", f"echo child {n}"])
    for _ in range(event.get("lines", 0)):
        print("x" * 99)
    if event.get("raises"):
        raise ValueError(f"no {n}")
    print(f"unfinished {n}", end="")
"#;

const NODE: &str =
    "exports.f = async (event) => { console.log('out', event.n); console.error('err', event.n); };";
const PERL: &str = include_str!("../../examples/native-hello/f");

fn entries(bed: &Bed, function: &str, request: Option<u64>) -> Vec<Entry> {
    let wanted = Wanted {
        function: function.to_owned(),
        request: request.map(|request| format!("{request:016x}")),
        after: 0,
    };
    bed.pool.logs().read(&wanted).entries
}

fn text(entries: &[Entry], stream: Stream) -> String {
    let own = entries.iter().filter(|entry| entry.stream == stream);
    own.map(|entry| entry.text.as_str()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn each_request_has_its_own_output_on_both_streams() {
    let bed = Bed::start().await;
    let function = bed.deploy("talks", TALKS, "").await;
    let mut requests = Vec::new();
    for n in 0..20 {
        let event = json!({"n": n, "raises": n % 5 == 4});
        let invocation = bed.invocation(&function, &event);
        requests.push((n, invocation.request_id));
        let outcome = bed.pool.invoke(invocation).await;
        let expected = if n % 5 == 4 {
            Status::Exception
        } else {
            Status::Ok
        };
        assert_eq!(outcome.status, expected);
    }
    // Complete as soon as the reply is here: nothing is waited for.
    for (n, request) in requests {
        let own = entries(&bed, "talks", Some(request));
        let (out, err) = (text(&own, Stream::Stdout), text(&own, Stream::Stderr));
        // Python buffers what goes to a pipe; the child and the raw write do not.
        assert!(out.contains(&format!("raw {n}\nchild {n}\n")), "{out}");
        assert!(out.contains(&format!("out {n}\n")), "{out}");
        assert!(err.starts_with(&format!("err {n}\n")), "{err}");
        if n % 5 == 4 {
            assert!(err.contains("Traceback") && err.ends_with(&format!("ValueError: no {n}\n")));
        } else {
            assert!(out.contains(&format!("unfinished {n}")), "{out}");
        }
        let digits = format!("{n}");
        let words = out.split(|c: char| !c.is_ascii_digit());
        assert!(
            words
                .filter(|word| !word.is_empty())
                .all(|word| word == digits),
            "{out}"
        );
    }
    let all = entries(&bed, "talks", None);
    let loading = all.iter().find(|entry| entry.text.contains("loading"));
    assert!(loading.is_some(), "what loading printed is kept");
    bed.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_flood_is_cut_and_the_next_request_is_heard() {
    let bed = Bed::start().await;
    let function = bed.deploy("talks", TALKS, "timeout_ms = 20000").await;
    let flood = bed.invocation(&function, &json!({"n": 1, "lines": 20_000}));
    let quiet = bed.invocation(&function, &json!({"n": 2}));
    let (first, second) = (flood.request_id, quiet.request_id);
    assert_eq!(bed.pool.invoke(flood).await.status, Status::Ok);
    assert_eq!(bed.pool.invoke(quiet).await.status, Status::Ok);
    let own = entries(&bed, "talks", Some(first));
    let kept: usize = own.iter().map(|entry| entry.text.len()).sum();
    let cut: u64 = own.iter().map(|entry| entry.cut_bytes).sum();
    assert_eq!(kept, 64 << 10);
    assert!(cut > 2_000_000 - (64 << 10), "{cut}");
    let next = entries(&bed, "talks", Some(second));
    assert!(text(&next, Stream::Stdout).contains("out 2\n"));
    assert!(next.iter().all(|entry| entry.cut_bytes == 0));
    bed.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_no_python_is_heard_on_both_streams() {
    let bed = Bed::start().await;
    let prints = r#"print "out $event\n"; print STDERR "err $event\n"; STDOUT->flush; my $name"#;
    let native = PERL.replacen("my $name", prints, 1);
    for (name, files, manifest, said) in [
        (
            "node",
            [("f.js", NODE)],
            "runtime = 'node'\nentry = 'f.js'",
            "7",
        ),
        (
            "native",
            [("f", native.as_str())],
            "runtime = 'native'\nentry = 'f'",
            r#"{"n":7}"#,
        ),
    ] {
        let function = bed.deploy_files(name, &files, manifest).await;
        let invocation = bed.invocation(&function, &json!({"n": 7}));
        let request = invocation.request_id;
        assert_eq!(bed.pool.invoke(invocation).await.status, Status::Ok);
        let own = entries(&bed, name, Some(request));
        assert_eq!(text(&own, Stream::Stdout), format!("out {said}\n"));
        assert_eq!(text(&own, Stream::Stderr), format!("err {said}\n"));
    }
    bed.stop().await;
}

//! Deploying and calling.

use std::{
    fs,
    io::{BufRead, BufReader},
    path::PathBuf,
    process::Stdio,
    time::Duration,
};

use ebpf_common::maps::Class;
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use serde_json::{Value, json};
use tests::{
    cluster::{Cluster, Counters},
    wait,
};

use crate::bed::{machine, metric, platform, warmpath};

/// As long as workers may take to do what the control plane wants.
const PATIENCE: Duration = Duration::from_secs(30);

#[test]
fn a_deployed_function_answers_by_rpc_and_by_http() {
    let _machine = machine();
    let cluster = platform(&["hello"]);
    let reply = cluster.invoke("hello", r#"{"name":"Ada"}"#, &[]).unwrap();
    assert_eq!(reply["status"], "ok", "{reply}");
    let payload = reply["payload"].as_str().unwrap();
    let payload: serde_json::Value = serde_json::from_str(payload).unwrap();
    assert_eq!(payload, json!({ "greeting": "Hello, Ada!" }));
    let url = format!("{}/run/hello", cluster.gateway_url());
    let client = &cluster.topology.client.netns;
    let body = client
        .run("curl", &["-s", "-d", r#"{"name":"Bob"}"#, &url])
        .unwrap();
    let body: serde_json::Value = serde_json::from_str(&body).unwrap();
    assert_eq!(body, json!({ "greeting": "Hello, Bob!" }));
    cluster.stop().unwrap();
}

#[test]
fn a_cold_start_goes_home_and_the_next_request_to_the_warm_worker() {
    let _machine = machine();
    let cluster = platform(&["hello"]);
    let before = cluster.counters().unwrap();
    let first = cluster.invoke("hello", "{}", &[]).unwrap();
    let after = cluster.counters().unwrap();
    let routed = |counters: &Counters, rule| counters.get(Class::Route, rule);
    // Where a packet that the client sends again goes depends on what has happened meanwhile.
    let home = routed(&after, "home") - routed(&before, "home");
    assert!((1..=packets(&first)).contains(&home), "{home}: {first}");
    // What the worker has said is not yet what the kernel's row says.
    wait::until(
        "hello to be warm in the data plane",
        Duration::from_secs(5),
        || {
            let functions = cluster.functions()?;
            let is_warm = |function: &balancer_userspace::api::types::FunctionStatus| {
                function.qualified == "hello@latest" && !function.warm.is_empty()
            };
            Ok(functions.iter().any(is_warm).then_some(()))
        },
    )
    .unwrap();
    let second = cluster.invoke("hello", "{}", &[]).unwrap();
    let last = cluster.counters().unwrap();
    let warm = routed(&last, "warm") - routed(&after, "warm");
    assert!((1..=packets(&second)).contains(&warm), "{warm}: {second}");
    assert_eq!(routed(&last, "home"), routed(&after, "home"), "{second}");
    assert_eq!(first["worker"], second["worker"]);
}

/// The packets that a call took: one, unless its client lost patience.
fn packets(reply: &Value) -> u64 {
    let of = |key: &str| reply[key].as_u64().unwrap();
    of("attempts") + of("retransmits")
}

#[test]
fn a_function_that_was_asked_for_ahead_is_warm_on_each_worker_before_its_first_call() {
    let _machine = machine();
    let cluster = platform(&["hello"]);
    let sockets = cluster.worker_sockets();
    let prewarm = |function: &str| {
        cluster.cli(&[
            "fn", "prewarm", function, "--count", "2", "--worker", &sockets, "--json",
        ])
    };
    let warmed = prewarm("hello").unwrap();
    let warmed = warmed.as_array().unwrap();
    assert_eq!(warmed.len(), cluster.topology.workers.len());
    for report in warmed {
        assert_eq!(
            (&report["function"], &report["live"]),
            (&json!("hello@latest"), &json!(2)),
            "{report}"
        );
    }
    let started = 2 * warmed.len() as u64;
    assert_eq!(metric(&cluster, "worker_prewarmed_total"), started);
    let reply = cluster.invoke("hello", "{}", &[]).unwrap();
    assert_eq!(reply["status"], "ok", "{reply}");
    for path in ["zygote", "cold"] {
        let line = format!("worker_cold_starts_total{{path=\"{path}\"}}");
        assert_eq!(metric(&cluster, &line), 0, "the request waited for a start");
    }
    let unknown = prewarm("no-such-function").unwrap_err().to_string();
    assert!(unknown.contains("fn list"), "{unknown}");
    cluster.stop().unwrap();
}

#[test]
fn an_order_at_the_control_plane_is_spread_kept_over_its_death_and_withdrawn() {
    let _machine = machine();
    let mut cluster = platform(&["hello"]);
    let admin = cluster.paths().admin_socket().display().to_string();
    let sockets = cluster.worker_sockets();
    let prewarm = |cluster: &Cluster, more: &[&str]| {
        let args = [&["fn", "prewarm", "--admin", &admin, "--json"], more].concat();
        cluster.cli(&args)
    };
    let order = ["hello", "--count", "4", "--for", "10m", "--timeout", "30s"];
    let ordered = prewarm(&cluster, &order).unwrap();
    let status = &ordered[0];
    assert_eq!(
        (&status["live"], &status["missing"]),
        (&json!(4), &json!(0))
    );
    let parts = status["workers"].as_array().unwrap();
    let mut wanted: Vec<u64> = parts
        .iter()
        .map(|it| it["wanted"].as_u64().unwrap())
        .collect();
    wanted.sort_unstable();
    assert_eq!(wanted, [1, 1, 2], "{status}");
    let workers = cluster.topology.workers.iter();
    let seen: u64 = workers
        .map(|worker| kept(&cluster, &sockets, &worker.role))
        .sum();
    assert_eq!(seen, 4, "the workers say so too");
    let reply = cluster.invoke("hello", "{}", &[]).unwrap();
    assert_eq!(reply["status"], "ok", "{reply}");
    let started = metric(&cluster, "worker_cold_starts_total{path=\"zygote\"}")
        + metric(&cluster, "worker_cold_starts_total{path=\"cold\"}");
    assert_eq!(started, 0, "the request waited for a start");

    // For people.
    let plain = |cluster: &Cluster, more: &[&str]| {
        let args = [&["fn", "prewarm", "--admin", &admin], more].concat();
        let client = &cluster.topology.client.netns;
        let shown = client.run(&warmpath().display().to_string(), &args);
        let shown = shown.unwrap();
        println!("{shown}");
        shown
    };
    let shown = plain(&cluster, &["--list"]);
    assert!(shown.starts_with("FUNCTION") && shown.contains("hello@latest"));

    // Orders are in the state file, and instances where they were.
    cluster.kill_balancer().unwrap();
    cluster.start_balancer().unwrap();
    let met = wait::until("the order to be met again", PATIENCE, || {
        let all = prewarm(&cluster, &["--list"])?;
        Ok((all[0]["missing"] == 0).then_some(all))
    });
    let left = met.unwrap()[0]["orders"][0]["ends_in_ms"].as_u64().unwrap();
    assert!((1..600_000).contains(&left), "{left}");

    // A worker that goes leaves its part to the others.
    cluster.kill_worker(0).unwrap();
    cluster.wait_worker(0, "down").unwrap();
    let met = wait::until("two workers to have all four", PATIENCE, || {
        let all = prewarm(&cluster, &["--list"])?;
        let parts = all[0]["workers"].as_array().map_or(0, Vec::len);
        Ok((parts == 2 && all[0]["missing"] == 0).then_some(all))
    });
    assert_eq!(met.unwrap()[0]["live"], 4);

    for (bad, complaint) in [
        (&["no-such-function"][..], "fn list"),
        (&["hello", "--count", "1025"], "up to 1024"),
        (
            &["hello", "--count", "1", "--workers", "1"],
            "with 0 instances",
        ),
        (
            &["hello", "--count", "0", "--workers", "0"],
            "onto 1 to 1024",
        ),
        (&["hello", "--for", "0s"], "1 s to 7 days"),
        (&["hello", "--for", "soon"], "a number and its unit"),
        (&["other", "--withdraw"], "--list"),
    ] {
        let error = prewarm(&cluster, bad).unwrap_err().to_string();
        assert!(error.contains(complaint), "{bad:?}: {error}");
    }
    // More than a worker's memory holds: what is missing is said, and by the exit code.
    let short = ["hello", "--count", "40", "--timeout", "1s", "--for", "1m"];
    let short = prewarm(&cluster, &short).unwrap();
    let missing = short[0]["missing"].as_u64().unwrap();
    assert!((1..40).contains(&missing), "{short}");

    let withdrawn = prewarm(&cluster, &["hello", "--withdraw"]).unwrap();
    assert_eq!(withdrawn["orders"].as_array().unwrap().len(), 2);
    assert_eq!(prewarm(&cluster, &["--list"]).unwrap(), json!([]));
    let shown = plain(&cluster, &["hello", "--count", "4", "--for", "10m"]);
    assert!(shown.starts_with("FUNCTION") && shown.contains("hello@latest"));
    let withdrawn = plain(&cluster, &["hello", "--withdraw"]);
    assert!(
        withdrawn.starts_with("hello@latest: 1 withdrawn"),
        "{withdrawn}"
    );
    for index in 1..cluster.topology.workers.len() {
        cluster.kill_worker(index).unwrap();
        cluster.wait_worker(index, "down").unwrap();
    }
    let nobody = prewarm(&cluster, &["hello"]).unwrap_err().to_string();
    assert!(nobody.contains("worker list"), "{nobody}");
    cluster.stop().unwrap();
}

#[test]
fn an_order_of_code_has_it_on_the_workers_before_anyone_calls_and_starts_nothing() {
    let _machine = machine();
    let mut cluster = platform(&["hello"]);
    let admin = cluster.paths().admin_socket().display().to_string();
    let prewarm = |cluster: &Cluster, more: &[&str]| {
        let args = [&["fn", "prewarm", "--admin", &admin, "--json"], more].concat();
        cluster.cli(&args).unwrap()
    };
    let workers = cluster.topology.workers.len();
    let holders = |cluster: &Cluster| {
        let has_code = |index: &usize| {
            let entries = fs::read_dir(code_of(cluster, *index));
            let mut entries = entries.into_iter().flatten().flatten();
            entries.any(|entry| entry.path().is_dir())
        };
        (0..workers).filter(has_code).count()
    };
    assert_eq!(holders(&cluster), 0);
    let two = ["hello", "--count", "0", "--workers", "2"];
    let ordered = prewarm(&cluster, &two);
    let status = &ordered[0];
    assert_eq!(
        (&status["code_workers"], &status["code_missing"]),
        (&json!(2), &json!(0)),
        "{status}"
    );
    assert_eq!((holders(&cluster), &status["live"]), (2, &json!(0)));
    let admin_args = ["fn", "prewarm", "--admin", &admin];
    let plain = |more: &[&str]| {
        let args = [&admin_args[..], more].concat();
        let client = &cluster.topology.client.netns;
        let shown = client.run(&warmpath().display().to_string(), &args);
        let shown = shown.unwrap();
        println!("{shown}");
        shown
    };
    assert!(plain(&["--list"]).contains("code on 2"));
    let shown = plain(&["hello", "--count", "0"]);
    assert!(
        shown.contains("code on all") && !shown.contains("not yet"),
        "{shown}"
    );
    assert_eq!(holders(&cluster), workers);
    assert_eq!(metric(&cluster, "worker_code_ahead_total"), workers as u64);
    let started = metric(&cluster, "worker_prewarmed_total");
    let live = metric(&cluster, "worker_instances{state=\"warm\"}");
    assert_eq!((started, live), (0, 0), "nothing is started");

    // The order outlives the control plane; a worker that comes back with nothing gets the code again.
    cluster.kill_balancer().unwrap();
    cluster.start_balancer().unwrap();
    cluster.kill_worker(0).unwrap();
    cluster.wait_worker(0, "down").unwrap();
    fs::remove_dir_all(code_of(&cluster, 0)).unwrap();
    cluster.start_worker(0).unwrap();
    wait::until("the code to be everywhere again", PATIENCE, || {
        let all = prewarm(&cluster, &["--list"]);
        let is_met = all[0]["code_workers"] == workers && all[0]["code_missing"] == 0;
        Ok(is_met.then_some(()))
    })
    .unwrap();
    assert_eq!(holders(&cluster), workers);
    let reply = cluster.invoke("hello", "{}", &[]).unwrap();
    assert_eq!(reply["status"], "ok", "{reply}");
    let withdrawn = prewarm(&cluster, &["hello", "--withdraw"]);
    assert_eq!(withdrawn["orders"].as_array().unwrap().len(), 1);
    assert_eq!(prewarm(&cluster, &["--list"]), json!([]));
    cluster.stop().unwrap();
}

/// Where a worker has its code.
fn code_of(cluster: &Cluster, index: usize) -> PathBuf {
    let worker = &cluster.topology.workers[index];
    let socket = cluster.paths().worker_socket(worker);
    socket.with_file_name("code")
}

/// How many instances of `hello` the worker `name` keeps and has, by its own admin socket.
fn kept(cluster: &Cluster, sockets: &str, name: &str) -> u64 {
    let socket = sockets
        .split(',')
        .find(|socket| socket.contains(&format!("/{name}/")))
        .unwrap();
    let pool = cluster
        .cli(&["worker", "pool", "--worker", socket, "--json"])
        .unwrap();
    let functions = pool["functions"].as_array().unwrap();
    let hello = functions.iter().find(|it| it["function"] == "hello@latest");
    let hello = hello.unwrap();
    let count = |key: &str| hello[key].as_u64().unwrap();
    let live = count("warm") + count("paused") + count("busy");
    assert_eq!(count("min_warm"), live, "{hello}");
    live
}

#[test]
fn an_unknown_function_is_the_callers_fault_and_a_failing_one_the_functions() {
    let _machine = machine();
    let cluster = platform(&["failing"]);
    let unknown = cluster.invoke("no-such-function", "{}", &[]).unwrap();
    assert_eq!(
        (&unknown["status"], &unknown["fault"]),
        (&json!("unknown_function"), &json!("caller"))
    );
    let failing = cluster.invoke("failing", r#"{"fail":true}"#, &[]).unwrap();
    assert_eq!(
        (&failing["status"], &failing["fault"]),
        (&json!("exception"), &json!("function"))
    );
    let next = cluster.invoke("failing", r#"{"fail":false}"#, &[]).unwrap();
    assert_eq!(next["status"], "ok", "{next}");
}

#[test]
fn what_a_function_printed_is_told_by_request() {
    let _machine = machine();
    let cluster = platform(&["failing"]);
    let (netns, sockets) = (&cluster.topology.client.netns, cluster.worker_sockets());
    let warmpath = warmpath().display().to_string();
    let logs = |more: &[&str]| {
        let args = [&["fn", "logs", "failing", "--worker", &sockets], more].concat();
        netns.run(&warmpath, &args).unwrap()
    };
    let fail = || cluster.invoke("failing", r#"{"fail":true}"#, &[]).unwrap();
    let last = "err ValueError: this function always fails, on purpose";
    assert_eq!(fail()["status"], "exception");
    let printed = logs(&[]);
    println!("{printed}");
    assert!(printed.trim_end().ends_with(last), "{printed}");
    let (request, _) = printed.split_once(' ').unwrap();
    assert!(
        printed.lines().all(|line| line.starts_with(request)),
        "{printed}"
    );
    assert_eq!(logs(&["--request", request]), printed);
    assert_eq!(logs(&["--request", "0123456789abcdef"]), "");
    let objects = logs(&["--request", request, "--json"]);
    for line in objects.lines() {
        let entry: serde_json::Value = serde_json::from_str(line).unwrap();
        assert_eq!(
            (&entry["request"], &entry["stream"]),
            (&json!(request), &json!("stderr"))
        );
    }

    let mut follower = netns
        .command("timeout")
        .args([
            "30", &warmpath, "fn", "logs", "failing", "-f", "--worker", &sockets,
        ])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(follower.stdout.take().unwrap()).lines();
    let mut next = || lines.next().expect("it goes on").unwrap();
    while !next().ends_with(last) {}
    assert_eq!(fail()["status"], "exception");
    let mut line = next();
    assert!(!line.starts_with(request), "{line}");
    while !line.ends_with(last) {
        line = next();
    }
    // `timeout` hands it on.
    let pid = Pid::from_raw(follower.id().cast_signed());
    kill(pid, Signal::SIGTERM).unwrap();
    follower.wait().unwrap();
}

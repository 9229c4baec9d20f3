//! What a caller sees of a function that fails or takes too much memory, and that the next request is served.

use anyhow::Result;
use serde_json::Value;

use super::Stage;

/// One bad call, what must come of it, and a good call of the same function.
struct Case {
    function: &'static str,
    bad: &'static str,
    status: &'static str,
    good: &'static str,
}

const CASES: &[Case] = &[
    Case {
        function: "failing",
        bad: r#"{"fail":true}"#,
        status: "exception",
        good: r#"{"fail":false}"#,
    },
    Case {
        function: "memory-hog",
        bad: "{}",
        status: "out_of_memory",
        good: r#"{"megabytes":1}"#,
    },
];

pub(crate) fn show(stage: &mut Stage<'_>) -> Result<()> {
    stage.say("\n    Functions that misbehave, and the request after");
    for case in CASES {
        let (bad, good) = stage.screen.during(case.function, || {
            let bad = stage.cluster.invoke(case.function, case.bad, &[])?;
            let good = stage.cluster.invoke(case.function, case.good, &[])?;
            Ok((bad, good))
        })?;
        let text = |value: &Value, key: &str| value[key].as_str().unwrap_or("?").to_owned();
        let next = text(&good, "status");
        stage.say(&format!(
            "    {:<11} {} (fault: {}): {}\n{:16}the next request: {next} {}",
            case.function,
            text(&bad, "status"),
            text(&bad, "fault"),
            text(&bad, "message").lines().next().unwrap_or_default(),
            "",
            text(&good, "payload"),
        ));
        if bad["status"] != case.status || bad["fault"] != "function" || next != "ok" {
            let complaint = format!(
                "{}: {bad} and then {good}, not {} and ok",
                case.function, case.status
            );
            stage.figures.complaints.push(complaint);
        }
    }
    Ok(())
}

//! What triggers say, and what is refused.

use super::*;
use crate::{Manifest, ManifestError};

const SECOND: u64 = 1_000;
const DAY: u64 = 86_400 * SECOND;
/// 2026-03-27T00:00:00Z, the Friday before the clocks of Europe go forward.
const FRIDAY: u64 = 1_774_569_600_000;

fn parse(triggers: &str) -> Result<Triggers, ManifestError> {
    Manifest::parse(format!("name = \"a\"\n{triggers}").as_bytes()).map(|it| it.triggers)
}

fn refused(triggers: &str) -> TriggerError {
    match parse(triggers) {
        Err(ManifestError::Triggers(error)) => *error,
        other => panic!("{triggers}: {other:?}"),
    }
}

fn schedule(cron: &str) -> String {
    format!("[[triggers.schedule]]\nname = \"s\"\ncron = \"{cron}\"\n")
}

fn feed(prefix: &str, more: &str) -> String {
    format!("[[triggers.feed]]\nname = \"w\"\nprefix = \"{prefix}\"\n{more}\n")
}

#[test]
fn a_function_may_have_both_kinds_and_none_is_the_default() {
    assert!(parse("").unwrap().is_none());
    let both = parse(&format!(
        "{}timezone = \"Asia/Tokyo\"\n{}",
        schedule("@hourly"),
        feed("{orders}:", "batch = 5\nbegin = \"beginning\"")
    ))
    .unwrap();
    assert_eq!((both.len(), both.alias.as_str()), (2, "latest"));
    assert_eq!(both.feed[0].batch, 5);
    assert_eq!(both.feed[0].per_second, 100);
    assert_eq!(both.feed[0].begin, Begin::Beginning);
    assert_eq!(both.feed[0].tag(), "{orders}");
    let text = toml::to_string(&both).unwrap();
    assert_eq!(toml::from_str::<Triggers>(&text).unwrap(), both);
}

#[test]
fn expressions_that_are_none_and_dates_that_never_come_are_refused() {
    for bad in [
        "",
        "* * * *",
        "61 * * * *",
        "* * * * * * 2030",
        "a b c d e",
        "*/0 * * * *",
        &"*".repeat(300),
    ] {
        let error = refused(&schedule(bad));
        assert!(
            matches!(
                error,
                TriggerError::Schedule {
                    source: ScheduleError::Syntax { .. },
                    ..
                }
            ),
            "{bad}: {error}"
        );
        assert!(error.to_string().contains("five fields"), "{error}");
    }
    for never in ["0 0 30 2 *", "0 0 31 4,6,9,11 *", "0 0 31 2 +MON"] {
        let error = refused(&schedule(never));
        assert!(
            error.to_string().contains("no such date"),
            "{never}: {error}"
        );
    }
    assert!(parse(&schedule("0 0 29 2 *")).is_ok(), "in leap years");
    let every = refused(&schedule("@every 5m")).to_string();
    assert!(every.contains("*/5 * * * *"), "{every}");
    let nowhere = refused(&format!(
        "{}timezone = \"Mars/Olympus\"",
        schedule("@daily")
    ));
    assert!(nowhere.to_string().contains("Europe/Berlin"), "{nowhere}");
}

#[test]
fn times_are_of_utc_or_of_the_zone_with_its_changes_of_the_clock() {
    let daily = Schedule::parse("30 2 * * *", None).unwrap();
    assert_eq!(daily.next_after(FRIDAY), Some(FRIDAY + 9_000 * SECOND));
    let berlin = Schedule::parse("30 2 * * *", Some("Europe/Berlin")).unwrap();
    let mut at = FRIDAY;
    let times = std::iter::from_fn(|| {
        at = berlin.next_after(at)?;
        Some(utc(at))
    });
    // On the 29th there is no half past two: it comes when the clock has jumped over it, once.
    assert_eq!(
        times.take(4).collect::<Vec<_>>(),
        [
            "2026-03-27T01:30:00Z",
            "2026-03-28T01:30:00Z",
            "2026-03-29T01:00:00Z",
            "2026-03-30T00:30:00Z"
        ]
    );
    let seconds = Schedule::parse("* * * * * *", None).unwrap();
    assert_eq!(seconds.next_after(FRIDAY + 1), Some(FRIDAY + SECOND));
    assert_eq!(seconds.next_after(FRIDAY + 999), Some(FRIDAY + SECOND));
}

#[test]
fn of_times_that_were_missed_the_newest_is_found_and_the_others_counted() {
    let daily = Schedule::parse("@daily", None).unwrap();
    assert_eq!(daily.newest(FRIDAY, FRIDAY + DAY - 1), None);
    assert_eq!(daily.newest(FRIDAY, FRIDAY + DAY), Some((FRIDAY + DAY, 0)));
    let late = FRIDAY + 3 * DAY + 5;
    assert_eq!(daily.newest(FRIDAY, late), Some((FRIDAY + 3 * DAY, 2)));
    let seconds = Schedule::parse("* * * * * *", None).unwrap();
    assert_eq!(
        seconds.newest(FRIDAY, FRIDAY + DAY),
        Some((FRIDAY + DAY, 1_000))
    );
    // The clock went back.
    assert_eq!(seconds.newest(FRIDAY, FRIDAY - DAY), None);
}

#[test]
fn a_prefix_needs_a_whole_tag_that_is_neither_the_platforms_nor_another_tenants() {
    for bad in [
        "",
        "orders:",
        "{}:",
        "{orders",
        &format!("{{a}}{}", "x".repeat(300)),
    ] {
        let error = refused(&feed(bad, ""));
        assert!(
            matches!(error, TriggerError::Prefix { .. }),
            "{bad}: {error}"
        );
    }
    for bad in ["{wp-async-00}:", "wp-trigger:{a}:"] {
        let error = refused(&feed(bad, ""));
        assert!(
            matches!(error, TriggerError::Reserved { .. }),
            "{bad}: {error}"
        );
    }
    let foreign = refused(&feed("{acme/orders}:", "")).to_string();
    assert!(
        foreign.contains("`acme`") && foreign.contains("`default`"),
        "{foreign}"
    );
    let of_acme = |prefix: &str| parse(&format!("tenant = \"acme\"\n{}", feed(prefix, "")));
    assert!(of_acme("{acme/orders}:").is_ok());
    for foreign in ["{orders}:", "{acme}:", "{other/orders}:", "acme/{orders}"] {
        assert!(of_acme(foreign).is_err(), "{foreign}");
    }
}

#[test]
fn names_numbers_and_how_many_are_bounded() {
    let unreachable = format!("methods = []\n{}", schedule("@daily"));
    assert!(parse(&unreachable).is_ok(), "it is called all the same");
    let twice = refused(&format!("{}{}", schedule("@daily"), schedule("@hourly")));
    assert_eq!(
        twice,
        TriggerError::Duplicate {
            name: "s".to_owned()
        }
    );
    for (key, max) in [("batch", "100"), ("per_second", "10000")] {
        for value in [0, 10_001] {
            let error = refused(&feed("{a}", &format!("{key} = {value}"))).to_string();
            assert!(error.contains(key) && error.contains(max), "{error}");
        }
    }
    let named = schedule("@daily").replace("\"s\"", "\"S t\"");
    assert!(matches!(refused(&named), TriggerError::Name { .. }));
    assert!(matches!(
        refused("[triggers]\nalias = \"\""),
        TriggerError::Name { .. }
    ));
    let many: String = (0..=TRIGGERS_MAX)
        .map(|number| schedule("@daily").replace("\"s\"", &format!("\"s{number}\"")))
        .collect();
    assert_eq!(refused(&many), TriggerError::TooMany { given: 17 });
    assert!(
        parse("[triggers]\nkafka = []")
            .unwrap_err()
            .to_string()
            .contains("kafka")
    );
}

fn entry(selector: &str, version: u32, triggers: &str) -> (String, CatalogEntry) {
    let qualified = format!("a@{selector}");
    let manifest = Manifest::parse(format!("name = \"a\"\n{triggers}").as_bytes()).unwrap();
    let entry = CatalogEntry {
        id: ebpf_common::ids::FunctionId::of(&qualified),
        name: "a".to_owned(),
        qualified: qualified.clone(),
        version,
        digest: crate::Digest::of(b""),
        manifest,
    };
    (qualified, entry)
}

#[test]
fn the_latest_version_says_whose_triggers_are_pulled() {
    let firing_of = |entries: &[(String, CatalogEntry)]| {
        let found = |qualified: &str| {
            let of_name = entries.iter().find(|(name, _)| name == qualified);
            of_name.map(|(_, entry)| std::sync::Arc::new(entry.clone()))
        };
        firing("a", found).map(|entry: std::sync::Arc<CatalogEntry>| entry.version)
    };
    let stable = "[triggers]\nalias = \"stable\"";
    assert_eq!(firing_of(&[]), None);
    assert_eq!(firing_of(&[entry("latest", 2, "")]), Some(2));
    let latest = entry("latest", 2, stable);
    assert_eq!(
        firing_of(std::slice::from_ref(&latest)),
        None,
        "there is no such alias"
    );
    assert_eq!(firing_of(&[latest, entry("stable", 1, "")]), Some(1));
}

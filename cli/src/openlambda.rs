//! OpenLambda's functions, as they are: from a directory without `warmpath.toml` to the manifest it stands for.
//!
//! What OpenLambda reads is read here, and nothing else: `ol.yaml` with `triggers` and `environment` (its documentation,
//! `docs/worker/lambda-config.md` and `src/common/lambdaConfig.go`), of which `OL_ENTRY_FILE`, `OL_WSGI_ENTRY` and
//! `OL_ASGI_ENTRY` say what to call (its `server.py`). A trigger or key that nothing here could honour is refused, not
//! dropped. Pure: text in, manifest out.

use std::collections::BTreeMap;

use serde::Serialize;
use store::{ScheduleError, Triggers, trigger::ScheduleTrigger};
use yaml_rust2::{
    Event, Yaml, YamlLoader,
    parser::{MarkedEventReceiver, Parser},
    scanner::Marker,
};

/// OpenLambda's configuration of a function.
pub(crate) const CONFIG: &str = "ol.yaml";
/// The entry when nothing else is said.
pub(crate) const ENTRY: &str = "f.py";
/// How long OpenLambda lets a function run by default.
const TIMEOUT_MS: u32 = 30_000;

/// Why a directory is no function of OpenLambda.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum DeriveError {
    /// Not YAML, a key that OpenLambda does not have, or a value of the wrong kind.
    #[error("{CONFIG} cannot be read: {reason}")]
    Syntax { reason: String },
    /// Topics, which nobody here reads.
    #[error(
        "{CONFIG}: triggers by kafka are not supported: have the producer write to the database, below a prefix such as \
         `{{orders}}:`, and the writes call the function by `[[triggers.feed]]` of a warmpath.toml (docs/requests.md)"
    )]
    Kafka,
    /// Times that cannot be.
    #[error("{CONFIG}: `triggers.cron`: {source}")]
    Cron { source: ScheduleError },
    /// Triggers, and none that could pull.
    #[error(
        "{CONFIG}: a function without an http or cron trigger can never be called: add one, such as `- method: POST`"
    )]
    NoTrigger,
    /// A method that is none.
    #[error("{CONFIG}: `method: {method}` is no HTTP method that a function can take: {} or `*`", store::manifest::METHODS.join(", "))]
    Method { method: String },
    /// Two entry points.
    #[error("{CONFIG}: OL_WSGI_ENTRY and OL_ASGI_ENTRY exclude each other")]
    TwoEntries,
    /// A name that cannot be a function's.
    #[error("the directory's name `{name}` cannot become a function's name: give one with --name")]
    Name { name: String },
}

/// `ol.yaml`, read.
#[derive(Debug, Default, PartialEq, Eq)]
struct Config {
    /// The methods of its http triggers; `None` is all of them.
    methods: Option<Vec<String>>,
    /// Its cron triggers.
    schedule: Vec<ScheduleTrigger>,
    environment: BTreeMap<String, String>,
}

/// What is written of the manifest; the rest are its defaults.
#[derive(Debug, Serialize)]
struct Manifest {
    name: String,
    entry: String,
    interface: &'static str,
    app: String,
    timeout_ms: u32,
    #[serde(skip_serializing_if = "Option::is_none")]
    methods: Option<Vec<String>>,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    env: BTreeMap<String, String>,
    #[serde(skip_serializing_if = "Triggers::is_none")]
    triggers: Triggers,
}

/// The text of the manifest of a directory called `directory` that holds `config`, if any, as its `ol.yaml`.
///
/// # Errors
/// [`DeriveError`], naming the key and what to do.
pub(crate) fn manifest(directory: &str, config: Option<&str>) -> Result<String, DeriveError> {
    let config = read(config.unwrap_or_default())?;
    let mut env = config.environment;
    let said = |name: &str| env.get(name).filter(|value| !value.is_empty()).cloned();
    let entry = said("OL_ENTRY_FILE").unwrap_or_else(|| ENTRY.to_owned());
    let (interface, app) = match (said("OL_WSGI_ENTRY"), said("OL_ASGI_ENTRY")) {
        (Some(_), Some(_)) => return Err(DeriveError::TwoEntries),
        (Some(app), None) => ("wsgi", app),
        (None, Some(app)) => ("asgi", app),
        (None, None) => ("auto", "app".to_owned()),
    };
    for name in ["OL_ENTRY_FILE", "OL_WSGI_ENTRY", "OL_ASGI_ENTRY"] {
        env.remove(name);
    }
    let manifest = Manifest {
        name: name_of(directory)?,
        entry,
        interface,
        app,
        timeout_ms: TIMEOUT_MS,
        methods: config.methods,
        env,
        triggers: Triggers {
            schedule: config.schedule,
            ..Triggers::default()
        },
    };
    toml::to_string(&manifest).map_err(|error| DeriveError::Syntax {
        reason: error.to_string(),
    })
}

fn read(text: &str) -> Result<Config, DeriveError> {
    refuse_aliases(text)?;
    let documents = YamlLoader::load_from_str(text).map_err(|error| syntax(error.to_string()))?;
    let mut config = Config::default();
    let document = match documents.as_slice() {
        [] | [Yaml::Null] => return Ok(config),
        [document] => document,
        _ => return Err(syntax("more than one document")),
    };
    for (key, value) in table("the file", document)? {
        match key {
            "triggers" => (config.methods, config.schedule) = triggers_of(value)?,
            "environment" => config.environment = environment_of(value)?,
            _ => return Err(unknown(key, "`triggers` and `environment`")),
        }
    }
    Ok(config)
}

/// The loader copies what an alias stands for, and a few lines of them can stand for more than there is memory.
fn refuse_aliases(text: &str) -> Result<(), DeriveError> {
    struct Aliases(bool);
    impl MarkedEventReceiver for Aliases {
        fn on_event(&mut self, event: Event, _mark: Marker) {
            self.0 |= matches!(event, Event::Alias(_));
        }
    }
    let mut aliases = Aliases(false);
    Parser::new_from_str(text)
        .load(&mut aliases, true)
        .map_err(|error| syntax(error.to_string()))?;
    if aliases.0 {
        return Err(syntax(
            "aliases (`*name`) are not supported: write the value out",
        ));
    }
    Ok(())
}

fn syntax(reason: impl Into<String>) -> DeriveError {
    DeriveError::Syntax {
        reason: reason.into(),
    }
}

fn unknown(key: &str, known: &str) -> DeriveError {
    syntax(format!("unknown key `{key}`: there are {known}"))
}

/// The keys and values of a mapping; none of what is left empty.
fn table<'a>(what: &str, value: &'a Yaml) -> Result<Vec<(&'a str, &'a Yaml)>, DeriveError> {
    if value.is_null() {
        return Ok(Vec::new());
    }
    let Yaml::Hash(table) = value else {
        return Err(syntax(format!("{what} must be `key: value`")));
    };
    let pair = |(key, value): (&'a Yaml, &'a Yaml)| key.as_str().map(|key| (key, value));
    let pairs: Option<Vec<_>> = table.iter().map(pair).collect();
    pairs.ok_or_else(|| syntax(format!("the keys of {what} must be text")))
}

fn list<'a>(what: &str, value: &'a Yaml) -> Result<&'a [Yaml], DeriveError> {
    match value {
        Yaml::Null => Ok(&[]),
        Yaml::Array(items) => Ok(items),
        _ => Err(syntax(format!("{what} must be a list"))),
    }
}

/// What YAML takes for a number or a truth value when nobody quotes it is text all the same.
fn environment_of(value: &Yaml) -> Result<BTreeMap<String, String>, DeriveError> {
    let text = |name: &str, value: &Yaml| match value {
        Yaml::String(value) | Yaml::Real(value) => Ok(value.clone()),
        Yaml::Integer(value) => Ok(value.to_string()),
        Yaml::Boolean(value) => Ok(value.to_string()),
        Yaml::Null => Ok(String::new()),
        _ => Err(syntax(format!("`environment.{name}` must be text"))),
    };
    table("`environment`", value)?
        .into_iter()
        .map(|(name, value)| Ok((name.to_owned(), text(name, value)?)))
        .collect()
}

/// The methods that it takes by HTTP, and its times.
fn triggers_of(
    triggers: &Yaml,
) -> Result<(Option<Vec<String>>, Vec<ScheduleTrigger>), DeriveError> {
    let (mut methods, mut schedule) = (Vec::new(), Vec::new());
    for (kind, value) in table("`triggers`", triggers)? {
        match kind {
            "http" => {
                for trigger in list("`triggers.http`", value)? {
                    methods.push(method_of(trigger)?);
                }
            }
            "cron" => {
                for (trigger, number) in list("`triggers.cron`", value)?.iter().zip(1..) {
                    schedule.push(schedule_of(number, trigger)?);
                }
            }
            "kafka" => return Err(DeriveError::Kafka),
            _ => return Err(unknown(kind, "triggers by `http` and `cron`")),
        }
    }
    if methods.is_empty() && schedule.is_empty() {
        return Err(DeriveError::NoTrigger);
    }
    let any = methods.iter().any(|method| method == "*");
    methods.sort();
    methods.dedup();
    Ok(((!any).then_some(methods), schedule))
}

/// One of its times, which have no names there. The zone stands before them, as its parser (robfig/cron) has it.
fn schedule_of(number: usize, trigger: &Yaml) -> Result<ScheduleTrigger, DeriveError> {
    let mut schedule = None;
    for (key, value) in table("a trigger of `triggers.cron`", trigger)? {
        match (key, value.as_str()) {
            ("schedule", Some(value)) => schedule = Some(value),
            ("schedule", None) => return Err(syntax("a `schedule` must be text")),
            _ => return Err(unknown(key, "`schedule`")),
        }
    }
    let Some(schedule) = schedule else {
        return Err(syntax("a trigger of `triggers.cron` has a `schedule`"));
    };
    let zoned = ["CRON_TZ=", "TZ="]
        .iter()
        .find_map(|word| schedule.strip_prefix(word));
    let (timezone, cron) = match zoned.map(|zoned| zoned.split_once(' ').unwrap_or((zoned, ""))) {
        Some((zone, cron)) => (Some(zone.to_owned()), cron),
        None => (None, schedule),
    };
    let trigger = ScheduleTrigger {
        name: format!("cron-{number}"),
        cron: cron.trim().to_owned(),
        timezone,
    };
    match trigger.schedule() {
        Ok(_) => Ok(trigger),
        Err(source) => Err(DeriveError::Cron { source }),
    }
}

fn method_of(trigger: &Yaml) -> Result<String, DeriveError> {
    let mut method = None;
    for (key, value) in table("a trigger of `triggers.http`", trigger)? {
        match (key, value.as_str()) {
            ("method", Some(value)) => method = Some(value.to_owned()),
            ("method", None) => return Err(syntax("a `method` must be text")),
            _ => return Err(unknown(key, "`method`")),
        }
    }
    let method = method.unwrap_or_default();
    if method == "*" || store::manifest::METHODS.contains(&method.as_str()) {
        return Ok(method);
    }
    Err(DeriveError::Method { method })
}

/// OpenLambda's names know capitals, dots and underscores; ours are DNS labels.
fn name_of(directory: &str) -> Result<String, DeriveError> {
    let name = directory.to_ascii_lowercase().replace(['_', '.'], "-");
    match store::manifest::check_name(&name) {
        Ok(()) => Ok(name),
        Err(_) => Err(DeriveError::Name {
            name: directory.to_owned(),
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The manifest of `f` with this `ol.yaml`, without its env, which the store checks.
    fn derived(config: &str) -> toml::Table {
        manifest("f", Some(config)).unwrap().parse().unwrap()
    }

    fn refused(config: &str) -> DeriveError {
        manifest("f", Some(config)).unwrap_err()
    }

    #[test]
    fn a_directory_with_an_entry_alone_takes_every_method() {
        let text = manifest("My_Lambda.v2", None).unwrap();
        let parsed = store::Manifest::parse(text.as_bytes()).unwrap();
        assert_eq!(parsed.name, "my-lambda-v2");
        assert_eq!((parsed.entry.as_str(), parsed.timeout_ms), ("f.py", 30_000));
        assert_eq!(parsed.interface, store::Interface::Auto);
        assert_eq!(parsed.methods, None);
        assert!(parsed.takes("DELETE"));
    }

    #[test]
    fn triggers_become_methods() {
        let table = derived("triggers:\n  http:\n    - method: PUT\n    - method: PATCH\n");
        assert_eq!(table["methods"].to_string(), r#"["PATCH", "PUT"]"#);
        assert!(!derived("triggers:\n  http:\n    - method: \"*\"\n").contains_key("methods"));
    }

    #[test]
    fn times_become_schedules_and_alone_they_take_no_method() {
        let cron = |schedule: &str| format!("triggers:\n  cron:\n    - schedule: \"{schedule}\"\n");
        let parsed = |config: &str| {
            let text = manifest("f", Some(config)).unwrap();
            store::Manifest::parse(text.as_bytes()).unwrap()
        };
        let alone = parsed(&cron("*/5 * * * *"));
        assert!(!alone.takes("POST"));
        let [trigger] = &alone.triggers.schedule[..] else {
            panic!("{:?}", alone.triggers);
        };
        assert_eq!(
            (trigger.name.as_str(), trigger.cron.as_str()),
            ("cron-1", "*/5 * * * *")
        );
        let zoned = parsed(&cron("CRON_TZ=Asia/Tokyo 0 6 * * ?"));
        assert_eq!(
            zoned.triggers.schedule[0].timezone.as_deref(),
            Some("Asia/Tokyo")
        );
        let both = parsed(&format!(
            "{}  http:\n    - method: PUT\nenvironment:\n  A: b\n",
            cron("@daily")
        ));
        assert!(both.takes("PUT") && !both.takes("POST"));
        assert_eq!((both.triggers.len(), both.env.len()), (1, 1));
    }

    #[test]
    fn the_environment_says_what_to_call_and_the_rest_is_the_functions() {
        let table = derived(
            "environment:\n  OL_ENTRY_FILE: \"main.py\"\n  OL_WSGI_ENTRY: my_app\n  DEBUG: true\n  PORT: 80\n  NAME: \"x y\"\n",
        );
        assert_eq!(table["entry"].as_str(), Some("main.py"));
        assert_eq!(table["interface"].as_str(), Some("wsgi"));
        assert_eq!(table["app"].as_str(), Some("my_app"));
        let env = table["env"].as_table().unwrap();
        let text = |name: &str| env[name].as_str().unwrap();
        assert_eq!(
            (text("DEBUG"), text("PORT"), text("NAME")),
            ("true", "80", "x y")
        );
        assert_eq!(env.len(), 3);
        let table = derived("environment:\n  OL_ASGI_ENTRY: api");
        assert_eq!(table["interface"].as_str(), Some("asgi"));
        assert!(!table.contains_key("env"));
    }

    #[test]
    fn what_cannot_be_honoured_is_refused_and_named() {
        for (config, word) in [
            ("mem_mb: 12", "mem_mb"),
            ("triggers:\n  grpc: []", "grpc"),
            (
                "triggers:\n  http:\n    - method: GET\n      path: /x",
                "path",
            ),
            ("environment: [1]", CONFIG),
            ("environment:\n  A:\n    B: c", CONFIG),
            ("triggers: {http: [{method: get}]}", "get"),
            ("triggers: {http: [{}]}", "method"),
            ("triggers: 1", "triggers"),
            ("--- {}\n--- {}", "document"),
            ("triggers:\n  http: []", "never be called"),
            (
                "triggers: {cron: [{schedule: \"0 0 30 2 *\"}]}",
                "no such date",
            ),
            (
                "triggers: {cron: [{schedule: \"@every 5m\"}]}",
                "*/5 * * * *",
            ),
            (
                "triggers: {cron: [{schedule: \"TZ=Mars 0 0 * * *\"}]}",
                "time zone",
            ),
            ("triggers: {cron: [{schedule: 5}]}", "schedule"),
            ("triggers: {cron: [{}]}", "schedule"),
            ("triggers: {cron: [{schedule: a, method: GET}]}", "method"),
            ("triggers:\n  kafka:\n    - topics: [a]", "triggers.feed"),
            ("a: b: c", CONFIG),
        ] {
            let text = refused(config).to_string();
            assert!(text.contains(word), "{config}: {text}");
        }
        let two = "environment:\n  OL_WSGI_ENTRY: a\n  OL_ASGI_ENTRY: b";
        assert_eq!(refused(two), DeriveError::TwoEntries);
        assert!(matches!(manifest("ä", None), Err(DeriveError::Name { .. })));
    }

    #[test]
    fn aliases_without_end_are_refused() {
        for cyclic in ["environment: &a\n  A: *a\n", "a: &a [*a]"] {
            let text = refused(cyclic).to_string();
            assert!(text.contains("alias"), "{text}");
        }
        let mut bomb = String::from("a0: &a0 [x,x,x,x,x,x,x,x,x]\n");
        for level in 1..12 {
            let list = vec![format!("*a{}", level - 1); 9].join(",");
            bomb.push_str(&format!("a{level}: &a{level} [{list}]\n"));
        }
        assert!(matches!(refused(&bomb), DeriveError::Syntax { .. }));
    }
}

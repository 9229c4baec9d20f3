//! The sums of all bills of a worker: by function, version and caller, since the start and by windows of time.
//!
//! Everything is bounded: versions, callers of each, windows. What finds no room of its own is added to a
//! line named `other`, so that the sums stay true.

use std::{
    collections::{BTreeMap, VecDeque},
    net::IpAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use super::{BillLine, BillReport, Line, UnbilledLine, Usage};

/// Versions of functions with an account of their own.
const ACCOUNTS_MAX: usize = 1_024;
/// Callers with a line of their own, in each account and each of its windows.
const CALLERS_MAX: usize = 32;
/// How long a window is.
const WINDOW: Duration = Duration::from_secs(60);
/// Windows kept: an hour.
const WINDOWS_MAX: usize = 60;
/// What there is no room for is called.
pub const OTHER: &str = "other";

/// Who made a request.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Default)]
pub enum Caller {
    /// Nobody knows.
    #[default]
    Unknown,
    /// Whoever has this address.
    Address(IpAddr),
    /// What has no address: a trigger.
    Name(Arc<str>),
    /// One of many.
    Other,
}

impl Caller {
    /// Whom `text` names, as [`Display`](std::fmt::Display) writes it: an address, or a name.
    #[must_use]
    pub fn of(text: &str) -> Self {
        let address = text.parse::<IpAddr>();
        address.map_or_else(
            |_no_address| Self::Name(text.into()),
            |address| Self::Address(address.to_canonical()),
        )
    }
}

impl std::fmt::Display for Caller {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Unknown => f.write_str("unknown"),
            Self::Address(address) => write!(f, "{address}"),
            Self::Name(name) => f.write_str(name),
            Self::Other => f.write_str(OTHER),
        }
    }
}

/// One version of one function.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Subject {
    /// The function.
    pub function: String,
    /// Its version.
    pub version: u32,
    /// Its memory limit.
    pub memory_mb: u32,
}

/// All accounts of a worker.
#[derive(Debug)]
pub struct Ledger {
    begun: Instant,
    accounts: Mutex<BTreeMap<Subject, Arc<Account>>>,
    other: Arc<Account>,
}

impl Default for Ledger {
    fn default() -> Self {
        Self {
            begun: Instant::now(),
            accounts: Mutex::default(),
            other: Arc::new(Account::new(Subject {
                function: OTHER.to_owned(),
                version: 0,
                memory_mb: 0,
            })),
        }
    }
}

impl Ledger {
    /// The account of `subject`; that of all others when there are too many.
    pub fn account(&self, subject: Subject) -> Arc<Account> {
        let mut accounts = lock(&self.accounts);
        if let Some(account) = accounts.get(&subject) {
            return Arc::clone(account);
        }
        if accounts.len() == ACCOUNTS_MAX {
            return Arc::clone(&self.other);
        }
        let account = Arc::new(Account::new(subject.clone()));
        accounts.insert(subject, Arc::clone(&account));
        account
    }

    /// Adds the bill of one request to `account`.
    pub fn record(&self, account: &Account, caller: Caller, usage: &Usage, succeeded: bool) {
        let window = self.window();
        let memory_mb = account.subject.memory_mb;
        let mut sums = lock(&account.sums);
        sums.windows
            .at(window)
            .add(&caller, usage, succeeded, memory_mb);
        sums.total.add(&caller, usage, succeeded, memory_mb);
    }

    /// Adds CPU time that no request was charged.
    pub fn record_unbilled(&self, account: &Account, cpu_ns: u64) {
        lock(&account.sums).unbilled_ns += cpu_ns;
    }

    /// All sums, or those of the last `within`, rounded up to whole windows.
    #[must_use]
    pub fn report(&self, worker: &str, within: Option<Duration>) -> BillReport {
        let since = within.map(|within| {
            let windows = within.as_secs().div_ceil(WINDOW.as_secs()).max(1);
            (self.window() + 1).saturating_sub(windows)
        });
        let seconds = self.begun.elapsed().as_secs();
        let covered = since.map_or(seconds, |since| seconds - since * WINDOW.as_secs());
        let mut report = BillReport {
            worker: worker.to_owned(),
            seconds: covered,
            lines: Vec::new(),
            unbilled: Vec::new(),
        };
        for account in self.all() {
            account.append(since, &mut report);
        }
        report
    }

    /// The sums by function, for metrics: they never shrink.
    pub(crate) fn by_function(&self) -> BTreeMap<String, Line> {
        let mut functions = BTreeMap::<String, Line>::new();
        for account in self.all() {
            let sum = lock(&account.sums).total.sum();
            functions
                .entry(account.subject.function.clone())
                .or_default()
                .merge(&sum);
        }
        functions
    }

    fn all(&self) -> Vec<Arc<Account>> {
        let accounts = lock(&self.accounts);
        accounts.values().chain([&self.other]).cloned().collect()
    }

    fn window(&self) -> u64 {
        self.begun.elapsed().as_secs() / WINDOW.as_secs()
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The sums of one version of one function.
#[derive(Debug)]
pub struct Account {
    subject: Subject,
    sums: Mutex<Sums>,
}

#[derive(Debug, Default)]
struct Sums {
    total: Callers,
    windows: Windows,
    unbilled_ns: u64,
}

impl Account {
    fn new(subject: Subject) -> Self {
        Self {
            subject,
            sums: Mutex::default(),
        }
    }

    fn append(&self, since: Option<u64>, report: &mut BillReport) {
        let sums = lock(&self.sums);
        let callers = match since {
            None => sums.total.clone(),
            Some(since) => sums.windows.since(since),
        };
        let unbilled_ns = sums.unbilled_ns;
        drop(sums);
        let Subject {
            function,
            version,
            memory_mb,
        } = &self.subject;
        report
            .lines
            .extend(callers.0.into_iter().map(|(caller, line)| BillLine {
                function: function.clone(),
                version: *version,
                memory_mb: *memory_mb,
                caller: caller.to_string(),
                sum: line,
            }));
        if unbilled_ns > 0 {
            report.unbilled.push(UnbilledLine {
                function: function.clone(),
                version: *version,
                cpu_ns: unbilled_ns,
            });
        }
    }
}

/// Lines by caller, no more than [`CALLERS_MAX`] and one for all others.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Callers(BTreeMap<Caller, Line>);

impl Callers {
    fn add(&mut self, caller: &Caller, usage: &Usage, succeeded: bool, memory_mb: u32) {
        self.line(caller).add(usage, succeeded, memory_mb);
    }

    fn merge(&mut self, other: &Self) {
        for (caller, line) in &other.0 {
            self.line(caller).merge(line);
        }
    }

    fn sum(&self) -> Line {
        let mut sum = Line::default();
        self.0.values().for_each(|line| sum.merge(line));
        sum
    }

    /// The line of `caller`. A new one takes the place of the one that used least, which becomes one of the
    /// others: who uses much stays in view, whoever else comes and goes.
    fn line(&mut self, caller: &Caller) -> &mut Line {
        if !self.0.contains_key(caller) && *caller != Caller::Other {
            let own = self
                .0
                .iter()
                .filter(|(caller, _)| **caller != Caller::Other);
            let (count, least) = own.fold((0, None), |(count, least), (caller, line)| {
                let least = match least {
                    Some((_, cpu_ns)) if cpu_ns <= line.cpu_ns => least,
                    _ => Some((caller, line.cpu_ns)),
                };
                (count + 1, least)
            });
            let least = least.map(|(caller, _)| caller.clone());
            if count >= CALLERS_MAX
                && let Some(line) = least.and_then(|caller| self.0.remove(&caller))
            {
                self.0.entry(Caller::Other).or_default().merge(&line);
            }
        }
        self.0.entry(caller.clone()).or_default()
    }
}

/// The last windows in which anything happened, the latest last.
#[derive(Debug, Default)]
struct Windows(VecDeque<(u64, Callers)>);

impl Windows {
    fn at(&mut self, window: u64) -> &mut Callers {
        while self
            .0
            .front()
            .is_some_and(|(first, _)| first + WINDOWS_MAX as u64 <= window)
        {
            self.0.pop_front();
        }
        if self.0.back().is_none_or(|(last, _)| *last < window) {
            self.0.push_back((window, Callers::default()));
        }
        let last = self.0.len() - 1;
        &mut self.0[last].1
    }

    fn since(&self, since: u64) -> Callers {
        let mut sum = Callers::default();
        let wanted = self.0.iter().filter(|(window, _)| *window >= since);
        wanted.for_each(|(_, callers)| sum.merge(callers));
        sum
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::bill::line::tests::usage;

    fn address(last: u8) -> Caller {
        Caller::Address(IpAddr::from([10, 0, 0, last]))
    }

    proptest! {
        /// However many callers there are, and whatever the windows, no bill is lost or counted twice.
        #[test]
        fn the_sums_stay_true_however_many_callers_there_are(
            bills in proptest::collection::vec((usage(), any::<u8>(), 0..3_u64), 0..200),
        ) {
            let (mut total, mut windows, mut expected) =
                (Callers::default(), Windows::default(), Line::default());
            let mut window = 0;
            for (usage, caller, later) in &bills {
                window += later;
                total.add(&address(*caller), usage, true, 64);
                windows.at(window).add(&address(*caller), usage, true, 64);
                expected.add(usage, true, 64);
            }
            prop_assert!(total.0.len() <= CALLERS_MAX + 1);
            prop_assert_eq!(total.sum(), expected.clone());
            prop_assert!(windows.0.len() <= WINDOWS_MAX);
            if window < WINDOWS_MAX as u64 {
                prop_assert_eq!(windows.since(0).sum(), expected);
            }
        }
    }

    #[test]
    fn who_uses_much_keeps_a_line() {
        let mut callers = Callers::default();
        let big = Usage {
            cpu_ns: 1_000,
            ..Usage::default()
        };
        let small = Usage {
            cpu_ns: 1,
            ..Usage::default()
        };
        callers.add(&address(0), &big, true, 64);
        for caller in 1..=255 {
            callers.add(&address(caller), &small, true, 64);
        }
        assert_eq!(callers.0[&address(0)].cpu_ns, 1_000);
        assert_eq!(callers.0[&Caller::Other].requests, 256 - CALLERS_MAX as u64);
    }

    #[test]
    fn old_windows_go_and_the_total_stays() {
        let ledger = Ledger::default();
        let account = ledger.account(Subject {
            function: "f".to_owned(),
            version: 1,
            memory_mb: 64,
        });
        let mut windows = Windows::default();
        for window in 0..100 {
            windows
                .at(window)
                .add(&Caller::Unknown, &Usage::default(), true, 64);
            ledger.record(&account, Caller::Unknown, &Usage::default(), false);
        }
        assert_eq!(windows.since(0).sum().requests, WINDOWS_MAX as u64);
        assert_eq!(windows.since(98).sum().requests, 2);
        let report = ledger.report("w", None);
        assert_eq!((report.lines.len(), report.lines[0].sum.failed), (1, 100));
        ledger.record_unbilled(&account, 7);
        let report = ledger.report("w", Some(Duration::from_secs(1)));
        assert_eq!(report.unbilled[0].cpu_ns, 7);
        assert_eq!(report.lines[0].caller, "unknown");
    }

    #[test]
    fn too_many_functions_share_an_account() {
        let ledger = Ledger::default();
        let account = |version| {
            ledger.account(Subject {
                function: "f".to_owned(),
                version,
                memory_mb: 64,
            })
        };
        for version in 0..ACCOUNTS_MAX as u32 + 10 {
            let account = account(version);
            ledger.record(&account, Caller::Unknown, &Usage::default(), true);
        }
        let report = ledger.report("w", None);
        assert_eq!(report.lines.len(), ACCOUNTS_MAX + 1);
        let other = report.lines.iter().find(|line| line.function == OTHER);
        assert_eq!(other.map(|line| line.sum.requests), Some(10));
    }
}

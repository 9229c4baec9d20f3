//! What was found, check by check.

use serde::Serialize;

/// How good it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// It is as it should be.
    Ok,
    /// It makes no difference here, or the machine cannot be asked and need not be.
    NotApplicable,
    /// It works, and would be better otherwise; or it could not be found out.
    Warning,
    /// It does not work.
    Failure,
}

impl Verdict {
    /// Its name, as a table shows it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::NotApplicable => "n/a",
            Self::Warning => "warning",
            Self::Failure => "FAILURE",
        }
    }
}

/// One thing that was looked at.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Check {
    /// What it belongs to: `kernel`, `bpf`, an interface's name, `memory`, `sandbox`.
    pub subject: String,
    /// What was looked at.
    pub check: &'static str,
    /// How good it is.
    pub verdict: Verdict,
    /// What was found.
    pub finding: String,
    /// The command that mends it, or what to do where no command does.
    pub mend: Option<String>,
}

/// All of it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Report {
    /// In the order of looking.
    pub checks: Vec<Check>,
}

impl Report {
    /// The worst of the verdicts.
    #[must_use]
    pub fn worst(&self) -> Verdict {
        let verdicts = self.checks.iter().map(|check| check.verdict);
        verdicts.max().unwrap_or(Verdict::Ok)
    }

    /// How many have this verdict.
    #[must_use]
    pub fn count(&self, verdict: Verdict) -> usize {
        let of = |check: &&Check| check.verdict == verdict;
        self.checks.iter().filter(of).count()
    }
}

/// Collects the checks of one subject.
#[derive(Debug)]
pub(super) struct Notes<'a> {
    subject: &'a str,
    report: &'a mut Report,
}

impl<'a> Notes<'a> {
    pub(super) const fn of(subject: &'a str, report: &'a mut Report) -> Self {
        Self { subject, report }
    }

    pub(super) fn ok(&mut self, check: &'static str, finding: impl Into<String>) {
        self.add(check, Verdict::Ok, finding.into(), None);
    }

    pub(super) fn not_applicable(&mut self, check: &'static str, finding: impl Into<String>) {
        self.add(check, Verdict::NotApplicable, finding.into(), None);
    }

    pub(super) fn warning(
        &mut self,
        check: &'static str,
        finding: impl Into<String>,
        mend: impl Into<String>,
    ) {
        self.add(check, Verdict::Warning, finding.into(), Some(mend.into()));
    }

    pub(super) fn failure(
        &mut self,
        check: &'static str,
        finding: impl Into<String>,
        mend: impl Into<String>,
    ) {
        self.add(check, Verdict::Failure, finding.into(), Some(mend.into()));
    }

    fn add(
        &mut self,
        check: &'static str,
        verdict: Verdict,
        finding: String,
        mend: Option<String>,
    ) {
        self.report.checks.push(Check {
            subject: self.subject.to_owned(),
            check,
            verdict,
            finding,
            mend,
        });
    }
}

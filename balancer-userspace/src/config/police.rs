//! `[police]`: who may send how much.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    net::{IpAddr, Ipv6Addr},
    str::FromStr,
};

use ebpf_common::{
    ids::FunctionId,
    limits::{FUNCTION_LIMITS, MAX_BLOCKS},
    maps::{Rate, RateError},
};
use serde::{Deserialize, Serialize};

type Problem = (String, String);

/// `[police]`. A key that is absent leaves its question unasked.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct PoliceConfig {
    /// Prefixes of sources that are dropped.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub block: Vec<String>,
    /// Of each source, in packets.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub source_rate: Option<RateConfig>,
    /// Of requests without a valid address token, on each CPU; above it they are answered by RETRY.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub unknown_rate: Option<RateConfig>,
    /// Of answers that we send, on each CPU.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub answer_rate: Option<RateConfig>,
    /// Of flows whose entry a new flow takes, on each CPU; above it new flows are not remembered.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub eviction_rate: Option<RateConfig>,
    /// Percent of its capacity in flight above which a worker gets no more.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub shed_percent: Option<u32>,
    /// Functions that have a rate.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub functions: Vec<FunctionRate>,
}

/// A rate, and what may come at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RateConfig {
    /// In the long run.
    pub per_second: u32,
    /// At once.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub burst: Option<u32>,
}

/// A function that has a rate.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FunctionRate {
    /// `hello` (which means `hello@latest`) or `hello@3`.
    pub name: String,
    /// In the long run.
    pub per_second: u32,
    /// At once.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub burst: Option<u32>,
}

impl PoliceConfig {
    /// Whether it can be kept.
    ///
    /// # Errors
    /// The key, and what is wrong with its value.
    pub(super) fn check(&self) -> Result<(), Problem> {
        for (key, rate) in [
            ("police.source_rate", self.source_rate),
            ("police.unknown_rate", self.unknown_rate),
            ("police.answer_rate", self.answer_rate),
            ("police.eviction_rate", self.eviction_rate),
        ] {
            rate.map(RateConfig::rate)
                .transpose()
                .map_err(|error| (key.to_owned(), error.to_string()))?;
        }
        if self
            .shed_percent
            .is_some_and(|percent| !(1..=65_535).contains(&percent))
        {
            return Err((
                "police.shed_percent".to_owned(),
                "must be 1 to 65535".to_owned(),
            ));
        }
        self.check_functions()?;
        self.check_blocks()
    }

    fn check_functions(&self) -> Result<(), Problem> {
        let mut seen = BTreeSet::new();
        for function in &self.functions {
            let wrong =
                |problem: String| Err((format!("police.functions \"{}\"", function.name), problem));
            if function.name.is_empty() {
                return wrong("must have a name".to_owned());
            }
            if !seen.insert(FunctionId::of(&function.name)) {
                return wrong("is there twice".to_owned());
            }
            if let Err(error) = function.rate() {
                return wrong(error.to_string());
            }
        }
        // Above nine tenths a cuckoo table does not find room for every key.
        let most = FUNCTION_LIMITS as usize * 9 / 10;
        if seen.len() > most {
            return Err(("police.functions".to_owned(), format!("at most {most}")));
        }
        Ok(())
    }

    fn check_blocks(&self) -> Result<(), Problem> {
        let mut seen = BTreeSet::new();
        for text in &self.block {
            let wrong = |problem: String| Err((format!("police.block \"{text}\""), problem));
            match text.parse::<Prefix>() {
                Err(error) => return wrong(error.0),
                Ok(prefix) if !seen.insert(prefix) => return wrong("is there twice".to_owned()),
                Ok(_) => {}
            }
        }
        let (v6, v4): (Vec<&Prefix>, _) = seen.iter().partition(|prefix| prefix.address.is_ipv6());
        if v4.len().max(v6.len()) > MAX_BLOCKS as usize {
            let problem = format!("at most {MAX_BLOCKS} of each IP version");
            return Err(("police.block".to_owned(), problem));
        }
        Ok(())
    }

    /// The prefixes; those of a policy that was not checked are left out.
    #[must_use]
    pub fn prefixes(&self) -> BTreeSet<Prefix> {
        self.block
            .iter()
            .filter_map(|text| text.parse().ok())
            .collect()
    }

    /// The rates of functions, likewise.
    #[must_use]
    pub fn function_rates(&self) -> BTreeMap<FunctionId, Rate> {
        let rate =
            |function: &FunctionRate| Some((FunctionId::of(&function.name), function.rate().ok()?));
        self.functions.iter().filter_map(rate).collect()
    }

    /// Whether nothing is asked.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

impl RateConfig {
    /// As the program has it.
    ///
    /// # Errors
    /// [`RateError`] says what cannot be kept.
    pub fn rate(self) -> Result<Rate, RateError> {
        let burst = self
            .burst
            .unwrap_or_else(|| Rate::default_burst(self.per_second));
        Rate::new(self.per_second, burst)
    }
}

impl FunctionRate {
    fn rate(&self) -> Result<Rate, RateError> {
        let rate = RateConfig {
            per_second: self.per_second,
            burst: self.burst,
        };
        rate.rate()
    }
}

/// A prefix of addresses.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Prefix {
    /// Its first address.
    pub address: IpAddr,
    /// How many bits of it count.
    pub len: u8,
}

/// Why a text is not a prefix.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct PrefixError(String);

impl FromStr for Prefix {
    type Err = PrefixError;

    fn from_str(text: &str) -> Result<Self, PrefixError> {
        let shape =
            || PrefixError("must be an address or a prefix, such as 192.0.2.0/24".to_owned());
        let (address, len) = match text.split_once('/') {
            Some((address, len)) => (address, Some(len)),
            None => (text, None),
        };
        let address: IpAddr = address.parse().map_err(|_not_an_address| shape())?;
        let most = if address.is_ipv4() { 32 } else { 128 };
        let len: u8 = match len {
            Some(len) => len.parse().map_err(|_not_a_number| shape())?,
            None => most,
        };
        if len > most {
            return Err(shape());
        }
        let prefix = Self { address, len };
        if prefix.host_bits() != 0 {
            return Err(PrefixError(format!(
                "has bits beyond the first {len}: which hosts are meant?"
            )));
        }
        Ok(prefix)
    }
}

impl Prefix {
    fn host_bits(&self) -> u128 {
        let bits = match self.address {
            IpAddr::V4(address) => u128::from(address.to_bits()) << 96,
            IpAddr::V6(address) => Ipv6Addr::to_bits(address),
        };
        bits.checked_shl(self.len.into()).unwrap_or(0)
    }
}

impl fmt::Display for Prefix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.address, self.len)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn problem(text: &str) -> Option<String> {
        let police: PoliceConfig = toml::from_str(text).unwrap();
        police.check().err().map(|(key, _)| key)
    }

    #[test]
    fn what_cannot_be_kept_is_refused_by_its_key() {
        assert_eq!(problem(""), None);
        let good = r#"
            block = ["192.0.2.0/24", "2001:db8::/32", "10.1.2.3", "0.0.0.0/0"]
            source_rate = { per_second = 10000, burst = 2000 }
            functions = [{ name = "hello", per_second = 100 }]
            shed_percent = 200
        "#;
        assert_eq!(problem(good), None);
        for (text, key) in [
            (
                r#"block = ["192.0.2.1/24"]"#,
                "police.block \"192.0.2.1/24\"",
            ),
            (
                r#"block = ["10.1.2.3", "10.1.2.3/32"]"#,
                "police.block \"10.1.2.3/32\"",
            ),
            (r#"block = ["10.0.0.0/33"]"#, "police.block \"10.0.0.0/33\""),
            (r#"block = ["::1/-1"]"#, "police.block \"::1/-1\""),
            ("source_rate = { per_second = 0 }", "police.source_rate"),
            (
                "answer_rate = { per_second = 1000, burst = 1 }",
                "police.answer_rate",
            ),
            ("eviction_rate = { per_second = 0 }", "police.eviction_rate"),
            ("shed_percent = 0", "police.shed_percent"),
            (
                r#"functions = [{ name = "f", per_second = 9 }, { name = "f@latest", per_second = 9 }]"#,
                "police.functions \"f@latest\"",
            ),
        ] {
            assert_eq!(problem(text).as_deref(), Some(key));
        }
    }
}

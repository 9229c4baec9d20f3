//! Which packets are asked for: what the operator wrote → the row of `TRACE`.

use std::{net::IpAddr, time::Duration};

use ebpf_common::{
    event::{TraceFilter, trace_fields},
    ids::{FunctionId, WorkerId},
    maps::Counter,
};
use thiserror::Error;

/// How long the program waits for a tracer that says nothing.
pub(super) const LEASE: Duration = Duration::from_secs(5);

/// The packets asked for; all that is set must hold.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Asked {
    /// The VIP's number.
    pub vip_id: Option<u32>,
    /// The function.
    pub function: Option<FunctionId>,
    /// The worker.
    pub worker: Option<WorkerId>,
    /// Prefix of the source.
    pub source: Option<(IpAddr, u8)>,
    /// The port that it was sent to.
    pub port: Option<u16>,
    /// Counters of which it must have moved one; none for any.
    pub counters: Vec<Counter>,
    /// One in so many packets is looked at.
    pub sample: u32,
}

/// What was written means nothing.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum AskedError {
    /// Neither a class nor a label nor both.
    #[error(
        "`{word}` is no outcome: write a class (pass, route, drop, error, answer, consume), a rule or reason (warm, bad_magic), or both (drop/bad_magic); `warmpath map dump COUNTERS` lists them"
    )]
    Outcome {
        /// What was written.
        word: String,
    },
    /// Not a prefix.
    #[error("`{word}` is no address or prefix, like 10.0.0.0/8 or 2001:db8::/32")]
    Prefix {
        /// What was written.
        word: String,
    },
}

impl Asked {
    /// Adds the counters that `word` means: a class, a label, or both with a slash between.
    ///
    /// # Errors
    /// [`AskedError::Outcome`] if there are none.
    pub fn add_outcome(&mut self, word: &str) -> Result<(), AskedError> {
        let means = |counter: &&Counter| {
            let (class, label) = (counter.class().name(), counter.label());
            match word.split_once('/') {
                Some(both) => both == (class, label),
                None => word == class || word == label,
            }
        };
        let before = self.counters.len();
        self.counters.extend(Counter::ALL.iter().filter(means));
        if self.counters.len() == before {
            return Err(AskedError::Outcome {
                word: word.to_owned(),
            });
        }
        Ok(())
    }

    /// Sets the source's prefix; an address without a length is one host.
    ///
    /// # Errors
    /// [`AskedError::Prefix`].
    pub fn set_source(&mut self, word: &str) -> Result<(), AskedError> {
        let wrong = || AskedError::Prefix {
            word: word.to_owned(),
        };
        let (address, len) = match word.split_once('/') {
            Some((address, len)) => (address, Some(len.parse::<u8>().map_err(|_error| wrong())?)),
            None => (word, None),
        };
        let address: IpAddr = address.parse().map_err(|_error| wrong())?;
        let len_max = if address.is_ipv4() { 32 } else { 128 };
        let len = len.unwrap_or(len_max);
        if len > len_max {
            return Err(wrong());
        }
        self.source = Some((address, len));
        Ok(())
    }

    /// The row of `TRACE`.
    #[must_use]
    pub fn filter(&self) -> TraceFilter {
        let mut filter = TraceFilter {
            lease_ns: u64::try_from(LEASE.as_nanos()).unwrap_or(u64::MAX),
            every: self.sample,
            ..TraceFilter::ANY
        };
        if let Some(vip_id) = self.vip_id {
            filter.vip_id = vip_id;
            filter.fields |= trace_fields::VIP;
        }
        if let Some(function) = self.function {
            filter.function = function.0;
            filter.fields |= trace_fields::FUNCTION;
        }
        if let Some(worker) = self.worker {
            filter.worker = worker.0;
            filter.fields |= trace_fields::WORKER;
        }
        if let Some(port) = self.port {
            filter.destination_port = port;
            filter.fields |= trace_fields::PORTS;
        }
        if let Some((address, len)) = self.source {
            filter.fields |= trace_fields::ADDRESSES;
            filter.source_mask = mask(len);
            match address {
                IpAddr::V4(address) => {
                    filter.family = 4;
                    for (to, from) in filter.source.iter_mut().zip(address.octets()) {
                        *to = from;
                    }
                }
                IpAddr::V6(address) => {
                    filter.family = 6;
                    filter.source = address.octets();
                }
            }
        }
        if !self.counters.is_empty() {
            filter.counters = [0; 2];
            for counter in &self.counters {
                let index = *counter as u32;
                if let Some(word) = filter.counters.get_mut(index as usize / 64) {
                    *word |= 1 << (index % 64);
                }
            }
        }
        filter
    }
}

/// `len` ones, then zeros.
fn mask(len: u8) -> [u8; 16] {
    let ones = u128::MAX.checked_shl(128 - u32::from(len)).unwrap_or(0);
    ones.to_be_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_prefix_becomes_address_and_mask() {
        let mut asked = Asked::default();
        asked.set_source("10.80.0.0/12").unwrap();
        let filter = asked.filter();
        assert_eq!(filter.family, 4);
        assert_eq!(filter.source[..5], [10, 80, 0, 0, 0]);
        assert_eq!(filter.source_mask[..5], [255, 0xf0, 0, 0, 0]);
        asked.set_source("2001:db8::1").unwrap();
        assert_eq!(asked.filter().source_mask, [255; 16]);
        asked.set_source("::/0").unwrap();
        assert_eq!(asked.filter().source_mask, [0; 16]);
        for word in ["10.0.0.0/33", "10.0.0/8", "x", "::/-1", "1.2.3.4/"] {
            assert!(asked.set_source(word).is_err(), "{word}");
        }
    }

    #[test]
    fn an_outcome_is_a_class_a_label_or_both() {
        let mut asked = Asked::default();
        asked.add_outcome("drop/bad_magic").unwrap();
        assert_eq!(asked.counters, [Counter::DropBadMagic]);
        asked.add_outcome("warm").unwrap();
        assert_eq!(asked.counters[1..], [Counter::RouteWarm]);
        let mut errors = Asked::default();
        errors.add_outcome("error").unwrap();
        assert!(errors.counters.contains(&Counter::ErrorNoWorker));
        assert!(!errors.counters.contains(&Counter::DropBadMagic));
        assert!(asked.add_outcome("route/bad_magic").is_err());
        let filter = asked.filter();
        let bits = filter.counters[0].count_ones() + filter.counters[1].count_ones();
        assert_eq!(bits, 2);
    }

    #[test]
    fn nothing_asked_admits_every_packet() {
        let filter = Asked::default().filter();
        assert_eq!((filter.fields, filter.counters), (0, [u64::MAX; 2]));
        assert_eq!(filter.lease_ns, 5_000_000_000);
    }
}

//! Where a message goes on over TCP: the payload of a RESPONSE with [`flags::STREAM`](super::flags::STREAM).
//!
//! ```text
//!  byte 0                16                32     34
//!      +----------------+-----------------+------+
//!      | ticket         | IPv6 address    | port |
//!      +----------------+-----------------+------+
//! ```
//! An IPv4 address is written as an IPv4-mapped one (RFC 4291, 2.5.5.2).

use core::{
    fmt,
    net::{IpAddr, Ipv6Addr, SocketAddr},
    str::FromStr,
};

/// Bytes of a [`StreamPlace`].
pub const STREAM_PLACE_LEN: usize = 34;
const TICKET_LEN: usize = 16;

/// What lets its holder have one stream, once. Whoever guesses one has another's stream: it is made by a generator
/// that nobody can foresee, and is in no log.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Ticket(pub [u8; TICKET_LEN]);

/// A worker's address for streams, and the ticket to show there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StreamPlace {
    /// Good for one exchange.
    pub ticket: Ticket,
    /// Where to.
    pub address: SocketAddr,
}

impl StreamPlace {
    /// Its bytes.
    #[must_use]
    pub fn emit(&self) -> [u8; STREAM_PLACE_LEN] {
        let address = match self.address.ip() {
            IpAddr::V4(address) => address.to_ipv6_mapped(),
            IpAddr::V6(address) => address,
        };
        let mut bytes = [0; STREAM_PLACE_LEN];
        let parts = self.ticket.0.into_iter().chain(address.octets());
        let parts = parts.chain(self.address.port().to_be_bytes());
        for (byte, value) in bytes.iter_mut().zip(parts) {
            *byte = value;
        }
        bytes
    }

    /// Reads one; `None` if `payload` has another length, or names no address that can be connected to.
    #[must_use]
    pub fn parse(payload: &[u8]) -> Option<Self> {
        let (ticket, rest) = payload.split_first_chunk::<TICKET_LEN>()?;
        let (address, port) = rest.split_first_chunk::<16>()?;
        let port = u16::from_be_bytes(port.try_into().ok()?);
        let address = Ipv6Addr::from(*address).to_canonical();
        let is_place = port != 0 && !address.is_unspecified() && !address.is_multicast();
        is_place.then_some(Self {
            ticket: Ticket(*ticket),
            address: SocketAddr::new(address, port),
        })
    }
}

/// 32 hexadecimal digits: as it stands in the path of the exchange.
impl fmt::Display for Ticket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", u128::from_be_bytes(self.0))
    }
}

/// Says nothing: logs are read by others than those it is for.
impl fmt::Debug for Ticket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Ticket")
    }
}

/// It is not 32 hexadecimal digits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NotATicket;

impl FromStr for Ticket {
    type Err = NotATicket;

    fn from_str(text: &str) -> Result<Self, NotATicket> {
        // `from_str_radix` takes a sign as well.
        let is_hex = text.len() == 2 * TICKET_LEN && text.bytes().all(|b| b.is_ascii_hexdigit());
        let number = u128::from_str_radix(text, 16).or(Err(NotATicket))?;
        is_hex.then(|| Self(number.to_be_bytes())).ok_or(NotATicket)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn place(address: &str) -> StreamPlace {
        StreamPlace {
            ticket: Ticket([7; TICKET_LEN]),
            address: address.parse().unwrap(),
        }
    }

    #[test]
    fn both_families_come_back_as_they_went() {
        for address in ["10.80.0.11:9200", "[2001:db8::1]:1"] {
            let place = place(address);
            assert_eq!(StreamPlace::parse(&place.emit()), Some(place));
        }
    }

    #[test]
    fn another_length_or_an_address_of_nobody_is_refused() {
        let whole = place("10.80.0.11:9200").emit();
        for len in 0..whole.len() {
            assert_eq!(StreamPlace::parse(&whole[..len]), None, "{len} bytes");
        }
        assert_eq!(StreamPlace::parse(&[&whole[..], &[0]].concat()), None);
        for nobody in [
            "0.0.0.0:1",
            "[::]:1",
            "10.0.0.1:0",
            "239.0.0.1:1",
            "[ff02::1]:1",
        ] {
            assert_eq!(StreamPlace::parse(&place(nobody).emit()), None, "{nobody}");
        }
    }

    #[test]
    fn a_ticket_is_32_hexadecimal_digits() {
        let ticket = Ticket(*b"0123456789abcdef");
        let text = "30313233343536373839616263646566";
        assert_eq!(format!("{ticket} {ticket:?}"), format!("{text} Ticket"));
        assert_eq!(text.parse(), Ok(ticket));
        for bad in ["", "+0313233343536373839616263646566", &text[1..], "zz"] {
            assert_eq!(bad.parse::<Ticket>(), Err(NotATicket), "{bad}");
        }
    }
}

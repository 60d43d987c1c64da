//! Which addresses may be connected to. Pure: an address in, a verdict out.
//!
//! IPv4 is open but for a table of ranges. IPv6 is closed but for global unicast (2000::/3), and
//! that less a table. Wrappings that a network on the way unwraps (IPv4-mapped, NAT64) are judged
//! by what is inside; those that nobody needs any more (6to4, Teredo, IPv4-compatible) are refused
//! whatever is inside. The ranges are the special-purpose registries of RFC 6890.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use url::Host;

/// IPv4 ranges that are not the public internet.
const CLOSED_V4: [(Ipv4Net, &str); 15] = [
    (v4(0, 0, 0, 0, 8), "an unspecified"),
    (v4(10, 0, 0, 0, 8), "a private"),
    (v4(100, 64, 0, 0, 10), "a carrier-grade NAT"),
    (v4(127, 0, 0, 0, 8), "a loopback"),
    (v4(169, 254, 0, 0, 16), "a link-local"),
    (v4(172, 16, 0, 0, 12), "a private"),
    (v4(192, 0, 0, 0, 24), "a reserved"),
    (v4(192, 0, 2, 0, 24), "a documentation"),
    (v4(192, 88, 99, 0, 24), "a reserved"),
    (v4(192, 168, 0, 0, 16), "a private"),
    (v4(198, 18, 0, 0, 15), "a benchmarking"),
    (v4(198, 51, 100, 0, 24), "a documentation"),
    (v4(203, 0, 113, 0, 24), "a documentation"),
    (v4(224, 0, 0, 0, 4), "a multicast"),
    (v4(240, 0, 0, 0, 4), "a reserved or broadcast"),
];

/// Names for IPv6 ranges that are closed; what is not global unicast is closed without one too.
const CLOSED_V6: [(Ipv6Net, &str); 13] = [
    (v6([0, 0], 127), "a loopback or unspecified"),
    (v6([0, 0], 96), "an IPv4-compatible"),
    (v6([0x64, 0xff9b], 32), "a local NAT64"),
    (v6([0x100, 0], 64), "a discarded"),
    // Teredo is 2001::/32, benchmarking and ORCHID lie there too.
    (v6([0x2001, 0], 23), "a Teredo or other special-purpose"),
    (v6([0x2001, 0xdb8], 32), "a documentation"),
    (v6([0x2002, 0], 16), "a 6to4"),
    (v6([0x3fff, 0], 20), "a documentation"),
    (v6([0xfc00, 0], 7), "a unique local"),
    (v6([0xfe80, 0], 10), "a link-local"),
    (v6([0xfec0, 0], 10), "a site-local"),
    (v6([0xff00, 0], 8), "a multicast"),
    (v6([0x5f00, 0], 16), "a segment routing"),
];

/// What IPv6 addresses of the public internet begin with.
const GLOBAL_UNICAST: Ipv6Net = v6([0x2000, 0], 3);

/// The well-known prefix of NAT64 (RFC 6052): the IPv4 address is in the last 32 bits.
const NAT64: Ipv6Net = v6([0x64, 0xff9b], 96);

const fn v4(a: u8, b: u8, c: u8, d: u8, prefix: u8) -> Ipv4Net {
    Ipv4Net::new_assert(Ipv4Addr::new(a, b, c, d), prefix)
}

const fn v6(start: [u16; 2], prefix: u8) -> Ipv6Net {
    let address = Ipv6Addr::new(start[0], start[1], 0, 0, 0, 0, 0, 0);
    Ipv6Net::new_assert(address, prefix)
}

/// What the operator opens although it is closed to everybody: a host by its exact name, or the
/// addresses of a range.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AllowedTarget {
    /// Whatever this host resolves to.
    Host(String),
    /// These addresses, by whatever name.
    Range(IpNet),
}

/// A text that is neither a host nor a range.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not a host name, an address or a range such as 10.0.0.0/8")]
pub struct InvalidAllowedTarget(String);

impl FromStr for AllowedTarget {
    type Err = InvalidAllowedTarget;

    fn from_str(text: &str) -> Result<Self, InvalidAllowedTarget> {
        if let Ok(range) = text.parse::<IpNet>() {
            return Ok(Self::Range(range));
        }
        if let Ok(address) = text.parse::<IpAddr>() {
            return Ok(Self::Range(address.into()));
        }
        match Host::parse(text) {
            Ok(Host::Domain(name)) if !name.is_empty() => Ok(Self::Host(name)),
            Ok(Host::Ipv4(address)) => Ok(Self::Range(IpAddr::from(address).into())),
            Ok(Host::Ipv6(address)) => Ok(Self::Range(IpAddr::from(address).into())),
            Ok(Host::Domain(_)) | Err(_) => Err(InvalidAllowedTarget(text.to_owned())),
        }
    }
}

/// An address that may not be connected to.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{} is {kind} address, which is not allowed as a target", Named(host, *address))]
pub struct RefusedAddress {
    /// The host that was asked for.
    pub host: String,
    /// What it stands for or resolves to.
    pub address: IpAddr,
    /// What is wrong with it, as in "a loopback".
    pub kind: &'static str,
}

/// A host with its address, where those are two things.
struct Named<'a>(&'a str, IpAddr);

impl std::fmt::Display for Named<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self(host, address) = self;
        let bare = host.trim_start_matches('[').trim_end_matches(']');
        if bare == address.to_string() {
            write!(f, "{address}")
        } else {
            write!(f, "'{host}' resolves to {address}; that")
        }
    }
}

/// The rule about addresses, with the operator's exceptions. Without any nothing inward is open.
#[derive(Debug, Clone, Default)]
pub struct Guard {
    allowed: Vec<AllowedTarget>,
}

impl Guard {
    /// With these exceptions.
    pub fn new(allowed: Vec<AllowedTarget>) -> Self {
        Self { allowed }
    }

    /// Whether this address may be connected to for this host, which is a
    /// [`Target::host`](crate::Target::host).
    pub fn admit(&self, host: &str, address: IpAddr) -> Result<(), RefusedAddress> {
        match closed(address) {
            Some(kind) if !self.allows(host, address) => Err(RefusedAddress {
                host: host.to_owned(),
                address,
                kind,
            }),
            _ => Ok(()),
        }
    }

    /// Whether all of them may: one that points inward makes the host's answer suspect as a whole.
    pub fn admit_all<'a>(
        &self,
        host: &str,
        addresses: impl IntoIterator<Item = &'a IpAddr>,
    ) -> Result<(), RefusedAddress> {
        addresses
            .into_iter()
            .try_for_each(|address| self.admit(host, *address))
    }

    fn allows(&self, host: &str, address: IpAddr) -> bool {
        self.allowed.iter().any(|allowed| match allowed {
            AllowedTarget::Host(name) => name == host,
            // The system connects an IPv4-mapped address by IPv4, so both spellings are one place.
            AllowedTarget::Range(range) => {
                range.contains(&address) || range.contains(&address.to_canonical())
            }
        })
    }
}

/// What kind of inward address it is; `None` for one of the public internet.
fn closed(address: IpAddr) -> Option<&'static str> {
    match address {
        IpAddr::V4(address) => closed_v4(address),
        IpAddr::V6(address) => closed_v6(address),
    }
}

fn closed_v4(address: Ipv4Addr) -> Option<&'static str> {
    let row = CLOSED_V4.iter().find(|(range, _)| range.contains(&address));
    row.map(|(_, kind)| *kind)
}

fn closed_v6(address: Ipv6Addr) -> Option<&'static str> {
    if let Some(inside) = address.to_ipv4_mapped() {
        return closed_v4(inside);
    }
    if NAT64.contains(&address) {
        let [.., a, b, c, d] = address.octets();
        return closed_v4(Ipv4Addr::new(a, b, c, d));
    }
    let row = CLOSED_V6.iter().find(|(range, _)| range.contains(&address));
    let unnamed = (!GLOBAL_UNICAST.contains(&address)).then_some("a reserved");
    row.map(|(_, kind)| *kind).or(unnamed)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn refused(text: &str) -> bool {
        let address: IpAddr = text.parse().unwrap();
        Guard::default().admit(text, address).is_err()
    }

    #[test]
    fn the_edges_of_every_range() {
        for text in [
            "0.0.0.0",
            "0.255.255.255",
            "10.0.0.0",
            "10.255.255.255",
            "100.64.0.0",
            "100.127.255.255",
            "127.0.0.1",
            "127.255.255.255",
            "169.254.0.0",
            "169.254.169.254",
            "172.16.0.0",
            "172.31.255.255",
            "192.0.0.8",
            "192.0.2.1",
            "192.168.0.0",
            "192.168.255.255",
            "198.18.0.0",
            "198.19.255.255",
            "198.51.100.7",
            "203.0.113.255",
            "224.0.0.1",
            "239.255.255.255",
            "240.0.0.0",
            "255.255.255.255",
            "::",
            "::1",
            "::127.0.0.1",
            "::8.8.8.8",
            "::ffff:10.0.0.1",
            "::ffff:0:127.0.0.1",
            "64:ff9b::10.0.0.1",
            "64:ff9b:1::8.8.8.8",
            "64:ff9b:1:7f00:0:100::",
            "100::1",
            "2001::1",
            "2001:0:4136:e378:8000:63bf:3fff:fdd2",
            "2001:2::1",
            "2001:10::1",
            "2001:1ff:ffff::",
            "2001:db8::1",
            "2002:7f00:1::",
            "2002:808:808::1",
            "3fff::1",
            "4000::1",
            "5f00::1",
            "fc00::1",
            "fdff:ffff::1",
            "fe80::1",
            "febf::1",
            "fec0::1",
            "ff02::1",
            "1fff::1",
        ] {
            assert!(refused(text), "{text}");
        }
        for text in [
            "1.1.1.1",
            "8.8.8.8",
            "9.255.255.255",
            "11.0.0.0",
            "100.63.255.255",
            "100.128.0.0",
            "126.255.255.255",
            "128.0.0.0",
            "169.253.255.255",
            "169.255.0.0",
            "172.15.255.255",
            "172.32.0.0",
            "192.167.255.255",
            "192.169.0.0",
            "198.17.255.255",
            "198.20.0.0",
            "223.255.255.255",
            "::ffff:8.8.8.8",
            "64:ff9b::8.8.8.8",
            "2001:200::1",
            "2001:4860:4860::8888",
            "2003::1",
            "2606:4700::1111",
            "2a00:1450::1",
            "3ffe::1",
        ] {
            assert!(!refused(text), "{text}");
        }
    }

    #[test]
    fn what_the_operator_opens_is_open_and_no_more() {
        let guard =
            |texts: &[&str]| Guard::new(texts.iter().map(|text| text.parse().unwrap()).collect());
        let open = |guard: &Guard, host: &str, address: &str| {
            guard.admit(host, address.parse().unwrap()).is_ok()
        };
        let named = guard(&["Keys.Internal"]);
        assert!(open(&named, "keys.internal", "10.0.0.1"));
        assert!(!open(&named, "evil.keys.internal", "10.0.0.1"));
        assert!(!open(&named, "keys.internal.", "10.0.0.1"));
        let ranged = guard(&["10.1.0.0/16", "fd00::/8", "127.0.0.1"]);
        for address in ["10.1.2.3", "fd12::1", "127.0.0.1", "::ffff:127.0.0.1"] {
            assert!(open(&ranged, "any", address), "{address}");
        }
        for address in [
            "10.2.0.0",
            "fc00::1",
            "127.0.0.2",
            "::1",
            "64:ff9b::127.0.0.1",
        ] {
            assert!(!open(&ranged, "any", address), "{address}");
        }
        assert!(open(&guard(&["[::1]"]), "any", "::1"));
        assert!(open(&guard(&["0x7f.1"]), "any", "127.0.0.1"));
        for bad in [
            "",
            "10.0.0.0/33",
            "a b",
            "http://a",
            "a/8",
            "1.2.3.4.5.6:80",
        ] {
            assert!(bad.parse::<AllowedTarget>().is_err(), "{bad:?}");
        }
    }

    #[test]
    fn one_inward_address_among_good_ones_refuses_all() {
        let addresses: [IpAddr; 3] =
            ["8.8.8.8", "10.0.0.1", "1.1.1.1"].map(|it| it.parse().unwrap());
        let error = Guard::default()
            .admit_all("rebind.example", &addresses)
            .unwrap_err();
        assert_eq!(
            error.to_string(),
            "'rebind.example' resolves to 10.0.0.1; that is a private address, which is not \
             allowed as a target"
        );
        assert!(
            Guard::default()
                .admit_all("fine.example", [&addresses[0], &addresses[2]])
                .is_ok()
        );
    }

    /// An IPv4 address in a closed range.
    fn inward() -> impl Strategy<Value = Ipv4Addr> {
        (0..CLOSED_V4.len(), any::<u32>()).prop_map(|(row, host)| {
            let range = CLOSED_V4[row].0;
            let bits = u32::from(range.network()) | (host & u32::from(range.hostmask()));
            bits.into()
        })
    }

    proptest! {
        #[test]
        fn wrapping_an_inward_address_opens_nothing(inside in inward()) {
            let [a, b, c, d] = inside.octets().map(u16::from);
            let (high, low) = (a << 8 | b, c << 8 | d);
            let wrapped = [
                IpAddr::from(inside),
                inside.to_ipv6_mapped().into(),
                Ipv6Addr::new(0, 0, 0, 0, 0, 0, high, low).into(),
                Ipv6Addr::new(0, 0, 0, 0, 0xffff, 0, high, low).into(),
                Ipv6Addr::new(0x64, 0xff9b, 0, 0, 0, 0, high, low).into(),
                Ipv6Addr::new(0x64, 0xff9b, 1, 0, 0, 0, high, low).into(),
                Ipv6Addr::new(0x2002, high, low, 0, 0, 0, 0, 1).into(),
                Ipv6Addr::new(0x2001, 0, 0, 0, 0, 0, !high, !low).into(),
            ];
            for address in wrapped {
                prop_assert!(Guard::default().admit("any", address).is_err(), "{}", address);
            }
        }

        #[test]
        fn only_global_unicast_and_what_wraps_public_ipv4_is_open(bits in any::<u128>()) {
            let address = Ipv6Addr::from(bits);
            let open = Guard::default().admit("any", address.into()).is_ok();
            let wraps = address.to_ipv4_mapped().is_some() || NAT64.contains(&address);
            prop_assert!(!open || wraps || GLOBAL_UNICAST.contains(&address));
        }

        #[test]
        fn an_exception_opens_its_range_and_nothing_beside(
            open in inward(), prefix in 0_u8..=32, other in inward()
        ) {
            let range = Ipv4Net::new(open, prefix).unwrap();
            let guard = Guard::new(vec![AllowedTarget::Range(range.into())]);
            prop_assert!(guard.admit("any", open.into()).is_ok());
            prop_assert_eq!(guard.admit("any", other.into()).is_ok(), range.contains(&other));
        }
    }
}

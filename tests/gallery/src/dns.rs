//! A name server on loopback, as an attacker's would answer.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use anyhow::Result;
use parking_lot::Mutex;
use tokio::net::UdpSocket;
use tokio::task::JoinSet;

type Zone = HashMap<String, Name>;

/// Addresses for each lookup, which is a question for IPv4 and one for IPv6; the last ones stay.
struct Name {
    lookups: Vec<Vec<IpAddr>>,
    questions: usize,
}

/// A running name server.
pub struct NameServer {
    /// Where it listens.
    pub address: SocketAddr,
    asked: Arc<Mutex<Vec<String>>>,
    _tasks: JoinSet<()>,
}

impl NameServer {
    /// With these names and their addresses at each lookup, of which the last stay; all other names don't exist. No
    /// answer may be kept (TTL 0).
    pub async fn start(zone: &[(&str, &[&[&str]])]) -> Result<Self> {
        let mut names = Zone::new();
        for (name, answers) in zone {
            let parse = |answer: &&[&str]| {
                answer
                    .iter()
                    .map(|address| address.parse())
                    .collect::<Result<Vec<_>, _>>()
            };
            let lookups = answers.iter().map(parse).collect::<Result<_, _>>()?;
            names.insert((*name).to_owned(), Name { lookups, questions: 0 });
        }
        let socket = UdpSocket::bind("127.0.0.1:0").await?;
        let address = socket.local_addr()?;
        let asked = Arc::new(Mutex::new(Vec::new()));
        let kept = Arc::clone(&asked);
        let mut tasks = JoinSet::new();
        tasks.spawn(async move {
            let mut query = [0; 512];
            while let Ok((count, from)) = socket.recv_from(&mut query).await {
                if let Some(answer) = answer(&query[..count], &mut names, &kept) {
                    let _ = socket.send_to(&answer, from).await; // it asks again
                }
            }
        });
        Ok(Self {
            address,
            asked,
            _tasks: tasks,
        })
    }

    /// Names that it was asked for, in order; once for each type.
    pub fn asked(&self) -> Vec<String> {
        self.asked.lock().clone()
    }
}

/// RFC 1035 §4.1: a query has one question, which is repeated before the answers.
fn answer(query: &[u8], zone: &mut Zone, asked: &Mutex<Vec<String>>) -> Option<Vec<u8>> {
    let mut at = HEADER;
    let mut labels = Vec::new();
    loop {
        let length = usize::from(*query.get(at)?);
        at += 1;
        if length == 0 {
            break;
        }
        labels.push(String::from_utf8(query.get(at..at + length)?.to_vec()).ok()?);
        at += length;
    }
    let name = labels.join(".").to_lowercase();
    let kind = u16::from_be_bytes([*query.get(at)?, *query.get(at + 1)?]);
    asked.lock().push(name.clone());
    let known = zone.get_mut(&name);
    let failure = if known.is_some() { 0 } else { NAME_ERROR };
    let mut addresses = Vec::new();
    if let Some(Name { lookups, questions }) = known {
        addresses = lookups
            .get(*questions / 2)
            .or_else(|| lookups.last())
            .cloned()
            .unwrap_or_default();
        addresses.retain(|address| kind == if address.is_ipv4() { A } else { AAAA });
        *questions += 1;
    }
    let mut bytes = query.get(..2)?.to_vec();
    bytes.extend([0x85, 0x80 | failure, 0, 1]);
    bytes.extend(u16::try_from(addresses.len()).ok()?.to_be_bytes());
    bytes.extend([0; 4]);
    bytes.extend(query.get(HEADER..at + 4)?);
    for address in addresses {
        bytes.extend([0xc0, 0x0c]);
        bytes.extend(kind.to_be_bytes());
        bytes.extend([0, 1, 0, 0, 0, 0]);
        let octets = match address {
            IpAddr::V4(address) => address.octets().to_vec(),
            IpAddr::V6(address) => address.octets().to_vec(),
        };
        bytes.extend(u16::try_from(octets.len()).ok()?.to_be_bytes());
        bytes.extend(octets);
    }
    Some(bytes)
}

const HEADER: usize = 12;
const A: u16 = 1;
const AAAA: u16 = 28;
/// NXDOMAIN.
const NAME_ERROR: u8 = 3;

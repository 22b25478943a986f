use std::net::SocketAddr;
use std::path::Path;

use serde::{Deserialize, Serialize};
use warren_proto::Netmap;

use super::{StateError, atomic, read};

const MAP: &str = "netmap.json";
const BROKER: &str = "broker.json";

/// `netmap.json`: the mesh as it was last known, so that it goes on without the broker.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct CachedMap {
    /// When the broker last confirmed it, seconds since the Unix epoch.
    pub(crate) current_at: u64,
    /// The map.
    pub(crate) netmap: Netmap,
}

impl CachedMap {
    /// Reads the cached map; a missing or damaged one is no loss that lasts.
    pub(crate) fn load(folder: &Path) -> Option<Self> {
        match read(&folder.join(MAP)) {
            Ok(bytes) => match parse(&bytes?) {
                Ok(map) => Some(map),
                Err(error) => {
                    tracing::warn!(%error, "the cached netmap is damaged and will be fetched again");
                    None
                }
            },
            Err(error) => {
                tracing::warn!(%error, "the cached netmap can't be read");
                None
            }
        }
    }

    pub(crate) fn save(&self, folder: &Path) -> Result<(), StateError> {
        let json = serde_json::to_vec(self).expect("string keys and no failing serializer");
        atomic::replace(folder, MAP, &json)
    }

    /// Forgets the map, as when this device leaves its account.
    pub(crate) fn remove(folder: &Path) -> Result<(), StateError> {
        for name in [MAP, BROKER] {
            let path = folder.join(name);
            match std::fs::remove_file(&path) {
                Ok(()) => {}
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
                Err(error) => return Err(StateError::io("can't remove", &path)(error)),
            }
        }
        Ok(())
    }
}

fn parse(bytes: &[u8]) -> Result<CachedMap, Box<dyn std::error::Error>> {
    let map: CachedMap = serde_json::from_slice(bytes)?;
    map.netmap.check()?;
    Ok(map)
}

/// `broker.json`: where the broker was last reached, for when names don't resolve.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct BrokerAddresses {
    /// The URL's host and port that the addresses belong to.
    pub(crate) authority: String,
    /// The addresses, the one that worked first.
    pub(crate) addresses: Vec<SocketAddr>,
}

impl BrokerAddresses {
    pub(crate) fn load(folder: &Path) -> Self {
        let bytes = read(&folder.join(BROKER)).ok().flatten();
        bytes.and_then(|bytes| serde_json::from_slice(&bytes).ok()).unwrap_or_default()
    }

    pub(crate) fn save(&self, folder: &Path) -> Result<(), StateError> {
        let json = serde_json::to_vec(self).expect("string keys and no failing serializer");
        atomic::replace(folder, BROKER, &json)
    }
}

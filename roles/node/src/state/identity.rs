use std::fmt;
use std::path::Path;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Serialize};
use warren_proto::{AccountId, DeviceId, DeviceName, LanCap, Pin, PublicKey};
use x25519_dalek::StaticSecret;
use zeroize::Zeroizing;

use super::{StateError, StateFolder, atomic, read};

const FILE: &str = "node.json";

/// Grows when an older version couldn't read the file any more.
const FORMAT: u32 = 1;

/// `node.json`: who this device is, and what was decided on it for good.
#[derive(Clone, Serialize, Deserialize)]
pub(crate) struct Identity {
    format: u32,
    private_key: PrivateKey,
    /// The UDP port: chosen once and kept, so that a NAT's mapping outlives a restart.
    pub(crate) listen_port: Option<u16>,
    /// Whether the node chose [`Identity::listen_port`] itself.
    #[serde(default = "yes")]
    pub(crate) listen_port_auto: bool,
    /// The port that the node chose itself, for life: `lport auto` comes back to it.
    #[serde(default)]
    pub(crate) auto_port: Option<u16>,
    /// Whether the user wants the mesh up: `warren down` holds over restarts.
    #[serde(default = "yes")]
    pub(crate) up: bool,
    /// Whether the user lets this device be an edge of the account that it is in.
    #[serde(default)]
    pub(crate) edge: bool,
    /// Whether he leaves it to the account: [`Identity::edge`] holds while the account asks for it.
    #[serde(default)]
    pub(crate) edge_when_asked: bool,
    /// Whether it is one by the userspace proxy alone.
    #[serde(default)]
    pub(crate) edge_userspace: bool,
    /// What the user lets it open as one.
    #[serde(default)]
    pub(crate) edge_cap: LanCap,
    /// By whom the user wants this device's traffic to the internet to go, in the account that it is in.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) exit: Option<ExitChoice>,
    /// What to be called, if the user said so.
    #[serde(default)]
    pub(crate) name: Option<String>,
    /// The membership, once the broker has confirmed it.
    #[serde(default)]
    pub(crate) joined: Option<Joined>,
    /// A registration that is under way: repeated after a crash until the broker has decided.
    #[serde(default)]
    pub(crate) joining: Option<Joining>,
    /// PCP's mapping nonce (RFC 6887 §11.2), kept so that a restarted daemon renews its mapping.
    #[serde(default = "rand::random")]
    pub(crate) mapping_nonce: [u32; 3],
    /// The broker said that this membership is over.
    #[serde(default)]
    pub(crate) revoked: bool,
}

/// The exit node that the user has chosen.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct ExitChoice {
    /// The edge.
    pub(crate) device: DeviceId,
    /// What it was called then, for when nobody knows it any more.
    pub(crate) name: DeviceName,
    /// Whether the LAN stays reachable beside it.
    pub(crate) lan: bool,
}

/// A membership in an account.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Joined {
    /// The broker's base URL.
    pub(crate) url: String,
    /// Which keys may sign the broker's certificate: the present pin and the announced next one.
    /// Empty: the system's authorities decide.
    #[serde(default)]
    pub(crate) pins: Vec<Pin>,
    /// The bearer token: a secret.
    pub(crate) token: String,
    /// This device.
    pub(crate) device: DeviceId,
    /// Its account.
    pub(crate) account: AccountId,
    /// The account's name.
    pub(crate) account_name: DeviceName,
    /// The name that the device got.
    pub(crate) name: DeviceName,
}

/// A registration under way.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Joining {
    /// The join link's text: a secret.
    pub(crate) link: String,
    /// What to be called.
    pub(crate) name: String,
}

impl fmt::Debug for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Identity")
            .field("public_key", &self.public_key())
            .field("device", &self.joined.as_ref().map(|joined| joined.device))
            .finish_non_exhaustive()
    }
}

fn yes() -> bool {
    true
}

#[derive(Clone)]
struct PrivateKey(Zeroizing<[u8; 32]>);

impl Serialize for PrivateKey {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        Zeroizing::new(STANDARD.encode(self.0.as_slice())).serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for PrivateKey {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = Zeroizing::new(String::deserialize(deserializer)?);
        let bytes = STANDARD.decode(text.as_bytes()).ok().map(Zeroizing::new);
        let key = bytes.and_then(|bytes| bytes.as_slice().try_into().ok());
        key.map(|key| Self(Zeroizing::new(key)))
            .ok_or_else(|| serde::de::Error::custom("private_key is not 32 bytes in base64"))
    }
}

impl Identity {
    /// Reads `node.json`, or makes a key pair and writes it.
    ///
    /// # Errors
    /// A damaged file is never replaced: the key in it may be all that is left of this device.
    pub(crate) fn load_or_create(folder: &StateFolder) -> Result<Self, StateError> {
        let path = folder.path().join(FILE);
        let Some(bytes) = read(&path)?.map(Zeroizing::new) else {
            let identity = Self::generate();
            identity.save(folder.path())?;
            return Ok(identity);
        };
        let damaged = |reason: String| StateError::Damaged { file: path.clone(), reason };
        // The format is looked at first, so that a newer file is not called damaged.
        #[derive(Deserialize)]
        struct Format {
            format: u32,
        }
        let format: Format =
            serde_json::from_slice(&bytes).map_err(|error| damaged(error.to_string()))?;
        if format.format > FORMAT {
            return Err(StateError::Newer { file: path, format: format.format });
        }
        serde_json::from_slice(&bytes).map_err(|error| damaged(error.to_string()))
    }

    /// A new device, which belongs to nobody.
    pub(crate) fn generate() -> Self {
        let mut key = Zeroizing::new([0; 32]);
        rand::Rng::fill_bytes(&mut rand::rng(), key.as_mut_slice());
        Self {
            format: FORMAT,
            private_key: PrivateKey(key),
            listen_port: None,
            listen_port_auto: true,
            auto_port: None,
            up: true,
            name: None,
            joined: None,
            joining: None,
            mapping_nonce: rand::random(),
            revoked: false,
            edge: false,
            edge_when_asked: false,
            edge_userspace: false,
            edge_cap: LanCap::default(),
            exit: None,
        }
    }

    /// Writes `node.json`; when this returns, it survives a power cut.
    pub(crate) fn save(&self, folder: &Path) -> Result<(), StateError> {
        let mut json = Zeroizing::new(
            serde_json::to_vec_pretty(self).expect("string keys and no failing serializer"),
        );
        json.push(b'\n');
        atomic::replace(folder, FILE, &json)
    }

    /// What keeps traffic from leaving beside an exit node is to outlive a crash.
    pub(crate) fn spare(&self) -> warren_net::Spare {
        if self.exit.is_some() && self.up && self.joined.is_some() && !self.revoked {
            warren_net::Spare::Blocks
        } else {
            warren_net::Spare::Nothing
        }
    }

    /// The node has chosen this listen port, and keeps it.
    pub(crate) fn choose_port(&mut self, port: u16) {
        self.listen_port = Some(port);
        self.listen_port_auto = true;
        self.auto_port = Some(port);
    }

    pub(crate) fn private_key(&self) -> StaticSecret {
        StaticSecret::from(*self.private_key.0)
    }

    pub(crate) fn public_key(&self) -> PublicKey {
        PublicKey(x25519_dalek::PublicKey::from(&self.private_key()).to_bytes())
    }
}

use warren_proto::{DeviceId, JoinKeyId, MacAddr, RelayId, WebhookId};

use crate::{
    AccountRecord, DeviceRecord, EdgeItemId, EdgeItemRecord, EdgeRecord, JoinKeyRecord,
    ListedRelay, PolicyRecord, RelayRecord, UnixTime, WebhookRecord,
};

/// One durable change of an account. Records are whole: written in place of what was there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change {
    /// The account itself.
    Account(AccountRecord),
    /// A device is new or has changed.
    Device(DeviceRecord),
    /// A device is gone, with all that it opened as an edge.
    DeviceRemoved(DeviceId),
    /// A device was heard of.
    LastSeen {
        /// Which one.
        device: DeviceId,
        /// When.
        at: UnixTime,
    },
    /// A join key is new or has changed.
    JoinKey(JoinKeyRecord),
    /// A join key is gone.
    JoinKeyRemoved(JoinKeyId),
    /// A relay is new or has changed.
    Relay(RelayRecord),
    /// A relay is gone.
    RelayRemoved(RelayId),
    /// The account's list of connection relays, all of it.
    RelayList(Vec<ListedRelay>),
    /// Relays are to refuse a device that was removed.
    Revoked {
        /// Which one.
        device: DeviceId,
        /// Until when a credential of it may be good.
        until: UnixTime,
    },
    /// No credential of a removed device can be good any more.
    RevocationOver(DeviceId),
    /// The policy has changed.
    Policy(PolicyRecord),
    /// A webhook is new or has changed.
    Webhook(WebhookRecord),
    /// A webhook is gone.
    WebhookRemoved(WebhookId),
    /// A device has become an edge, or is none any more.
    Edge(EdgeRecord),
    /// What an edge opens is new or has changed.
    EdgeItem(EdgeItemRecord),
    /// Something that an edge opened is gone.
    EdgeItemRemoved {
        /// The edge.
        edge: DeviceId,
        /// What it was.
        id: EdgeItemId,
    },
    /// An edge calls a card of its LAN. Nothing is kept of it but that it was asked for.
    EdgeWakes {
        /// The edge.
        edge: DeviceId,
        /// The card.
        mac: MacAddr,
    },
}

/// A decision that takes effect once its changes are committed: give it to
/// [`crate::Account::apply`] (or [`crate::People::apply`]) then, and drop it if the commit failed.
#[derive(Debug)]
#[must_use = "a decision takes effect when its changes are committed and applied"]
pub struct Prepared<R, C = Change> {
    /// What to commit, in one transaction, in this order. May be empty: then there is nothing to
    /// commit.
    pub changes: Vec<C>,
    pub(crate) reply: R,
}

use thiserror::Error;
use warren_proto::{DeviceName, ErrorCode};

use crate::policy::{Report, Severity};

use crate::Email;

/// Why a request was not granted. The text is for people and says what to do next.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum Refused {
    /// The join key is unknown, or was deleted.
    #[error("this join key is unknown or was deleted; ask for a new join link")]
    JoinKeyUnknown,
    /// The one-time join key has been used by another device, or before this one was expired.
    #[error("this one-time join key has been used; ask for a new join link")]
    JoinKeyUsed,
    /// The join key has expired.
    #[error("this join key has expired; ask for a new join link")]
    JoinKeyExpired,
    /// The proof of possession was wrong.
    #[error(
        "the device did not prove to this broker that it holds its private key; use the join link \
         just as the broker made it"
    )]
    ProofFailed,
    /// The challenge is too old, or another broker process's.
    #[error("the challenge is no longer valid; fetch a new one and try again")]
    ChallengeExpired,
    /// The broker's operator has suspended the account.
    #[error("this account is suspended; ask the broker's operator")]
    AccountSuspended,
    /// The account has as many people as it may have.
    #[error(
        "the account has as many people as it may have; ask the broker's operator for more, or \
         remove somebody"
    )]
    TooManyPeople,
    /// Who asks has no right to this.
    #[error("you have no right to this; ask an owner of the account")]
    Forbidden,
    /// Whoever lets a device in again isn't its owner.
    #[error(
        "this device is known here, and not as yours; an admin of the account lets it in again"
    )]
    NotYourDevice,
    /// The device was removed or has logged out.
    #[error("this device was removed from its account, or must join again with a new join link")]
    Revoked,
    /// The node's protocol is older than the broker serves.
    #[error("this node is too old for the broker; upgrade it")]
    UpgradeRequired,
    /// No address is left, or there are as many devices as the broker allows.
    #[error(
        "the account has as many devices as it may have; remove some that are no longer used, or ask \
         the broker's operator for a higher limit"
    )]
    AccountFull,
    /// Too many requests.
    #[error("too many requests; try again later")]
    RateLimited,
    /// The peer is not reachable through the broker at the moment.
    #[error("the peer is offline")]
    PeerOffline,
    /// The request makes no sense.
    #[error("{0}")]
    Invalid(&'static str),
    /// What an edge is to open makes no sense.
    #[error("{0}")]
    EdgeInvalid(String),
    /// What an edge is to open clashes with what it opens already.
    #[error("{0}")]
    EdgeConflict(String),
    /// What the request was made from has changed meanwhile.
    #[error("{0}")]
    Conflict(&'static str),
    /// The address range is not one for an account.
    #[error("{0}")]
    InvalidRange(#[from] warren_proto::InvalidRange),
    /// No such thing.
    #[error("there is no such {0}")]
    NotFound(&'static str),
    /// The name belongs to another device or account.
    #[error("the name '{0}' is taken; choose another one")]
    NameTaken(DeviceName),
    /// No device or relay of that name.
    #[error(
        "there is no device or relay '{0}' in this account; see `warren admin relays list` and \
         `warren admin devices list`"
    )]
    NoRelay(String),
    /// More than one device or relay of that name.
    #[error("'{0}' is both a device and a relay, or two relays; give the id instead")]
    AmbiguousRelay(String),
    /// The policy is not the one that its author saw.
    #[error(
        "somebody else has changed the policy meanwhile (it is at version {0}); look at it, and make \
         your change again"
    )]
    PolicyChanged(u64),
    /// The policy has errors, or its tests don't hold.
    #[error("the policy was not saved: {}", first_error(.0))]
    PolicyBroken(Box<Report>),
    /// The address range belongs to another account.
    #[error("the address range overlaps that of account '{0}'; choose another one")]
    RangeTaken(DeviceName),
    /// The e-mail address belongs to another user.
    #[error("there is a user with the e-mail address {0} already")]
    EmailTaken(Email),
    /// E-mail address and password don't fit, or there is no such user: nobody is told which.
    #[error("e-mail address or password is wrong")]
    SignInFailed,
    /// The code of the second factor was wrong, used before or too old.
    #[error("the code is wrong or was used already; wait for the next one")]
    CodeWrong,
    /// Whatever was begun took too long: it must be begun anew.
    #[error("this took too long; begin again")]
    TookTooLong,
    /// The user is suspended.
    #[error("this user is suspended; ask an operator of the broker")]
    UserSuspended,
    /// The one-time link is unknown, was used or has expired.
    #[error("this link was used already or has expired; ask for a new one")]
    LinkInvalid,
    /// The account would be left without an owner.
    #[error("an account needs an owner; make somebody else an owner first")]
    LastOwner,
    /// The broker would be left without an operator.
    #[error("the broker needs an operator; make somebody else an operator first")]
    LastOperator,
    /// No user has this identity, and nothing lets him become one.
    #[error(
        "no user here belongs to this identity, and nobody has invited it; ask an owner of your \
         account for an invitation"
    )]
    IdentityUnknown,
    /// The user with the identity's e-mail address has not linked it, and he alone may.
    #[error(
        "there is a user with your e-mail address who has not linked this identity; sign in as he \
         does otherwise, and link it in your profile"
    )]
    IdentityNotLinked,
}

impl Refused {
    /// The reason as programs see it.
    pub fn code(&self) -> ErrorCode {
        match self {
            Self::JoinKeyUnknown => ErrorCode::JoinKeyUnknown,
            Self::JoinKeyUsed => ErrorCode::JoinKeyUsed,
            Self::JoinKeyExpired => ErrorCode::JoinKeyExpired,
            Self::ProofFailed | Self::ChallengeExpired => ErrorCode::ProofFailed,
            Self::Revoked => ErrorCode::Revoked,
            Self::UpgradeRequired => ErrorCode::UpgradeRequired,
            Self::AccountFull | Self::TooManyPeople => ErrorCode::AccountFull,
            Self::RateLimited => ErrorCode::RateLimited,
            Self::Invalid(_)
            | Self::InvalidRange(_)
            | Self::PolicyBroken(_)
            | Self::EdgeInvalid(_) => ErrorCode::Invalid,
            Self::NotFound(_) | Self::PeerOffline | Self::NoRelay(_) => ErrorCode::NotFound,
            Self::AmbiguousRelay(_) | Self::PolicyChanged(_) => ErrorCode::Conflict,
            Self::NameTaken(_)
            | Self::RangeTaken(_)
            | Self::Conflict(_)
            | Self::EdgeConflict(_)
            | Self::EmailTaken(_)
            | Self::LastOwner
            | Self::LastOperator => ErrorCode::Conflict,
            Self::SignInFailed
            | Self::CodeWrong
            | Self::TookTooLong
            | Self::IdentityUnknown
            | Self::IdentityNotLinked => ErrorCode::SignInFailed,
            Self::UserSuspended | Self::AccountSuspended => ErrorCode::Suspended,
            Self::NotYourDevice | Self::Forbidden => ErrorCode::Forbidden,
            Self::LinkInvalid => ErrorCode::LinkInvalid,
        }
    }
}

fn first_error(report: &Report) -> String {
    let error = report.problems.iter().find(|problem| problem.severity == Severity::Error);
    error.map_or_else(String::new, |error| {
        format!("line {}, column {}: {}", error.line, error.column, error.message)
    })
}

use warren_control::ControlError;
use warren_proto::ErrorCode;

use crate::local::{FailureCode, HealthCode};

/// How failures to reach the broker are named to this device's user.
pub(crate) trait Named {
    /// How the local socket names this failure.
    fn failure(&self) -> FailureCode;
    /// How `health` names this failure of a session.
    fn health(&self) -> HealthCode;
}

impl Named for ControlError {
    fn failure(&self) -> FailureCode {
        match self {
            Self::WrongPin { .. } => FailureCode::WrongPin,
            Self::Refused(_) | Self::Url(_) => FailureCode::JoinRefused,
            Self::Resolve { .. }
            | Self::Connect { .. }
            | Self::Tls { .. }
            | Self::Http(_)
            | Self::Protocol(_)
            | Self::Timeout(_)
            | Self::Silent(_)
            | Self::Ended
            | Self::NetworkChanged => FailureCode::BrokerAway,
        }
    }

    fn health(&self) -> HealthCode {
        match self {
            Self::WrongPin { .. } => HealthCode::WrongPin,
            Self::Refused(problem) if problem.code == ErrorCode::UpgradeRequired => {
                HealthCode::UpgradeRequired
            }
            Self::Refused(_)
            | Self::Url(_)
            | Self::Resolve { .. }
            | Self::Connect { .. }
            | Self::Tls { .. }
            | Self::Http(_)
            | Self::Protocol(_)
            | Self::Timeout(_)
            | Self::Silent(_)
            | Self::Ended
            | Self::NetworkChanged => HealthCode::BrokerAway,
        }
    }
}

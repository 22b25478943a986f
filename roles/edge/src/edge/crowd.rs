//! Who of the mesh has too many connections.

use std::time::Duration;

use tokio::time::Instant;

use super::Engine;
use super::sight::Sight;
use crate::kernel::bounds;
use crate::kernel::resolve::Way;
use crate::problem::Problem;

/// How long it is told of after the last refusal.
const TOLD: Duration = Duration::from_secs(60);

/// What was refused so far.
#[derive(Debug, Default)]
pub(super) struct Crowd {
    refused: u64,
    told: Option<(Problem, Instant)>,
}

impl Engine {
    /// Who is refused new connections, if somebody is.
    pub(super) async fn crowd(&mut self) -> Option<Problem> {
        let (refused, share) = self.path.as_mut()?.refused().ok()?;
        let now = Instant::now();
        // A new table counts from zero.
        let seen = if refused < self.crowd.refused { 0 } else { self.crowd.refused };
        self.crowd.refused = refused;
        if refused > seen
            && let Some(problem) = self.busiest(share).await
        {
            self.crowd.told = Some((problem, now));
        }
        self.crowd.told.take_if(|(_, since)| *since + TOLD <= now);
        self.crowd.told.as_ref().map(|(problem, _)| problem.clone())
    }

    async fn busiest(&self, share: u32) -> Option<Problem> {
        let counts = bounds::busiest().await.ok()?;
        let mut sight = Sight::look(&self.config.mesh_interface).ok()?;
        let (by, held) = counts.into_iter().find(|(by, _)| sight.way(*by) == Way::Mesh)?;
        Some(Problem::TooMany { by, held, share })
    }
}

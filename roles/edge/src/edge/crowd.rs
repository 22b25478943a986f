//! Who of the mesh has too many connections.

use std::net::Ipv4Addr;
use std::time::Duration;

use tokio::time::Instant;

use super::Engine;
use super::sight::Sight;
use crate::kernel::bounds::{self, PARTS, Shares, part_of};
use crate::kernel::resolve::Way;
use crate::problem::Problem;

/// How long it is told of after the last refusal.
const TOLD: Duration = Duration::from_secs(60);

/// So many of those that have the most tell which part of the mesh is full.
const ENOUGH: usize = 256;

/// What was refused so far, to single ones and to parts of the mesh.
#[derive(Debug, Default)]
pub(super) struct Crowd {
    refused: (u64, u64),
    told: Option<(Problem, Instant)>,
}

impl Engine {
    /// Who is refused new connections, if somebody is.
    pub(super) async fn crowd(&mut self) -> Option<Problem> {
        let refused = self.path.as_mut()?.refused().ok()?;
        let now = Instant::now();
        // A new table counts from zero.
        let more = |count, before| if count < before { count > 0 } else { count > before };
        let before = std::mem::replace(&mut self.crowd.refused, (refused.to_one, refused.to_part));
        let of_part = more(refused.to_part, before.1);
        if (of_part || more(refused.to_one, before.0))
            && let Some(shares) = refused.shares
            && let Some(problem) = self.busiest(shares, of_part).await
        {
            self.crowd.told = Some((problem, now));
        }
        self.crowd.told.take_if(|(_, since)| *since + TOLD <= now);
        self.crowd.told.as_ref().map(|(problem, _)| problem.clone())
    }

    async fn busiest(&self, shares: Shares, of_part: bool) -> Option<Problem> {
        let counts = bounds::busiest().await.ok()?;
        let mut sight = Sight::look(&self.config.mesh_interface).ok()?;
        let mut of_mesh = counts.into_iter().filter(|(by, _)| sight.way(*by) == Way::Mesh);
        if !of_part {
            // By IPv6 others may have been refused, and nobody is to be blamed for them.
            let (by, held) = of_mesh.next().filter(|(_, held)| *held >= shares.one / 2)?;
            return Some(Problem::TooMany { by, held, share: shares.one });
        }
        let of_mesh: Vec<(Ipv4Addr, u32)> = of_mesh.take(ENOUGH).collect();
        let mut sums = [0; PARTS as usize];
        for (by, held) in &of_mesh {
            sums[usize::from(part_of(*by))] += held;
        }
        let fullest = (0..PARTS)
            .max_by_key(|part| sums[usize::from(*part)])
            .filter(|part| sums[usize::from(*part)] >= shares.part / 2)?;
        let (by, held) = of_mesh.into_iter().find(|(by, _)| part_of(*by) == fullest)?;
        Some(Problem::TooManyTogether { by, held, part: shares.part })
    }
}

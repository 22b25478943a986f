//! Whether all is as it was: the table each second, the LAN and the host each ten.

use std::collections::BTreeSet;

use warren_proto::EdgeDuty;

use super::listeners::{listeners, shadows};
use super::sight::Sight;
use super::{Engine, at_this_hour, targets};
use crate::kernel::path::KernelPath;
use crate::kernel::resolve::{Resolved, resolve};
use crate::problem::Problem;

impl Engine {
    pub(super) async fn look(&mut self, thoroughly: bool) {
        let before = self.path.as_ref().and_then(KernelPath::generation);
        match self.path.as_mut().map(KernelPath::is_touched) {
            // A firewall that begins to drop is told of at once, and so is the end of it.
            Some(Ok(false)) if self.path.as_ref().and_then(KernelPath::generation) != before => {
                self.publish(None).await;
            }
            None | Some(Ok(false)) => {}
            Some(Ok(true)) => {
                tracing::info!("another program has changed the edge's table: it is made anew");
                self.report.send_modify(|report| report.repaired += 1);
                self.apply().await;
            }
            Some(Err(error)) => tracing::debug!(%error, "couldn't look at nftables"),
        }
        if thoroughly {
            self.look_around().await;
        }
    }

    /// Whether the LAN and the host look as they did when the duty was resolved; what doesn't work is seen
    /// anew in any case.
    async fn look_around(&mut self) {
        let Ok(mut sight) = Sight::look(&self.config.mesh_interface) else {
            return;
        };
        self.networks = sight.networks();
        let duty = at_this_hour(self.duty.borrow().as_ref());
        // An interface that was down has no ear any more.
        let (mesh_ipv4, cap) = (self.config.mesh_ipv4, &self.config.cap);
        let listening = self.hearing.listen(sight.interfaces(), &targets(&duty, cap));
        if !self.config.userspace {
            self.ways_back.test(&duty, &self.follower, &self.config);
        }
        let mut sight = sight.with(&self.follower, self.tested_ways());
        let resolved = resolve(&duty, mesh_ipv4, cap, &mut sight);
        if self.is_in_force(&resolved) {
            self.note(&duty, &resolved, listening).await;
            self.publish(None).await;
        } else {
            self.apply().await;
        }
        self.keep_places().await;
    }

    /// Whether that is what was put in force last, on either way.
    fn is_in_force(&self, resolved: &Resolved) -> bool {
        let by_userspace = self.config.userspace || self.fallback.trouble.is_some();
        if by_userspace && self.config.diverter.is_some() {
            return self.fallback.wanted == resolved.opening;
        }
        match &self.path {
            Some(path) => match path.opening() {
                Some(opening) => *opening == resolved.opening && path.is_fitting(&resolved.lan),
                None => resolved.opening.is_empty(),
            },
            // What failed is tried again by itself.
            None => true,
        }
    }

    /// Notes what of the duty can't be opened, or not as it is meant; `listening`: whether its devices can
    /// be followed.
    pub(super) async fn note(
        &mut self,
        duty: &EdgeDuty,
        resolved: &Resolved,
        listening: Result<(), warren_net::Error>,
    ) {
        self.resolved.clone_from(&resolved.problems);
        let listeners = listeners(self.config.mesh_ipv4).await;
        self.resolved.extend(shadows(duty, &resolved.opening, &listeners));
        if let Err(error) = listening {
            self.resolved.insert(Problem::NotFollowing { reason: error.to_string() });
        }
    }

    /// What the kernel lacks, or doesn't do.
    pub(super) fn lacks(&self) -> BTreeSet<Problem> {
        let mut problems = BTreeSet::new();
        let open = self.path.as_ref().filter(|path| path.opening().is_some());
        if open.is_some_and(|path| !path.helps()) {
            problems.insert(Problem::NoHelpers);
        }
        if open.is_some_and(|path| !path.shares()) {
            problems.insert(Problem::NoShares);
        }
        // With a proxy, that is what is told.
        let trouble = self.fallback.trouble.clone().filter(|_| self.config.diverter.is_none());
        problems.extend(trouble.map(|reason| match open {
            Some(_) => Problem::Unchanged { reason },
            None => Problem::Nothing { reason },
        }));
        problems
    }
}

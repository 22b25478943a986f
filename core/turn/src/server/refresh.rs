use std::time::Instant;

use super::allocation::Relayed;
use super::auth::Proven;
use super::expire::Timer;
use super::request::{Refused, Reply};
use super::table::Handle;
use super::{ClientAddr, RelayedPort, Server};
use crate::binding::Family;
use crate::codec::Message;

impl Server {
    /// RFC 8656 §8.2.
    pub(super) fn refresh(
        &mut self,
        reply: &Reply,
        message: &Message<'_>,
        proven: &Proven,
        now: Instant,
    ) -> Result<(), Refused> {
        let handle = self.own_allocation(reply.client(), proven)?;
        let family = message.requested_address_family().map_err(|_| Refused::Code(443))?;
        let relayed = self.table.get(handle).ok_or(Refused::Code(437))?.relayed;
        if family.is_some_and(|family| !has_family(relayed, family)) {
            return Err(Refused::Code(443));
        }
        if message.lifetime() == Some(0) {
            self.end_allocation(handle, relayed, family, now);
            self.succeed(reply, |builder| {
                builder.lifetime(0);
            });
            return Ok(());
        }
        let lifetime = self.granted_lifetime(message);
        let Some(allocation) = self.table.get_mut(handle) else { return Err(Refused::Code(437)) };
        self.timers.remove(allocation.expires, Timer::Allocation(handle));
        allocation.expires = now + lifetime;
        self.timers.set(allocation.expires, Timer::Allocation(handle));
        self.succeed(reply, |builder| {
            builder.lifetime(u32::try_from(lifetime.as_secs()).unwrap_or(u32::MAX));
        });
        Ok(())
    }

    /// Ends an allocation, or only that of one family where it has both.
    fn end_allocation(
        &mut self,
        handle: Handle,
        relayed: Relayed,
        family: Option<Family>,
        now: Instant,
    ) {
        let has_both = Family::ALL.iter().all(|family| relayed.port(*family).is_some());
        match family {
            Some(family) if has_both => {
                if let Some(port) = relayed.port(family) {
                    if let Some(allocation) = self.table.get_mut(handle) {
                        allocation.relayed.set_port(family, None);
                    }
                    self.close_port(RelayedPort { family, port }, now);
                }
            }
            Some(_) | None => self.release(handle, now),
        }
    }

    /// The allocation of a client, if it is the sender's: else 437, or 441.
    pub(super) fn own_allocation(
        &self,
        client: ClientAddr,
        proven: &Proven,
    ) -> Result<Handle, Refused> {
        let handle = self.table.find(client).ok_or(Refused::Code(437))?;
        let allocation = self.table.get(handle).ok_or(Refused::Code(437))?;
        if allocation.opening.is_some() {
            return Err(Refused::Code(437));
        }
        if self.owners.identity(allocation.owner) == Some(&proven.identity) {
            Ok(handle)
        } else {
            Err(Refused::Code(441))
        }
    }
}

fn has_family(relayed: Relayed, family: Family) -> bool {
    match relayed {
        Relayed::Virtual(_) => family == Family::V6,
        Relayed::Ports { .. } => relayed.port(family).is_some(),
    }
}

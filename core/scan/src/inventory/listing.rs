//! The inventory as text, a piece at a time: many thousand devices are never in memory as text, nor is
//! what is known held meanwhile by who writes it down or sends it to somebody slow.

use std::net::IpAddr;
use std::ops::Bound::{Excluded, Unbounded};

use serde::Serialize;

use super::table::{HEAD, line};
use super::{Device, Inventory};

/// A piece is no longer than that and one device.
const PIECE: usize = 32 << 10;
/// The most changes of one piece.
const CHANGES: usize = 512;

/// The devices, and in JSON all of an inventory, in pieces.
#[derive(Debug)]
pub struct Listing {
    form: Form,
    at: At,
}

#[derive(Debug, Clone, Copy)]
enum Form {
    Json,
    Csv,
}

#[derive(Debug, Clone, Copy)]
enum At {
    Begin,
    /// The devices after this one.
    After(Option<IpAddr>),
    /// The changes from this one on.
    Changes(usize),
    End,
}

impl Listing {
    /// As an [`Inventory`] is in JSON, one device to a line.
    pub fn json() -> Self {
        Self { form: Form::Json, at: At::Begin }
    }

    /// A table for spreadsheets (RFC 4180).
    pub fn csv() -> Self {
        Self { form: Form::Csv, at: At::Begin }
    }

    /// The next piece; nothing: that was all. A device that comes, goes or changes between two pieces is
    /// as it is when its turn comes.
    pub fn next(&mut self, inventory: &Inventory) -> Option<Vec<u8>> {
        let mut piece = Vec::new();
        match self.at {
            At::Begin => {
                self.begin(inventory, &mut piece);
                self.at = At::After(None);
            }
            At::After(last) => self.devices(inventory, last, &mut piece),
            At::Changes(from) => self.changes(inventory, from, &mut piece),
            At::End => return None,
        }
        Some(piece)
    }

    fn begin(&self, inventory: &Inventory, piece: &mut Vec<u8>) {
        match self.form {
            Form::Json => {
                piece.push(b'{');
                if let Some(unix) = inventory.scanned_unix {
                    piece.extend(format!("\"scanned_unix\":{unix},").as_bytes());
                }
                piece.extend(b"\"devices\":{");
            }
            Form::Csv => piece.extend(HEAD.as_bytes()),
        }
    }

    fn devices(&mut self, inventory: &Inventory, last: Option<IpAddr>, piece: &mut Vec<u8>) {
        let from = last.map_or(Unbounded, Excluded);
        let mut rest = inventory.devices.range((from, Unbounded));
        let mut is_first = last.is_none();
        while piece.len() < PIECE {
            let Some((ip, device)) = rest.next() else { return self.after_devices(piece) };
            self.device(device, is_first, piece);
            is_first = false;
            self.at = At::After(Some(*ip));
        }
    }

    fn device(&self, device: &Device, is_first: bool, piece: &mut Vec<u8>) {
        match self.form {
            Form::Json => {
                piece.extend(separator(is_first));
                piece.extend(format!("\"{}\":", device.ip).as_bytes());
                json(device, piece);
            }
            Form::Csv => piece.extend(line(device).as_bytes()),
        }
    }

    fn after_devices(&mut self, piece: &mut Vec<u8>) {
        self.at = match self.form {
            Form::Json => {
                piece.extend(b"},\"changes\":[");
                At::Changes(0)
            }
            Form::Csv => At::End,
        };
    }

    fn changes(&mut self, inventory: &Inventory, from: usize, piece: &mut Vec<u8>) {
        let rest = inventory.changes.get(from..).unwrap_or_default();
        for (number, change) in rest.iter().take(CHANGES).enumerate() {
            piece.extend(separator(from + number == 0));
            json(change, piece);
        }
        self.at = At::Changes(from + CHANGES);
        if rest.len() <= CHANGES {
            piece.extend(b"]}");
            self.at = At::End;
        }
    }
}

fn separator(is_first: bool) -> &'static [u8] {
    if is_first { b"\n" } else { b",\n" }
}

fn json(value: &impl Serialize, piece: &mut Vec<u8>) {
    // Writing to memory doesn't fail.
    let _ = serde_json::to_writer(piece, value);
}

#[cfg(test)]
mod tests {
    use super::super::Change;
    use super::*;
    use crate::scan::ScanEvent;

    fn whole(mut listing: Listing, inventory: &Inventory) -> (String, usize) {
        let mut text = Vec::new();
        let mut longest = 0;
        while let Some(piece) = listing.next(inventory) {
            longest = longest.max(piece.len());
            text.extend(piece);
        }
        (String::from_utf8(text).unwrap(), longest)
    }

    fn many(count: u32) -> Inventory {
        let mut inventory = Inventory::default();
        for number in 0..count {
            let ip = std::net::Ipv4Addr::from_bits(0x0a00_0000 + number);
            inventory.take(ScanEvent::Device { ip, mac: None, rtt: None }, 7);
            inventory.changes.push(Change::New { ip: ip.into() });
        }
        inventory
    }

    #[test]
    fn all_pieces_together_are_the_inventory() {
        for (count, scanned_unix) in [(0, None), (1, Some(9)), (1024, None), (5000, Some(9))] {
            let inventory = Inventory { scanned_unix, ..many(count) };
            let (json, longest) = whole(Listing::json(), &inventory);
            assert_eq!(serde_json::from_str::<Inventory>(&json).unwrap(), inventory);
            assert_eq!(
                json.replace('\n', ""),
                serde_json::to_string(&inventory).unwrap(),
                "but for the ends of lines"
            );
            assert!(longest < PIECE + 1024, "{longest}");
            let (csv, longest) = whole(Listing::csv(), &inventory);
            assert!(csv == inventory.to_csv() && longest < PIECE + 1024);
        }
    }

    #[test]
    fn what_changes_meanwhile_breaks_nothing() {
        let mut inventory = many(5000);
        let mut listing = Listing::json();
        let mut text = Vec::new();
        while let Some(piece) = listing.next(&inventory) {
            text.extend(piece);
            inventory.devices.pop_last();
            inventory.devices.pop_first();
            inventory.changes.truncate(700);
        }
        let read: Inventory = serde_json::from_slice(&text).unwrap();
        assert!(read.devices.len() > 4900 && read.changes.len() == 700, "{}", read.devices.len());
    }
}

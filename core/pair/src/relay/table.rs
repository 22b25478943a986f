use super::seat::{Pair, PairIndex};

/// Pairs in slots that are used again; an index with its generation means one pair for ever.
#[derive(Debug, Default)]
pub(super) struct Table {
    slots: Vec<Slot>,
    free: Vec<PairIndex>,
}

#[derive(Debug)]
struct Slot {
    generation: u32,
    pair: Option<Pair>,
}

impl Table {
    pub(super) fn len(&self) -> usize {
        self.slots.len() - self.free.len()
    }

    pub(super) fn insert(&mut self, pair: Pair) -> PairIndex {
        if let Some(index) = self.free.pop() {
            self.slots[index.0 as usize].pair = Some(pair);
            return index;
        }
        self.slots.push(Slot { generation: 0, pair: Some(pair) });
        PairIndex((self.slots.len() - 1) as u32)
    }

    pub(super) fn remove(&mut self, index: PairIndex) -> Option<Pair> {
        let slot = self.slots.get_mut(index.0 as usize)?;
        let pair = slot.pair.take()?;
        slot.generation = slot.generation.wrapping_add(1);
        self.free.push(index);
        Some(pair)
    }

    pub(super) fn pair(&self, index: PairIndex) -> Option<&Pair> {
        self.slots.get(index.0 as usize)?.pair.as_ref()
    }

    pub(super) fn pair_mut(&mut self, index: PairIndex) -> Option<&mut Pair> {
        self.slots.get_mut(index.0 as usize)?.pair.as_mut()
    }

    pub(super) fn generation(&self, index: PairIndex) -> u32 {
        self.slots.get(index.0 as usize).map_or(0, |slot| slot.generation)
    }

    /// The pairs whose second seat is empty, in the order of their slots.
    pub(super) fn waiting(&self) -> Vec<PairIndex> {
        let waits = |slot: &Slot| slot.pair.as_ref().is_some_and(|pair| pair.second.is_none());
        let indices = (0..self.slots.len()).filter(|&index| waits(&self.slots[index]));
        indices.map(|index| PairIndex(index as u32)).collect()
    }
}

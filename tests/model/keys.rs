//! One who removes a key slot, after adding another if that is to replace it.

use super::explore::Choices;
use super::rules::{Break, Rules};
use super::world::{Kind, Names, Set, World, members, one};

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum At {
    Add,
    Mark,
    Settle,
    Settled,
    ListMarkers,
    ListSlots,
    Decide,
    Delete,
    DeletedSettles,
    DeletedSettled,
    RemoveMarker,
    Ended,
}

#[derive(Debug, Clone, Hash)]
pub(crate) struct KeyRemove {
    me: u8,
    at: At,
    slot: u8,
    /// The slots that it opened.
    opened: Set,
    marked: Set,
    slots: Set,
    settling: Names,
}

impl KeyRemove {
    pub(crate) fn new(me: u8, slot: u8, opened: u8) -> Self {
        let at = At::Mark;
        Self { me, at, slot, opened: one(opened), marked: 0, slots: 0, settling: Names::default() }
    }

    /// Puts the slot that it opens, then removes the other: a changed passphrase.
    pub(crate) fn replacing(self) -> Self {
        Self { at: At::Add, ..self }
    }

    pub(crate) fn has_ended(&self) -> bool {
        self.at == At::Ended
    }

    pub(crate) fn step(&mut self, world: &mut World, rules: &Rules, choices: &mut Choices) -> String {
        let at = self.at;
        let slots_first = rules.breaks(Break::KeySlotsFirst);
        let first = if slots_first { At::ListSlots } else { At::ListMarkers };
        self.at = match at {
            At::Add => {
                members(self.opened).for_each(|slot| world.put(Kind::Slot, slot));
                At::Mark
            }
            At::Mark if rules.breaks(Break::KeyUnmarked) => At::ListSlots,
            At::Mark => {
                world.markers[usize::from(self.me)] = self.slot;
                world.put(Kind::Marker, self.me);
                if rules.lag && !rules.breaks(Break::KeySkipsSettle) { At::Settle } else { first }
            }
            At::Settle | At::DeletedSettles => {
                self.settling = world.names();
                if at == At::Settle { At::Settled } else { At::DeletedSettled }
            }
            At::Settled | At::DeletedSettled => {
                world.settle(&self.settling);
                self.settling = Names::default();
                if at == At::Settled { first } else { At::RemoveMarker }
            }
            At::ListMarkers => {
                let markers = world.read(Kind::Marker, rules, choices);
                let slot = |marker: u8| one(world.markers[usize::from(marker)]);
                self.marked = members(markers).fold(0, |all, marker| all | slot(marker));
                if slots_first { At::Decide } else { At::ListSlots }
            }
            At::ListSlots => {
                self.slots = world.list(Kind::Slot, rules, choices);
                if slots_first { At::ListMarkers } else { At::Decide }
            }
            At::Decide => {
                let stays = self.slots & !self.marked & !one(self.slot) & self.opened;
                (self.slots, self.marked) = (0, 0);
                match () {
                    () if stays == 0 => At::RemoveMarker,
                    () if rules.breaks(Break::KeyMarkerRemovedEarly) => {
                        world.delete(Kind::Marker, self.me);
                        At::Delete
                    }
                    () => At::Delete,
                }
            }
            At::Delete => {
                world.delete(Kind::Slot, self.slot);
                let waits = rules.lag && !rules.breaks(Break::KeyMarkerRemovedUnsettled);
                if waits { At::DeletedSettles } else { At::RemoveMarker }
            }
            At::RemoveMarker => {
                world.delete(Kind::Marker, self.me);
                At::Ended
            }
            At::Ended => At::Ended,
        };
        format!("remove slot {}: {at:?}", self.slot)
    }
}

//! Model of one transaction of `bus::serve`: the device process is killed before every single memory access, up to twice a
//! run, against every interleaving with the CPU process. Requests add to an accumulator; each must count exactly once, and
//! every answer must be the right one.
//!
//! Controls show that the model can fail: a state and a consumer index that are committed one after the other, in either order, and a
//! response that is not committed with them.

use std::collections::HashSet;

/// Order of commit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Commit {
    /// Both in a slot, made current by one exchange of the generation: `bus::serve`.
    Together,
    /// State in place, then the consumer index.
    StateFirst,
    /// Consumer index, then the state in place.
    IndexFirst,
    /// As `Together`, but the response is only published.
    ResponseOutside,
}

/// The last one is answered; those before are posted.
const REQUESTS: u8 = 3;

/// A slot, or for the controls the only copy: accumulator, requests consumed, response to the last of them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
struct Slot {
    sum: u8,
    consumed: u8,
    response: u8,
}

/// What survives a process, word by word as `bus::device` lays it out.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
struct Shared {
    tail: u8,
    head: u8,
    generation: u8,
    slots: [Slot; 2],
    response: u8,
}

/// The device process: gone with a kill.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
struct Device {
    at: u8,
    sum: u8,
    consumed: u8,
    response: u8,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
struct World {
    shared: Shared,
    device: Device,
    kills: u8,
    answer: Option<u8>,
}

/// What request `index` adds: different for each, so that none can stand in for another.
fn value(index: u8) -> u8 {
    1 << (2 * index)
}

fn expected() -> u8 {
    (0..REQUESTS).map(value).sum()
}

struct Model {
    commit: Commit,
    kills: u8,
}

impl Model {
    fn has_slots(&self) -> bool {
        matches!(self.commit, Commit::Together | Commit::ResponseOutside)
    }

    /// One memory access of the device; `None` when it waits.
    fn device(&self, world: &World) -> Option<World> {
        let mut next = world.clone();
        let (shared, device) = (&mut next.shared, &mut next.device);
        let active = usize::from(shared.generation & 1);
        device.at = match device.at {
            // take_up: the committed state.
            0 => {
                let slot = shared.slots[if self.has_slots() { active } else { 0 }];
                (device.sum, device.consumed, device.response) = (slot.sum, slot.consumed, slot.response);
                1
            }
            // finish, repeated by a successor.
            1 => {
                shared.response = device.response;
                2
            }
            2 => {
                shared.head = device.consumed;
                3
            }
            // drain: the chip is called on the next request.
            3 if device.consumed == shared.tail => return None,
            3 => {
                device.sum += value(device.consumed);
                device.response = device.sum;
                device.consumed += 1;
                4
            }
            at => self.commit(at, shared, device),
        };
        Some(next)
    }

    fn commit(&self, at: u8, shared: &mut Shared, device: &Device) -> u8 {
        let spare = usize::from((shared.generation & 1) ^ 1);
        match (self.commit, at) {
            // The slot that is not current, word by word.
            (Commit::Together | Commit::ResponseOutside, 4) => {
                shared.slots[spare].consumed = device.consumed;
                5
            }
            (Commit::Together, 5) => {
                shared.slots[spare].response = device.response;
                6
            }
            (Commit::Together, 6) | (Commit::ResponseOutside, 5) => {
                shared.slots[spare].sum = device.sum;
                7
            }
            (Commit::Together | Commit::ResponseOutside, _) => {
                shared.generation = (shared.generation + 1) % 4;
                1
            }
            // In place; the response with the state.
            (Commit::StateFirst, 4) | (Commit::IndexFirst, 5) => {
                (shared.slots[0].sum, shared.slots[0].response) = (device.sum, device.response);
                if at == 4 { 5 } else { 1 }
            }
            (Commit::StateFirst, _) | (Commit::IndexFirst, _) => {
                shared.slots[0].consumed = device.consumed;
                if at == 4 { 5 } else { 1 }
            }
        }
    }

    /// One memory access of the CPU process.
    fn cpu(&self, world: &World) -> Option<World> {
        let mut next = world.clone();
        if world.shared.tail < REQUESTS {
            next.shared.tail += 1;
        } else if world.answer.is_none() && world.shared.head == REQUESTS {
            next.answer = Some(world.shared.response);
        } else {
            return None;
        }
        Some(next)
    }

    fn kill(&self, world: &World) -> Option<World> {
        let next = World { device: Device::default(), kills: world.kills + 1, ..world.clone() };
        (world.kills < self.kills).then_some(next)
    }

    /// Tries everything; the number of worlds and a wrong ending, if there is one.
    fn explore(&self) -> (usize, Option<World>) {
        let mut seen = HashSet::new();
        let mut open = vec![World::default()];
        let mut wrong = None;
        while let Some(world) = open.pop() {
            if !seen.insert(world.clone()) {
                continue;
            }
            if world.answer.is_some_and(|answer| answer != expected()) {
                wrong = Some(world.clone());
            }
            let (device, cpu) = (self.device(&world), self.cpu(&world));
            if device.is_none() && cpu.is_none() && (world.answer.is_none() || world.device.sum != expected())
            {
                wrong = Some(world.clone());
            }
            // A kill after which nothing runs any more would be no ending: the successor always runs.
            open.extend(device.into_iter().chain(cpu).chain(self.kill(&world)));
        }
        (seen.len(), wrong)
    }
}

#[test]
fn every_request_counts_once_whenever_the_device_is_killed() {
    let (worlds, wrong) = Model { commit: Commit::Together, kills: 2 }.explore();
    assert_eq!(wrong, None);
    assert!(worlds > 300, "only {worlds} worlds were tried");
}

#[test]
fn state_committed_before_the_index_counts_a_request_twice() {
    let (_, wrong) = Model { commit: Commit::StateFirst, kills: 1 }.explore();
    assert!(wrong.expect("the model must find the doubled request").device.sum > expected());
}

#[test]
fn index_committed_before_the_state_loses_a_request() {
    let (_, wrong) = Model { commit: Commit::IndexFirst, kills: 1 }.explore();
    assert!(wrong.expect("the model must find the lost request").device.sum < expected());
}

#[test]
fn response_outside_the_commit_is_lost_with_its_device() {
    let (_, wrong) = Model { commit: Commit::ResponseOutside, kills: 1 }.explore();
    assert!(wrong.expect("the model must find the lost response").answer.expect("an answer") < expected());
}

#[test]
fn without_a_kill_even_a_split_commit_is_right() {
    for commit in [Commit::StateFirst, Commit::IndexFirst, Commit::ResponseOutside] {
        assert_eq!(Model { commit, kills: 0 }.explore().1, None);
    }
}

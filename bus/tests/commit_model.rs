//! Model of one transaction of `bus::serve`: the device process is killed before every single memory access, up to twice a
//! run, against every interleaving with the CPU process. Requests add to an accumulator; each must count exactly once, and
//! every answer must be the right one.
//!
//! Two controls show that the model can fail: a state and a consumer index that are committed one after the other, in either order.

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
}

const REQUESTS: u8 = 3;
/// The last request is answered; the ones before are posted.
const LAST: u8 = REQUESTS - 1;

/// A slot, or for the controls the only copy: accumulator and requests consumed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
struct Slot {
    sum: u8,
    consumed: u8,
}

/// What survives a process, word by word as `bus::device` lays it out.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
struct Shared {
    tail: u8,
    head: u8,
    generation: u8,
    slots: [Slot; 2],
    responses: [u8; REQUESTS as usize],
}

/// The device process: gone with a kill.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
struct Device {
    at: u8,
    sum: u8,
    consumed: u8,
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
    /// One memory access of the device; `None` when it waits.
    fn device(&self, world: &World) -> Option<World> {
        let mut next = world.clone();
        let (shared, device) = (&mut next.shared, &mut next.device);
        let active = usize::from(shared.generation & 1);
        device.at = match device.at {
            // take_up: the committed state.
            0 => {
                let slot = shared.slots[if self.commit == Commit::Together { active } else { 0 }];
                (device.sum, device.consumed) = (slot.sum, slot.consumed);
                1
            }
            // finish, repeated by a successor.
            1 => {
                shared.head = device.consumed;
                2
            }
            // drain: the chip is called on the next request.
            2 if device.consumed == shared.tail => return None,
            2 => {
                device.sum += value(device.consumed);
                3
            }
            3 => {
                shared.responses[usize::from(device.consumed)] = device.sum;
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
            (Commit::Together, 4) => {
                shared.slots[spare].consumed = device.consumed;
                5
            }
            (Commit::Together, 5) => {
                shared.slots[spare].sum = device.sum;
                6
            }
            (Commit::Together, _) => {
                shared.generation = (shared.generation + 1) % 4;
                1
            }
            (Commit::StateFirst, 4) | (Commit::IndexFirst, 5) => {
                shared.slots[0].sum = device.sum;
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
            next.answer = Some(world.shared.responses[usize::from(LAST)]);
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
fn without_a_kill_even_a_split_commit_is_right() {
    for commit in [Commit::StateFirst, Commit::IndexFirst] {
        assert_eq!(Model { commit, kills: 0 }.explore().1, None);
    }
}

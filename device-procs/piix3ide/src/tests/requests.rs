//! Requests across restarts, resets and slow back ends.

use super::*;
use crate::spec::control;
use bulkhead_bus::chip::Chip;
use bulkhead_bus::conformance::Random;

const READY: u8 = status::DRDY | status::DSC;
const TABLE: u32 = 0x8000;

fn srst(pc: &mut Pc) {
    pc.bench.write(1, 0, 1, control::SRST.into());
    assert_eq!(pc.alt(0), status::BSY);
    pc.bench.write(1, 0, 1, 0);
    assert_eq!(pc.alt(0), READY);
}

/// Runs `act` as a process that dies before it commits, then as its successor does: from the state before.
fn twice(pc: &mut Pc, act: impl Fn(&mut Pc)) {
    let before = pc.bench.chip.save();
    act(pc);
    let mut successor = Piix3Ide::new(pc.config.clone());
    successor.restore(&before).expect("own state");
    pc.bench.chip = successor;
    pc.bench.event();
    act(pc);
}

/// Serves everything, each answer being taken twice.
fn drain(pc: &mut Pc) {
    let mut served = 0;
    while pc.serve_one(0) {
        served += 1;
        assert!(served < 1000, "the same requests are made for ever");
        twice(pc, |pc| pc.bench.event());
    }
}

#[test]
fn every_transaction_of_a_transfer_can_be_run_twice() {
    let len = 1300 * 512;
    let entries: Vec<(u32, u32)> = (0..len)
        .step_by(0x1_0000)
        .map(|at| (0x20_0000 + at as u32, (len - at).min(0x1_0000) as u32))
        .collect();
    for (code, go) in
        [(command::READ_DMA_EXT, bm::START | bm::TO_MEMORY), (command::WRITE_DMA_EXT, bm::START)]
    {
        let mut pc = Pc::new();
        let fill = pattern(len, 0x21);
        assert!(pc.bench.ram.write(0x20_0000, &fill));
        pc.table(TABLE, &entries);
        pc.point(0, TABLE);
        pc.lba48(command::NOP, 77, 1300);
        pc.get(0, reg::STATUS);
        twice(&mut pc, |pc| pc.set(0, reg::STATUS, code));
        twice(&mut pc, |pc| pc.bm_command(0, go));
        drain(&mut pc);
        assert_eq!(pc.bm_status(0), bm::INTERRUPT, "{code:#x}");
        let image = pc.images[0][77 * 512..1377 * 512].to_vec();
        assert!(pc.ram(0x20_0000, len) == image, "{code:#x}");
        if code == command::WRITE_DMA_EXT {
            assert!(image == fill);
        }
    }
}

#[test]
fn pio_transactions_can_be_run_twice() {
    let mut pc = Pc::new();
    let data = pattern(600 * 512, 0x31);
    pc.lba48(command::NOP, 9, 600);
    twice(&mut pc, |pc| pc.set(0, reg::STATUS, command::WRITE_SECTORS_EXT));
    for sector in data.chunks(512) {
        twice(&mut pc, |pc| pc.block_out(0, sector));
        drain(&mut pc);
    }
    assert_eq!(pc.get(0, reg::STATUS), READY);
    assert!(pc.images[0][9 * 512..609 * 512] == data[..]);
    twice(&mut pc, |pc| pc.set(0, reg::STATUS, command::READ_SECTORS_EXT));
    let mut got = Vec::new();
    for _ in 0..600 {
        drain(&mut pc);
        // The first run's bytes are lost with its process.
        let before = pc.bench.chip.save();
        pc.block_in(0, 512);
        let mut successor = Piix3Ide::new(pc.config.clone());
        successor.restore(&before).expect("own state");
        pc.bench.chip = successor;
        pc.bench.event();
        got.extend(pc.block_in(0, 512));
    }
    assert!(got == data);
    assert_eq!(pc.alt(0), READY);
}

#[test]
fn state_of_every_phase_is_accepted_by_a_successor() {
    let mut pc = Pc::new();
    let mut phases = std::collections::BTreeSet::new();
    let mut look = |pc: &mut Pc| {
        for drive in pc.bench.chip.save().channels.iter().flat_map(|channel| channel.drives) {
            phases.insert(drive.phase);
        }
        pc.restart();
    };
    let recover = |pc: &mut Pc| {
        srst(pc);
        pc.bench.write(3, 0, 1, control::SRST.into());
        pc.bench.write(3, 0, 1, 0);
        pc.bm_command(0, 0);
        pc.bm_command(1, 0);
    };
    pc.table(TABLE, &[(0x10_0000, 512)]);
    // Four aborted writes leave no slot free for the fifth: it waits for its buffer.
    for round in 0..9 {
        pc.lba28(0, false, command::WRITE_SECTORS, round, 1);
        look(&mut pc);
        pc.block_out(0, &[round as u8; 512]);
        look(&mut pc);
        recover(&mut pc);
    }
    pc.settle();
    for code in [
        command::READ_SECTORS,
        command::READ_DMA,
        command::WRITE_DMA,
        command::FLUSH_CACHE,
        command::IDENTIFY,
        command::SMART,
        command::STANDBY,
    ] {
        for serve in [false, true] {
            for start in [0, bm::START, bm::START | bm::TO_MEMORY] {
                pc.point(0, TABLE);
                pc.bm_command(0, start);
                pc.lba28(0, false, code, 0, 3);
                look(&mut pc);
                if serve {
                    pc.serve_one(0);
                    pc.bench.event();
                    look(&mut pc);
                    pc.block_in(0, 100);
                    look(&mut pc);
                }
                recover(&mut pc);
                look(&mut pc);
                pc.settle();
                look(&mut pc);
            }
        }
    }
    pc.set(1, reg::DEVICE, device::OBSOLETE);
    for features in [0, 1] {
        for packet in [[0x28, 0, 0, 0, 0, 0, 0, 0, 2, 0, 0, 0], [0x12, 0, 0, 0, 36, 0, 0, 0, 0, 0, 0, 0]] {
            pc.set(1, reg::ERROR, features);
            pc.set(1, reg::STATUS, command::PACKET);
            pc.block_out(1, &packet[..6]);
            look(&mut pc);
            pc.block_out(1, &packet[6..]);
            look(&mut pc);
            pc.settle();
            pc.block_in(1, 10);
            look(&mut pc);
            recover(&mut pc);
        }
    }
    let all: Vec<u8> = (0..=crate::state::phase::LAST).collect();
    assert_eq!(phases.into_iter().collect::<Vec<_>>(), all, "every phase was seen");
}

#[test]
fn aborted_write_lands_before_a_later_one_to_the_same_sector() {
    let mut pc = Pc::new();
    pc.lba28(0, false, command::WRITE_SECTORS, 5, 1);
    pc.block_out(0, &[1; 512]);
    srst(&mut pc);
    pc.lba28(0, false, command::WRITE_SECTORS, 5, 1);
    pc.block_out(0, &[2; 512]);
    pc.settle();
    assert_eq!(pc.get(0, reg::STATUS), READY);
    assert_eq!(pc.images[0][5 * 512..6 * 512], [2; 512]);
}

#[test]
fn answer_to_an_aborted_read_is_not_taken_for_a_later_one() {
    let mut pc = Pc::new();
    for sector in 0..20 {
        pc.lba28(0, false, command::READ_SECTORS, sector, 1);
        srst(&mut pc);
    }
    pc.lba28(0, false, command::READ_SECTORS, 99, 1);
    pc.settle();
    assert_eq!(pc.block_in(0, 512), pc.images[0][99 * 512..100 * 512]);
}

#[test]
fn identify_answers_while_the_back_end_is_gone() {
    let mut pc = Pc::new();
    for _ in 0..30 {
        pc.lba28(0, false, command::READ_DMA, 0, 0);
        srst(&mut pc);
        pc.set(0, reg::STATUS, command::IDENTIFY);
        assert_eq!(pc.get(0, reg::STATUS), READY | status::DRQ);
        assert_eq!(pc.block_in(0, 2), [0x40, 0]);
        pc.block_in(0, 510);
    }
}

#[test]
fn machine_reset_with_requests_in_flight_starts_clean() {
    let mut pc = Pc::new();
    pc.lba28(0, false, command::READ_DMA, 0, 0);
    pc.bench.with(|chip, env| chip.reset(env));
    assert!(!pc.irq(0));
    pc.settle();
    assert!(!pc.irq(0), "nobody waits for it any more");
    pc.lba28(0, false, command::READ_SECTORS, 3, 1);
    pc.settle();
    assert_eq!(pc.block_in(0, 512), pc.images[0][3 * 512..4 * 512]);
}

#[test]
fn requests_of_a_lost_state_run_before_those_of_the_new_one() {
    let mut pc = Pc::new();
    for fill in [0, 1, 2, 3] {
        pc.settle();
        pc.lba28(0, false, command::WRITE_SECTORS, 5, 1);
        pc.block_out(0, &[fill; 512]);
    }
    // The last one still waits in the link. What stands beside it is a lie.
    assert!(pc.bench.blocks[0].submit(6, BlockOp::Flush, 0, 0, u64::MAX));
    pc.bench.chip = Piix3Ide::new(pc.config.clone());
    pc.bench.with(Chip::reset);
    pc.lba28(0, false, command::WRITE_SECTORS, 5, 1);
    pc.block_out(0, &[4; 512]);
    pc.settle();
    assert_eq!(pc.get(0, reg::STATUS), READY);
    assert_eq!(pc.images[0][5 * 512..6 * 512], [4; 512]);
    pc.restart();
}

/// A transaction that kills every process is skipped: its requests stay, and the next command has the same numbers.
#[test]
fn request_of_a_skipped_transaction_is_not_taken_for_another_of_its_number() {
    type Act = fn(&mut Pc);
    let read: Act = |pc| pc.lba28(0, false, command::READ_SECTORS, 9, 1);
    let write: Act = |pc| {
        pc.lba28(0, false, command::WRITE_SECTORS, 9, 1);
        pc.settle();
        pc.block_out(0, &[7; 512]);
    };
    for (skipped, served) in [(read, false), (read, true), (write, false)] {
        let mut pc = Pc::new();
        let before = pc.bench.chip.save();
        skipped(&mut pc);
        let successor = |pc: &mut Pc| {
            pc.bench.chip = Piix3Ide::new(pc.config.clone());
            pc.bench.chip.restore(&before).expect("own state");
        };
        successor(&mut pc);
        pc.lba28(0, false, command::READ_SECTORS, 20, 1);
        pc.settle();
        assert_eq!(pc.block_in(0, 512), pc.images[0][20 * 512..21 * 512]);
        skipped(&mut pc);
        successor(&mut pc);
        if served {
            pc.serve_one(0);
        }
        pc.images[0][9 * 512..10 * 512].fill(1);
        write(&mut pc);
        pc.settle();
        assert_eq!(pc.get(0, reg::STATUS), READY);
        assert_eq!(pc.images[0][9 * 512..10 * 512], [7; 512]);
    }
}

/// Random reads and writes by every method, with restarts, aborts and errors between, against a plain array.
#[test]
fn random_transfers_agree_with_a_model() {
    let mut pc = Pc::new();
    let mut model = pc.images[0].clone();
    let mut random = Random::new(7);
    for number in 0..400u32 {
        let most = if random.below(8) == 0 { 700 } else { 20 };
        let count = 1 + random.below(most) as usize;
        let first = random.below((SECTORS - count) as u64) as usize;
        let span = first * 512..(first + count) * 512;
        let (write, dma) = (random.below(2) == 0, random.below(2) == 0);
        let data = pattern(count * 512, number as u8);
        let code = match (write, dma) {
            (false, false) => command::READ_SECTORS_EXT,
            (true, false) => command::WRITE_SECTORS_EXT,
            (false, true) => command::READ_DMA_EXT,
            (true, true) => command::WRITE_DMA_EXT,
        };
        if dma {
            let mut entries = Vec::new();
            let mut at = 0;
            while at < count * 512 {
                let piece = (2 + random.below(0x7fff) as usize * 2).min(count * 512 - at);
                entries.push((0x20_0000 + at as u32, piece as u32));
                at += piece;
            }
            assert!(pc.bench.ram.write(0x20_0000, &data));
            pc.table(TABLE, &entries);
            pc.bm_command(0, 0);
            pc.point(0, TABLE);
        }
        pc.lba48(code, first as u64, count as u16);
        if dma {
            pc.bm_command(0, if write { bm::START } else { bm::START | bm::TO_MEMORY });
        }
        if random.below(4) == 0 {
            pc.restart();
        }
        if random.below(10) == 0 && !write {
            pc.serve_one(0);
            srst(&mut pc);
            continue;
        }
        let mut got = Vec::new();
        for sector in data.chunks(512).filter(|_| !dma) {
            pc.settle();
            if write {
                pc.block_out(0, sector);
            } else {
                got.extend(pc.block_in(0, 512));
            }
        }
        pc.settle();
        assert_eq!(pc.get(0, reg::STATUS), READY, "transfer {number}");
        if write {
            model[span.clone()].copy_from_slice(&data);
        } else {
            let got = if dma { pc.ram(0x20_0000, count * 512) } else { got };
            assert!(got == model[span.clone()], "transfer {number}");
        }
    }
    assert!(model == pc.images[0]);
}

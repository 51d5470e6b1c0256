//! Commands drawn from a seed, on two units, beside a model of what is on them: every answer and every block is the model's.

use std::sync::Arc;

use lusd::lun::backend::Backend;
use lusd::lun::ram::RamStore;
use lusd::lun::unit::Unit;
use lusd_scsi::BlockSize;

use crate::atomic::{MISCOMPARE, sixteen};
use crate::copy::copy;
use crate::gateway::{Gateway, limits};
use crate::initiator::{Answer, Command, Initiator, pattern};

/// Where the commands go: three pieces of a copy, and of the memory below.
const WINDOW: usize = 3 << 20;
const CAPACITY: u64 = 8 << 20;
const STEPS: usize = 400;

/// Of the kind that everybody's `rand` was; the same numbers each time.
struct Dice(u64);

impl Dice {
    fn below(&mut self, n: usize) -> usize {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) as usize % n
    }

    fn one_in(&mut self, n: usize) -> bool {
        self.below(n) == 0
    }

    /// So many bytes; in one of four cases all zeroes.
    fn bytes(&mut self, len: usize) -> Vec<u8> {
        let (first, zeroes) = (self.below(255) + 1, self.one_in(4));
        (0..len).map(|i| if zeroes { 0 } else { (first + i / 3) as u8 }).collect()
    }
}

struct World {
    host: Initiator,
    units: [Arc<Unit>; 2],
    disks: [Vec<u8>; 2],
    block: usize,
    dice: Dice,
}

impl World {
    /// A unit, where in it, and how much, in bytes.
    fn place(&mut self) -> (usize, usize, usize) {
        let (unit, blocks) = (self.dice.below(2), WINDOW / self.block);
        let most = if self.dice.one_in(8) { blocks / 2 } else { 24 };
        let len = 1 + self.dice.below(most.min(200));
        (unit, self.dice.below(blocks - len) * self.block, len * self.block)
    }

    fn command(&self, opcode: u8, flags: u8, at: usize, len: usize, data: Vec<u8>) -> Command {
        let mut command = sixteen(opcode, (at / self.block) as u64, (len / self.block) as u32, data);
        command.cdb[1] |= flags;
        if opcode == 0x9c {
            // TRANSFER LENGTH of WRITE ATOMIC stands two bytes on, in front of GROUP NUMBER: the low half of these four.
            assert_eq!(command.cdb[10..12], [0, 0]);
        }
        let immediate = command.data.len().min(4096);
        command.immediate(immediate)
    }

    fn run(&mut self, unit: usize, command: &Command) -> Answer {
        self.host.run(&command.clone().on(unit as u16))
    }

    fn step(&mut self) {
        let (unit, at, len) = self.place();
        match self.dice.below(11) {
            0 => self.write(unit, at, len, 0x8a),
            1 => self.write(unit, at, len, 0x8e),
            2 => self.read(unit, at, len),
            3 => self.write_same(unit, at, len),
            4 => self.unmap(unit),
            5 => self.compare_and_write(unit, at, len.min(24 * self.block)),
            6 => {
                let data = self.dice.bytes(len);
                self.run(unit, &self.command(0x8b, 0x08, at, len, data.clone())).good();
                self.disks[unit][at..at + len].iter_mut().zip(data).for_each(|(old, new)| *old |= new);
            }
            7 => {
                let data = self.dice.bytes(len);
                self.run(unit, &self.command(0x9c, 0, at, len, data.clone())).good();
                self.disks[unit][at..at + len].copy_from_slice(&data);
            }
            8 => self.verify(unit, at, len),
            _ => self.copy(unit, at, len),
        }
    }

    /// WRITE, or WRITE AND VERIFY, for which the host may have less, or more, than the CDB says.
    fn write(&mut self, unit: usize, at: usize, len: usize, opcode: u8) {
        let has = match self.dice.below(4) {
            0 => self.dice.below(len + 1),
            1 => len + self.dice.below(1024),
            _ => len,
        };
        let data = self.dice.bytes(has);
        let flags = if opcode == 0x8e { 0x02 } else { 0x08 };
        let answer = self.run(unit, &self.command(opcode, flags, at, len, data.clone())).good();
        let written = has.min(len) / self.block * self.block;
        assert_eq!(answer.overflow as usize, len.saturating_sub(has));
        assert_eq!(answer.underflow as usize, has.saturating_sub(len));
        self.disks[unit][at..at + written].copy_from_slice(&data[..written]);
    }

    fn read(&mut self, unit: usize, at: usize, len: usize) {
        let takes = if self.dice.one_in(3) { self.dice.below(2 * len) + 1 } else { len };
        let command = Command { reads: takes as u32, ..self.command(0x88, 0x08, at, len, vec![]) };
        let answer = self.run(unit, &command).good();
        assert!(answer.data == self.disks[unit][at..at + len.min(takes)], "{len} bytes at {at}");
        assert_eq!(answer.overflow as usize, len.saturating_sub(takes));
        assert_eq!(answer.underflow as usize, takes.saturating_sub(len));
    }

    fn write_same(&mut self, unit: usize, at: usize, len: usize) {
        let (block, flags) = (self.dice.bytes(self.block), [0, 0x08][self.dice.below(2)]);
        let no_data = self.dice.one_in(4);
        let command = if no_data {
            self.command(0x93, flags | 0x01, at, len, vec![])
        } else {
            self.command(0x93, flags, at, len, block.clone())
        };
        self.run(unit, &command).good();
        let pattern = if no_data { vec![0; self.block] } else { block };
        self.disks[unit][at..at + len].chunks_mut(self.block).for_each(|b| b.copy_from_slice(&pattern));
    }

    fn unmap(&mut self, unit: usize) {
        let count = self.dice.below(4);
        let mut list = vec![0; 8];
        for _ in 0..count {
            let (_, at, len) = self.place();
            list.extend(((at / self.block) as u64).to_be_bytes());
            list.extend(((len / self.block) as u32).to_be_bytes());
            list.extend([0; 4]);
            self.disks[unit][at..at + len].fill(0);
        }
        (list[1], list[3]) = (6 + 16 * count as u8, 16 * count as u8);
        let mut command = Command { data: list, ..Command::new(&[0x42]) };
        command.cdb[8] = command.data.len() as u8;
        self.run(unit, &command.all_immediate()).good();
    }

    fn compare_and_write(&mut self, unit: usize, at: usize, len: usize) {
        let (mut data, fresh) = (self.disks[unit][at..at + len].to_vec(), self.dice.bytes(len));
        let differs = self.dice.one_in(2).then(|| self.dice.below(len));
        if let Some(byte) = differs {
            data[byte] ^= 0x10;
        }
        data.extend(&fresh);
        let mut command = self.command(0x89, 0, at, 0, data);
        command.cdb[13] = (len / self.block) as u8;
        let answer = self.run(unit, &command);
        match differs {
            Some(byte) => {
                assert_eq!(answer.code(), MISCOMPARE);
                assert_eq!(answer.sense[3..7], (byte as u32).to_be_bytes());
            }
            None => {
                answer.good();
                self.disks[unit][at..at + len].copy_from_slice(&fresh);
            }
        }
    }

    fn verify(&mut self, unit: usize, at: usize, len: usize) {
        let mut data = self.disks[unit][at..at + len].to_vec();
        let differs = self.dice.one_in(2).then(|| self.dice.below(len));
        if let Some(byte) = differs {
            data[byte] ^= 0x10;
        }
        let answer = self.run(unit, &self.command(0x8f, 0x02, at, len, data));
        match differs {
            Some(byte) => {
                assert_eq!(answer.code(), MISCOMPARE);
                assert_eq!(answer.sense[3..7], (byte as u32).to_be_bytes());
            }
            None => drop(answer.good()),
        }
    }

    /// Often onto itself.
    fn copy(&mut self, from: usize, at: usize, len: usize) {
        let len = if self.dice.one_in(3) { WINDOW / 3 + len } else { len };
        let at = at.min(WINDOW - len);
        let (to, near) = (self.dice.below(2), self.dice.one_in(2));
        let offset = if near {
            let by = self.dice.below(64) * self.block;
            if self.dice.one_in(2) { at.saturating_sub(by) } else { (at + by).min(WINDOW - len) }
        } else {
            self.dice.below((WINDOW - len) / self.block) * self.block
        };
        let block = self.block as u64;
        let segment = ((len / self.block) as u16, at as u64 / block, offset as u64 / block);
        let mut command = copy(&[&self.units[from], &self.units[to]], &[segment]);
        for target in 0..2 {
            command.data[16 + 32 * target + 30] = (self.block >> 8) as u8;
        }
        self.run(0, &command).good();
        let moved = self.disks[from][at..at + len].to_vec();
        self.disks[to][offset..offset + len].copy_from_slice(&moved);
    }

    fn is_the_models(&mut self) {
        for unit in 0..2 {
            let command = Command { reads: WINDOW as u32, ..self.command(0x88, 0, 0, WINDOW, vec![]) };
            let found = self.run(unit, &command).good().data;
            let differs = found.iter().zip(&self.disks[unit]).position(|(found, model)| found != model);
            assert_eq!((differs, found.len()), (None, WINDOW), "unit {unit}");
        }
    }
}

#[test]
fn whatever_is_sent_the_blocks_are_what_the_standards_say() {
    for (block_size, seed) in [(BlockSize::B512, 1), (BlockSize::B512, 2), (BlockSize::B4096, 3)] {
        let gateway = Gateway::start(limits(), 2);
        let unit = || gateway.unit(CAPACITY, block_size, Backend::Ram(RamStore::new(CAPACITY)));
        let units = [unit(), unit()];
        gateway.show(&[(0, &units[0]), (1, &units[1])]);
        let disks = [vec![0; WINDOW], vec![0; WINDOW]];
        let block = block_size.bytes() as usize;
        let mut world = World { host: gateway.session(), units, disks, block, dice: Dice(seed) };
        for unit in 0..2 {
            // Something everywhere, so that nothing goes wrong unseen.
            let data = pattern(unit as u32, WINDOW);
            let fill = world.command(0x8a, 0, 0, WINDOW, data.clone());
            world.run(unit, &fill).good();
            world.disks[unit] = data;
        }
        for step in 0..STEPS {
            world.step();
            if step % 100 == 99 {
                world.is_the_models();
            }
        }
        gateway.memory_is_back();
    }
}

//! Bytes that make no sense, after a login: connections end, the daemon does not.

use crate::gateway::{Gateway, HOST, OTHER_HOST, TARGET, limits, until};
use crate::initiator::{Command, Initiator, Pdu, pattern};

/// Set this to run other bytes, or those of a failure again.
const SEED_VARIABLE: &str = "LUS_TEST_SEED";
const SEED: u64 = 0x1057_9a7a_0bad_cafe;

struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        // xorshift64*.
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    fn below(&mut self, n: u64) -> u64 {
        (self.next() >> 32) % n
    }

    fn one_of<T: Copy>(&mut self, of: &[T]) -> T {
        of[self.below(of.len() as u64) as usize]
    }

    fn bytes(&mut self, len: usize) -> Vec<u8> {
        (0..len).map(|_| self.next() as u8).collect()
    }
}

fn seed() -> u64 {
    let seed = std::env::var(SEED_VARIABLE).ok().map_or(SEED, |text| text.parse().expect("a number"));
    assert_ne!(seed, 0);
    eprintln!("{SEED_VARIABLE}={seed}");
    seed
}

/// Task tags in use: few, so that they meet again.
const TAGS: u64 = 24;

/// A SCSI command, most of which make sense.
fn command(random: &mut Random, noise: &[u8]) -> Pdu {
    const READS: [u8; 10] = [0x03, 0x12, 0x1a, 0x25, 0x28, 0x5a, 0x88, 0x9e, 0xa0, 0xa3];
    const WRITES: [u8; 9] = [0x15, 0x2a, 0x2e, 0x2f, 0x41, 0x42, 0x55, 0x8a, 0x93];
    const OTHERS: [u8; 4] = [0x00, 0x2f, 0x35, 0x8f];
    let (opcode, mut flags) = match random.below(5) {
        0 | 1 => (random.one_of(&READS), 0xc0),
        2 | 3 => (random.one_of(&WRITES), random.one_of(&[0xa0, 0xa0, 0x20])),
        _ => (random.one_of(&OTHERS), 0x80),
    };
    let blocks = random.one_of(&[0, 1, 8, 8, 128, noise[2]]);
    let expected = match random.below(6) {
        0 => random.one_of(&[0, 512, 65_536, 1 << 20, u32::MAX, u32::from(noise[0])]),
        _ => u32::from(blocks) * 512,
    };
    let immediate = random.one_of(&[0, 0, 8, 24, 512, 4096]).min(expected as usize);
    let immediate = if flags & 0x20 != 0 { immediate } else { 0 };
    if random.below(8) == 0 {
        flags ^= noise[1] & 0xe0;
    }
    // Ten bytes with a small address and length; of sixteen bytes it is the address, and the length follows.
    let mut cdb = [opcode, 0, 0, 0, noise[3] & 1, noise[4], 0, 0, blocks, 0, 0, 0, 0, blocks, 0, 0];
    if random.below(6) == 0 {
        cdb[random.below(16) as usize] = noise[5];
    }
    let task_attribute = random.one_of(&[1, 1, 1, 1, 0, 2, 4, 7]);
    Pdu::new(0x01, flags | task_attribute)
        .lun(random.one_of(&[0, 0, 0, 1, 1, 1, 2]))
        .put_u32(16, random.below(TAGS) as u32)
        .put_u32(20, expected)
        .put(32, &cdb)
        .with(&random.bytes(immediate))
}

/// Task management functions, and what is none. TARGET COLD RESET ends the sessions of those who look on, too.
const TMFS: [u8; 10] = [0, 1, 2, 3, 4, 5, 6, 8, 9, 0x7f];

/// A PDU that is right in parts: most of its fields hold what they may hold.
fn pdu(random: &mut Random, cmd_sn: &mut u32) -> Vec<u8> {
    let noise = random.bytes(48);
    let tag = random.below(TAGS) as u32;
    let lun = u16::from(noise[9] & 1);
    let mut pdu = match random.below(24) {
        0..12 => command(random, &noise),
        12..18 => {
            let len = random.one_of(&[512, 512, 4096, 3584, 65_536, usize::from(noise[0])]);
            Pdu::new(0x05, random.one_of(&[0x80, 0x80, 0x00]))
                .lun(lun)
                .put_u32(16, tag)
                .put_u32(20, random.one_of(&[u32::MAX, 0, 1, 2, 3, 4, 5, 6]))
                .put_u32(36, random.one_of(&[0, 0, 0, 1, 2]))
                .put_u32(40, random.one_of(&[0, 0, 512, 4096]))
                .with(&random.bytes(len))
        }
        18..20 => Pdu::new(0x02, 0x80 | random.one_of(&TMFS))
            .lun(lun)
            .put_u32(16, 1000 + tag)
            .put_u32(20, random.below(TAGS) as u32)
            .put_u32(32, *cmd_sn - random.below(4) as u32),
        20..22 => Pdu::new(0x00, 0x80).put_u32(16, 2000 + tag).put_u32(20, u32::MAX),
        22 => Pdu::new(0x04, 0x80).put_u32(16, 3000 + tag).put_u32(20, u32::MAX).with(random.one_of(&[
            b"SendTargets=All\0".as_slice(),
            b"MaxBurstLength=4096\0",
            b"X",
            b"=\0",
        ])),
        _ => match random.below(10) {
            0 => Pdu::new(0x06, 0x80 | random.one_of(&[0, 1, 2, 3])),
            1 => Pdu::new(0x10, 0x80),
            _ => Pdu::new(random.next() as u8 & 0x3f, noise[1]).put(8, &noise[8..24]),
        },
    };
    if random.below(6) == 0 {
        pdu.bhs[0] |= 0x40;
    }
    let numbered = pdu.bhs[0] & 0x40 == 0 && !matches!(pdu.opcode(), 0x05 | 0x10);
    pdu = pdu.put_u32(24, *cmd_sn);
    if numbered && random.below(60) > 0 {
        *cmd_sn += 1;
    }
    let mut bytes = pdu.encode();
    match random.below(100) {
        // Additional headers that are only said to be there.
        0 => bytes[4] = random.below(3) as u8,
        1 | 2 => {
            let at = random.below(bytes.len().min(64) as u64) as usize;
            bytes[at] = random.next() as u8;
        }
        _ => {}
    }
    bytes
}

/// Reads away what there is, so that the target can go on sending.
fn drain(initiator: Initiator) -> std::thread::JoinHandle<()> {
    std::thread::spawn(move || initiator.discard_to_the_end())
}

#[test]
fn the_daemon_outlives_whatever_is_sent_to_it() {
    const CONNECTIONS: u64 = 300;
    let gateway = Gateway::start(limits(), 2);
    let (ram, null) = (gateway.ram(), gateway.null());
    gateway.show(&[(0, &ram), (1, &null)]);
    let mut random = Random(seed());
    let mut drains = Vec::new();
    for i in 0..CONNECTIONS {
        let mut initiator = gateway.connect();
        if i % 3 == 0 {
            // The same place again and again: some are reinstated in the middle of it all.
            initiator.isid = [0x80, 0, 0, 0, 0, 1];
        }
        let keys = random.one_of(&[
            "",
            "InitialR2T=No\0",
            "ImmediateData=No\0",
            "MaxBurstLength=512\0FirstBurstLength=512\0",
        ]);
        let target = if random.below(8) == 0 { "" } else { TARGET };
        initiator.login(random.one_of(&[HOST, OTHER_HOST]), target, keys).unwrap();
        if !target.is_empty() {
            initiator.clear_attentions(0);
            initiator.clear_attentions(1);
        }
        let mut cmd_sn = initiator.cmd_sn;
        let mut bytes = Vec::new();
        for _ in 0..random.below(60) {
            bytes.extend(pdu(&mut random, &mut cmd_sn));
        }
        if random.below(4) == 0 {
            let len = random.below(2000) as usize;
            bytes.extend(random.bytes(len));
        }
        // Cut where it happens to be.
        let step = random.one_of(&[1 << 20, 4096, 1000, 47]);
        let mut handle = initiator.try_clone();
        drains.push(drain(initiator));
        for part in bytes.chunks(step) {
            // The target may have closed by now.
            if handle.send_bytes(part).is_err() {
                break;
            }
        }
        handle.finish();
    }
    for drain in drains {
        drain.join().unwrap();
    }
    until("every connection has ended", || gateway.service.sessions.connections() == 0);
    gateway.memory_is_back();
    for _ in 0..2 {
        let mut host = gateway.session();
        let data = pattern(7, 4096);
        host.run(&Command::write(0, &data)).good();
        assert!(host.run(&Command::read(0, 8)).good().data == data);
    }
    assert_eq!((ram.gate.inside(), null.gate.inside()), (0, 0));
}

#[test]
fn the_daemon_outlives_whatever_is_sent_instead_of_a_login() {
    let gateway = Gateway::start(limits(), 2);
    let mut random = Random(seed());
    let mut drains = Vec::new();
    for _ in 0..100 {
        let mut handle = gateway.connect();
        drains.push(drain(handle.try_clone()));
        let len = random.below(500) as usize;
        let mut bytes = random.bytes(len);
        if random.below(2) == 0 && len > 1 {
            (bytes[0], bytes[1]) = (0x43, random.one_of(&[0x87, 0x81, 0x04, 0x44]));
        }
        let _ = handle.send_bytes(&bytes);
        handle.finish();
    }
    for drain in drains {
        drain.join().unwrap();
    }
    until("every connection has ended", || gateway.service.sessions.connections() == 0);
}

//! A scripted initiator: it sends what it is told, keeps the numbers that initiators keep, and checks those that targets send.

use std::collections::HashMap;
use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};

use crate::gateway::PATIENCE;

const RESERVED: u32 = 0xffff_ffff;

/// Opcodes of a target (RFC 7143 11.1.1).
pub(crate) mod op {
    pub(crate) const NOP_IN: u8 = 0x20;
    pub(crate) const SCSI_RESPONSE: u8 = 0x21;
    pub(crate) const TASK_MANAGEMENT_RESPONSE: u8 = 0x22;
    pub(crate) const LOGIN_RESPONSE: u8 = 0x23;
    pub(crate) const TEXT_RESPONSE: u8 = 0x24;
    pub(crate) const DATA_IN: u8 = 0x25;
    pub(crate) const LOGOUT_RESPONSE: u8 = 0x26;
    pub(crate) const R2T: u8 = 0x31;
    pub(crate) const ASYNC_MESSAGE: u8 = 0x32;
}

/// Task management functions (11.5.1).
pub(crate) mod tmf {
    pub(crate) const ABORT_TASK: u8 = 1;
    pub(crate) const ABORT_TASK_SET: u8 = 2;
    pub(crate) const CLEAR_TASK_SET: u8 = 4;
    pub(crate) const LOGICAL_UNIT_RESET: u8 = 5;
    pub(crate) const TARGET_WARM_RESET: u8 = 6;
    pub(crate) const TARGET_COLD_RESET: u8 = 7;
    pub(crate) const TASK_REASSIGN: u8 = 8;
    /// From here on RFC 7144's.
    pub(crate) const QUERY_TASK: u8 = 9;
    pub(crate) const QUERY_TASK_SET: u8 = 10;
    pub(crate) const I_T_NEXUS_RESET: u8 = 11;
    pub(crate) const QUERY_ASYNCHRONOUS_EVENT: u8 = 12;
}

/// A PDU header with its data.
#[derive(Clone)]
pub(crate) struct Pdu {
    pub bhs: [u8; 48],
    pub data: Vec<u8>,
}

impl std::fmt::Debug for Pdu {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Pdu({:02x?}, {} bytes)", self.bhs, self.data.len())
    }
}

impl Pdu {
    pub(crate) fn new(opcode: u8, flags: u8) -> Self {
        let mut bhs = [0; 48];
        (bhs[0], bhs[1]) = (opcode, flags);
        Self { bhs, data: Vec::new() }
    }

    pub(crate) fn put(mut self, at: usize, bytes: &[u8]) -> Self {
        self.bhs[at..at + bytes.len()].copy_from_slice(bytes);
        self
    }

    pub(crate) fn put_u32(self, at: usize, value: u32) -> Self {
        self.put(at, &value.to_be_bytes())
    }

    pub(crate) fn lun(self, lun: u16) -> Self {
        assert!(lun < 256, "the peripheral device form holds a byte");
        self.put(8, &[0, lun as u8])
    }

    pub(crate) fn with(mut self, data: &[u8]) -> Self {
        self.data = data.to_vec();
        self
    }

    pub(crate) fn opcode(&self) -> u8 {
        self.bhs[0] & 0x3f
    }

    pub(crate) fn u32_at(&self, at: usize) -> u32 {
        u32::from_be_bytes(self.bhs[at..at + 4].try_into().unwrap())
    }

    pub(crate) fn tag(&self) -> u32 {
        self.u32_at(16)
    }

    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut bytes = self.bhs.to_vec();
        bytes[5..8].copy_from_slice(&(self.data.len() as u32).to_be_bytes()[1..]);
        bytes.extend_from_slice(&self.data);
        bytes.resize(bytes.len().next_multiple_of(4), 0);
        bytes
    }

    /// `key=value` pairs of its data.
    pub(crate) fn text(&self) -> Vec<String> {
        let pairs = self.data.split(|byte| *byte == 0).filter(|pair| !pair.is_empty());
        pairs.map(|pair| String::from_utf8(pair.to_vec()).unwrap()).collect()
    }
}

/// How a connection ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Gone {
    /// A FIN.
    Closed,
    /// A RST.
    Reset,
}

/// The answer to a SCSI command.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Answer {
    pub status: u8,
    pub sense: Vec<u8>,
    pub data: Vec<u8>,
    pub underflow: u32,
    pub overflow: u32,
}

impl Answer {
    /// Sense key, ASC and ASCQ of fixed format sense data.
    pub(crate) fn code(&self) -> (u8, u8, u8) {
        assert_eq!((self.status, self.sense[0] & 0x7f), (0x02, 0x70), "{self:?}");
        (self.sense[2] & 0x0f, self.sense[12], self.sense[13])
    }

    #[track_caller]
    pub(crate) fn good(self) -> Self {
        assert_eq!(self.status, 0, "{self:?}");
        self
    }
}

/// A SCSI command to send.
#[derive(Clone, Debug)]
pub(crate) struct Command {
    pub lun: u16,
    pub cdb: [u8; 16],
    /// Bytes that the initiator expects to read.
    pub reads: u32,
    /// What it has to write.
    pub data: Vec<u8>,
    /// The part of it that goes with the command.
    pub immediate: usize,
    /// The part that follows unasked for, after the immediate one.
    pub unsolicited: usize,
    /// Task attribute (11.3.1.1): 1 is SIMPLE.
    pub attribute: u8,
}

fn cdb(bytes: &[u8]) -> [u8; 16] {
    let mut cdb = [0; 16];
    cdb[..bytes.len()].copy_from_slice(bytes);
    cdb
}

/// A command of ten bytes with a logical block address and a length.
fn ten(opcode: u8, lba: u32, blocks: u16) -> [u8; 16] {
    let mut cdb = cdb(&[opcode]);
    cdb[2..6].copy_from_slice(&lba.to_be_bytes());
    cdb[7..9].copy_from_slice(&blocks.to_be_bytes());
    cdb
}

impl Command {
    pub(crate) fn new(bytes: &[u8]) -> Self {
        Self {
            lun: 0,
            cdb: cdb(bytes),
            reads: 0,
            data: Vec::new(),
            immediate: 0,
            unsolicited: 0,
            attribute: 1,
        }
    }

    pub(crate) fn test_unit_ready() -> Self {
        Self::new(&[0x00])
    }

    /// READ (10) of blocks of 512 bytes.
    pub(crate) fn read(lba: u32, blocks: u16) -> Self {
        Self { cdb: ten(0x28, lba, blocks), reads: u32::from(blocks) * 512, ..Self::new(&[]) }
    }

    /// WRITE (10) of blocks of 512 bytes, all data by R2T.
    pub(crate) fn write(lba: u32, data: &[u8]) -> Self {
        assert!(data.len().is_multiple_of(512));
        Self { cdb: ten(0x2a, lba, (data.len() / 512) as u16), data: data.to_vec(), ..Self::new(&[]) }
    }

    /// The CDB of WRITE (10), for data of another length than it says.
    pub(crate) fn write_cdb(lba: u32, blocks: u16) -> [u8; 16] {
        ten(0x2a, lba, blocks)
    }

    /// WRITE SAME (10) of one block.
    pub(crate) fn write_same(lba: u32, blocks: u16, block: &[u8]) -> Self {
        Self { cdb: ten(0x41, lba, blocks), data: block.to_vec(), ..Self::new(&[]) }.all_immediate()
    }

    pub(crate) fn on(self, lun: u16) -> Self {
        Self { lun, ..self }
    }

    pub(crate) fn ordered(self) -> Self {
        Self { attribute: 2, ..self }
    }

    pub(crate) fn head_of_queue(self) -> Self {
        Self { attribute: 3, ..self }
    }

    pub(crate) fn immediate(self, immediate: usize) -> Self {
        Self { immediate, ..self }
    }

    pub(crate) fn all_immediate(self) -> Self {
        let len = self.data.len();
        self.immediate(len)
    }
}

pub(crate) struct Initiator {
    pub stream: TcpStream,
    pub received: Vec<u8>,
    pub isid: [u8; 6],
    /// 0: a new session.
    pub tsih: u16,
    pub cid: u16,
    pub cmd_sn: u32,
    exp_stat_sn: Option<u32>,
    max_cmd_sn: u32,
    next_tag: u32,
    /// MaxBurstLength as agreed.
    pub max_burst: u32,
    /// Data of writes in progress, by task tag.
    writes: HashMap<u32, (u16, Vec<u8>)>,
    /// Data-In so far, by task tag.
    reads: HashMap<u32, Vec<u8>>,
    answers: HashMap<u32, Answer>,
    /// R2Ts are answered as they come; otherwise they are kept here.
    pub answers_r2t: bool,
    pub r2ts: Vec<Pdu>,
    /// Pings of the target are answered as they come.
    pub answers_pings: bool,
    /// Asynchronous messages with SCSI events, as they came.
    pub scsi_events: Vec<Pdu>,
}

impl Initiator {
    pub(crate) fn connect(address: SocketAddr) -> Self {
        let stream = TcpStream::connect(address).unwrap();
        stream.set_nodelay(true).unwrap();
        Self::over(stream)
    }

    pub(crate) fn over(stream: TcpStream) -> Self {
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream.set_write_timeout(Some(PATIENCE)).unwrap();
        // A port of the machine's own choice is a good enough ISID.
        let [high, low] = stream.local_addr().unwrap().port().to_be_bytes();
        Self {
            stream,
            received: Vec::new(),
            isid: [0x80, 0, 0, 0, high, low],
            tsih: 0,
            cid: 0,
            cmd_sn: 0x1000,
            exp_stat_sn: None,
            max_cmd_sn: 0,
            next_tag: 1,
            max_burst: 262_144,
            writes: HashMap::new(),
            reads: HashMap::new(),
            answers: HashMap::new(),
            answers_r2t: true,
            r2ts: Vec::new(),
            answers_pings: true,
            scsi_events: Vec::new(),
        }
    }

    /// At most so many bytes wait in the receive buffer of the socket, more or less.
    pub(crate) fn receive_little(&self) {
        socket2::SockRef::from(&self.stream).set_recv_buffer_size(4096).unwrap();
    }

    /// The next task tag.
    pub(crate) fn tag(&mut self) -> u32 {
        self.next_tag += 1;
        self.next_tag
    }

    // ---- PDUs

    pub(crate) fn send_bytes(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.stream.write_all(bytes)
    }

    pub(crate) fn send(&mut self, pdu: &Pdu) {
        self.send_bytes(&pdu.encode()).unwrap();
    }

    /// The next PDU, or how the connection ended.
    pub(crate) fn receive(&mut self) -> Result<Pdu, Gone> {
        self.fill(48)?;
        let bhs: [u8; 48] = self.received[..48].try_into().unwrap();
        assert_eq!(bhs[4], 0, "targets send no additional headers");
        let len = u32::from_be_bytes([0, bhs[5], bhs[6], bhs[7]]) as usize;
        let whole = 48 + len.next_multiple_of(4);
        self.fill(whole)?;
        let data = self.received[48..48 + len].to_vec();
        self.received.drain(..whole);
        let pdu = Pdu { bhs, data };
        self.check_numbers(&pdu);
        Ok(pdu)
    }

    fn fill(&mut self, len: usize) -> Result<(), Gone> {
        let mut chunk = vec![0; 64 << 10];
        while self.received.len() < len {
            match self.stream.read(&mut chunk) {
                Ok(0) => {
                    assert!(self.received.is_empty(), "closed in the middle of a PDU");
                    return Err(Gone::Closed);
                }
                Ok(n) => self.received.extend_from_slice(&chunk[..n]),
                Err(err) if err.kind() == io::ErrorKind::ConnectionReset => return Err(Gone::Reset),
                // The reset was told to an earlier write.
                Err(err) if err.kind() == io::ErrorKind::BrokenPipe => return Err(Gone::Reset),
                Err(err) if err.kind() == io::ErrorKind::Interrupted => {}
                Err(err) => panic!("waited in vain for the target: {err}"),
            }
        }
        Ok(())
    }

    /// StatSN counts what has a status (RFC 7143 4.2.2.2); the command window does not go back.
    fn check_numbers(&mut self, pdu: &Pdu) {
        let stat_sn = pdu.u32_at(24);
        let numbered = match pdu.opcode() {
            op::R2T => false,
            op::DATA_IN => pdu.bhs[1] & 1 != 0,
            op::NOP_IN => pdu.tag() != RESERVED,
            _ => true,
        };
        if numbered {
            let expected = self.exp_stat_sn.unwrap_or(stat_sn);
            assert_eq!(stat_sn, expected, "StatSN of {pdu:?}");
            self.exp_stat_sn = Some(stat_sn.wrapping_add(1));
        }
        let max_cmd_sn = pdu.u32_at(32);
        assert!(max_cmd_sn >= self.max_cmd_sn, "MaxCmdSN of {pdu:?}");
        self.max_cmd_sn = max_cmd_sn;
        assert!(pdu.u32_at(28) <= self.cmd_sn, "ExpCmdSN of {pdu:?}");
    }

    /// The next StatSN.
    pub(crate) fn exp_stat_sn(&self) -> u32 {
        self.exp_stat_sn.unwrap_or(0)
    }

    /// The last MaxCmdSN.
    pub(crate) fn max_cmd_sn(&self) -> u32 {
        self.max_cmd_sn
    }

    /// Reads to the end of the connection; there must be no PDU before it.
    #[track_caller]
    pub(crate) fn end(&mut self) -> Gone {
        match self.receive() {
            Ok(pdu) => panic!("{pdu:?} instead of the end"),
            Err(gone) => gone,
        }
    }

    /// Reads to the end of a connection that is dropped in order, which is said before it (RFC 7143 11.9.1).
    #[track_caller]
    pub(crate) fn is_dropped(&mut self) {
        const ALL_CONNECTIONS_OF_THE_SESSION: u8 = 3;
        let told = self.other(op::ASYNC_MESSAGE);
        assert_eq!(told.bhs[36], ALL_CONNECTIONS_OF_THE_SESSION, "{told:?}");
        assert_eq!(self.end(), Gone::Closed);
    }

    /// Reads and forgets, without a look at what it is.
    pub(crate) fn receive_to_the_end(&mut self) -> Result<(), Gone> {
        self.received.clear();
        self.fill(1)
    }

    /// As [`Initiator::receive_to_the_end`], over and over, to whatever end.
    pub(crate) fn discard_to_the_end(mut self) {
        while self.receive_to_the_end().is_ok() {}
    }

    /// Another end of the same socket.
    pub(crate) fn try_clone(&self) -> Self {
        Self { cmd_sn: self.cmd_sn, ..Self::over(self.stream.try_clone().unwrap()) }
    }

    /// Sends a FIN.
    pub(crate) fn finish(&mut self) {
        // The target may have closed by now.
        let _ = self.stream.shutdown(std::net::Shutdown::Write);
    }

    // ---- login, text, logout

    /// Status class and detail of the last response.
    pub(crate) fn login(&mut self, host: &str, target: &str, keys: &str) -> Result<Vec<String>, (u8, u8)> {
        let session = if target.is_empty() {
            "SessionType=Discovery".to_owned()
        } else {
            format!("TargetName={target}")
        };
        self.send_login(&format!("InitiatorName={host}\0{session}\0{keys}"));
        self.login_answer()
    }

    /// One request of a login in several: its flags and text; gives the answer's text, or its status.
    pub(crate) fn login_step(&mut self, flags: u8, text: &str) -> Result<Vec<String>, (u8, u8)> {
        self.send_login_with(flags, text);
        let answer = self.receive().expect("an answer to the login");
        assert_eq!(answer.opcode(), op::LOGIN_RESPONSE);
        match (answer.bhs[36], answer.bhs[37]) {
            (0, 0) => {
                assert_eq!(answer.bhs[1], flags, "the stage is what was asked for");
                Ok(answer.text())
            }
            status => Err(status),
        }
    }

    pub(crate) fn send_login(&mut self, text: &str) {
        self.send_login_with(0x80 | 1 << 2 | 3, text);
    }

    fn send_login_with(&mut self, flags: u8, text: &str) {
        let pdu = Pdu::new(0x43, flags)
            .put(8, &self.isid)
            .put(14, &self.tsih.to_be_bytes())
            .put(20, &self.cid.to_be_bytes())
            .put_u32(24, self.cmd_sn)
            .with(text.as_bytes());
        self.send(&pdu);
    }

    pub(crate) fn login_answer(&mut self) -> Result<Vec<String>, (u8, u8)> {
        let answer = self.receive().expect("an answer to the login");
        assert_eq!(answer.opcode(), op::LOGIN_RESPONSE);
        if answer.bhs[36] != 0 {
            return Err((answer.bhs[36], answer.bhs[37]));
        }
        assert_eq!(answer.bhs[1], 0x80 | 1 << 2 | 3, "the login is done with one request");
        assert_ne!(answer.bhs[14..16], [0, 0], "TSIH");
        self.tsih = u16::from_be_bytes([answer.bhs[14], answer.bhs[15]]);
        let text = answer.text();
        if let Some(value) = text.iter().find_map(|pair| pair.strip_prefix("MaxBurstLength=")) {
            // In a discovery session it is Irrelevant.
            self.max_burst = value.parse().unwrap_or(self.max_burst);
        }
        Ok(text)
    }

    /// What SendTargets says of `value`.
    pub(crate) fn send_targets(&mut self, value: &str) -> Vec<String> {
        let tag = self.tag();
        let pdu = Pdu::new(0x04, 0x80)
            .put_u32(16, tag)
            .put_u32(20, RESERVED)
            .put_u32(24, self.cmd_sn)
            .put_u32(28, self.exp_stat_sn())
            .with(format!("SendTargets={value}\0").as_bytes());
        self.cmd_sn += 1;
        self.send(&pdu);
        let answer = self.receive().unwrap();
        assert_eq!(
            (answer.opcode(), answer.tag(), answer.bhs[1]),
            (op::TEXT_RESPONSE, tag, 0x80),
            "{answer:?}"
        );
        answer.text()
    }

    /// Asks to close the session; the next PDU must be the answer.
    pub(crate) fn logout(&mut self) {
        let tag = self.tag();
        let pdu =
            Pdu::new(0x46, 0x80).put_u32(16, tag).put_u32(24, self.cmd_sn).put_u32(28, self.exp_stat_sn());
        self.send(&pdu);
        let answer = self.receive().unwrap();
        assert_eq!(
            (answer.opcode(), answer.tag(), answer.bhs[2]),
            (op::LOGOUT_RESPONSE, tag, 0),
            "{answer:?}"
        );
    }

    // ---- commands

    /// Sends a command with its unasked data; returns its task tag.
    pub(crate) fn submit(&mut self, command: &Command) -> u32 {
        let tag = self.submit_without_unsolicited(command);
        if command.unsolicited > 0 {
            self.send_unsolicited(tag, command);
        }
        tag
    }

    /// What [`Initiator::submit_without_unsolicited`] has left.
    pub(crate) fn send_unsolicited(&mut self, tag: u32, command: &Command) {
        self.send_data(tag, RESERVED, command.immediate, command.unsolicited);
    }

    /// Sends a command with its immediate data; returns its task tag.
    pub(crate) fn submit_without_unsolicited(&mut self, command: &Command) -> u32 {
        let tag = self.tag();
        let writes = !command.data.is_empty();
        let expected = if writes { command.data.len() as u32 } else { command.reads };
        let mut flags = command.attribute;
        flags |= if command.unsolicited == 0 { 0x80 } else { 0 };
        flags |= if command.reads > 0 { 0x40 } else { 0 };
        flags |= if writes { 0x20 } else { 0 };
        let pdu = Pdu::new(0x01, flags)
            .lun(command.lun)
            .put_u32(16, tag)
            .put_u32(20, expected)
            .put_u32(24, self.cmd_sn)
            .put_u32(28, self.exp_stat_sn())
            .put(32, &command.cdb)
            .with(&command.data[..command.immediate]);
        self.cmd_sn += 1;
        self.send(&pdu);
        if writes {
            self.writes.insert(tag, (command.lun, command.data.clone()));
        }
        tag
    }

    /// One sequence of Data-Out PDUs.
    fn send_data(&mut self, tag: u32, target_transfer_tag: u32, offset: usize, len: usize) {
        /// Odd in every way that is allowed.
        const STEP: usize = 20_004;
        let (lun, data) = self.writes.get(&tag).cloned().unwrap_or_else(|| panic!("no write {tag}"));
        for (i, part) in data[offset..offset + len].chunks(STEP).enumerate() {
            let at = i * STEP;
            let pdu = Pdu::new(0x05, if at + part.len() == len { 0x80 } else { 0 })
                .lun(lun)
                .put_u32(16, tag)
                .put_u32(20, target_transfer_tag)
                .put_u32(28, self.exp_stat_sn())
                .put_u32(36, i as u32)
                .put_u32(40, (offset + at) as u32)
                .with(part);
            self.send(&pdu);
        }
    }

    pub(crate) fn answer_r2t(&mut self, r2t: &Pdu) {
        let (offset, len) = (r2t.u32_at(40), r2t.u32_at(44));
        assert!(len <= self.max_burst, "an R2T for {len} bytes");
        self.send_data(r2t.tag(), r2t.u32_at(20), offset as usize, len as usize);
    }

    /// Says to the target that the connection lives, and what has come.
    pub(crate) fn answer_ping(&mut self, ping: &Pdu) {
        let answer = Pdu::new(0x40, 0x80)
            .put_u32(16, RESERVED)
            .put(20, &ping.bhs[20..24])
            .put_u32(24, self.cmd_sn)
            .put_u32(28, self.exp_stat_sn());
        self.send(&answer);
    }

    /// Takes a PDU that belongs to a SCSI command, or brings a SCSI event, and pings; gives back any other.
    fn take(&mut self, pdu: Pdu) -> Option<Pdu> {
        let tag = pdu.tag();
        let residual = |pdu: &Pdu| {
            let count = pdu.u32_at(44);
            let of = |bit: u8| if pdu.bhs[1] & bit != 0 { count } else { 0 };
            (of(0x02), of(0x04))
        };
        match pdu.opcode() {
            op::R2T if self.answers_r2t => self.answer_r2t(&pdu),
            op::R2T => self.r2ts.push(pdu),
            op::NOP_IN if self.answers_pings && pdu.u32_at(20) != RESERVED => self.answer_ping(&pdu),
            op::ASYNC_MESSAGE if pdu.bhs[36] == 0 => self.scsi_events.push(pdu),
            op::DATA_IN => {
                let data = self.reads.entry(tag).or_default();
                assert_eq!(pdu.u32_at(40) as usize, data.len(), "Data-In in order");
                data.extend_from_slice(&pdu.data);
                if pdu.bhs[1] & 1 != 0 {
                    let (underflow, overflow) = residual(&pdu);
                    let (status, sense) = (pdu.bhs[3], Vec::new());
                    self.ended(tag, Answer { status, sense, data: Vec::new(), underflow, overflow });
                }
            }
            op::SCSI_RESPONSE => {
                assert_eq!(pdu.bhs[2], 0, "{pdu:?}");
                let sense = match pdu.data.get(..2) {
                    Some(len) => {
                        let len = usize::from(u16::from_be_bytes([len[0], len[1]]));
                        pdu.data[2..2 + len].to_vec()
                    }
                    None => Vec::new(),
                };
                let (underflow, overflow) = residual(&pdu);
                self.ended(tag, Answer { status: pdu.bhs[3], sense, data: Vec::new(), underflow, overflow });
            }
            _ => return Some(pdu),
        }
        None
    }

    fn ended(&mut self, tag: u32, mut answer: Answer) {
        answer.data = self.reads.remove(&tag).unwrap_or_default();
        self.writes.remove(&tag);
        assert!(self.answers.insert(tag, answer).is_none(), "two answers to one command");
    }

    /// Reads until `tag` is answered.
    #[track_caller]
    pub(crate) fn answer(&mut self, tag: u32) -> Answer {
        loop {
            if let Some(answer) = self.answers.remove(&tag) {
                return answer;
            }
            let pdu = self.receive().expect("an answer");
            if let Some(other) = self.take(pdu) {
                panic!("{other:?} instead of an answer");
            }
        }
    }

    /// Reads until any command is answered: its tag and its answer.
    pub(crate) fn any_answer(&mut self) -> (u32, Answer) {
        loop {
            if let Some(tag) = self.answers.keys().next().copied() {
                return (tag, self.answers.remove(&tag).unwrap());
            }
            let pdu = self.receive().expect("an answer");
            if let Some(other) = self.take(pdu) {
                panic!("{other:?} instead of an answer");
            }
        }
    }

    #[track_caller]
    pub(crate) fn run(&mut self, command: &Command) -> Answer {
        let tag = self.submit(command);
        self.answer(tag)
    }

    /// Pings the target and reads up to its answer: what was sent before was looked at by then. No command may have been answered
    /// meanwhile.
    #[track_caller]
    pub(crate) fn quiet(&mut self) {
        self.ping();
        assert!(self.answers.is_empty(), "answered: {:?}", self.answers);
    }

    /// As [`Initiator::quiet`], for long enough that what another task of the shard had to do is done.
    #[track_caller]
    pub(crate) fn stays_quiet(&mut self) {
        for _ in 0..4 {
            self.quiet();
        }
    }

    #[track_caller]
    pub(crate) fn ping(&mut self) {
        let (tag, pdu) = self.nop_out();
        self.send(&pdu);
        let answer = self.other(op::NOP_IN);
        assert_eq!(answer.tag(), tag);
    }

    fn nop_out(&mut self) -> (u32, Pdu) {
        let tag = self.tag();
        let pdu = Pdu::new(0x40, 0x80)
            .put_u32(16, tag)
            .put_u32(20, RESERVED)
            .put_u32(24, self.cmd_sn)
            .put_u32(28, self.exp_stat_sn());
        (tag, pdu)
    }

    /// Whether the target still answers; what waits to be read is read first.
    pub(crate) fn is_alive(&mut self) -> bool {
        let (tag, pdu) = self.nop_out();
        // A failure to send shows when the answer is read.
        let _ = self.send_bytes(&pdu.encode());
        loop {
            match self.receive() {
                Ok(pdu) if pdu.opcode() == op::NOP_IN && pdu.tag() == tag => return true,
                Ok(_) => {}
                Err(_) => return false,
            }
        }
    }

    /// Reads up to the next PDU that is not of a SCSI command.
    #[track_caller]
    pub(crate) fn other(&mut self, opcode: u8) -> Pdu {
        loop {
            let pdu = self.receive().expect("a PDU");
            if let Some(pdu) = self.take(pdu) {
                assert_eq!(pdu.opcode(), opcode, "{pdu:?}");
                return pdu;
            }
        }
    }

    pub(crate) fn report_luns(&mut self) -> Vec<u16> {
        let answer =
            self.run(&Command { reads: 1024, ..Command::new(&[0xa0, 0, 0, 0, 0, 0, 0, 0, 4, 0]) }).good();
        let len = u32::from_be_bytes(answer.data[..4].try_into().unwrap()) as usize;
        answer.data[8..8 + len].chunks(8).map(|lun| u16::from_be_bytes([lun[0], lun[1]])).collect()
    }

    /// Reads unit attentions away.
    pub(crate) fn clear_attentions(&mut self, lun: u16) {
        const UNIT_ATTENTION: u8 = 6;
        loop {
            let answer = self.run(&Command::test_unit_ready().on(lun));
            if answer.status != 0x02 || answer.code().0 != UNIT_ATTENTION {
                return;
            }
        }
    }

    /// Sense of a command that must fail.
    #[track_caller]
    pub(crate) fn fails(&mut self, command: &Command) -> (u8, u8, u8) {
        self.run(command).code()
    }

    // ---- task management

    /// Sends a function, immediate; returns its task tag.
    pub(crate) fn submit_tmf(&mut self, function: u8, lun: u16, referenced: u32) -> u32 {
        let cmd_sn = self.cmd_sn;
        self.submit_tmf_for(function, lun, referenced, cmd_sn)
    }

    /// With a RefCmdSN.
    pub(crate) fn submit_tmf_for(&mut self, function: u8, lun: u16, referenced: u32, ref_cmd_sn: u32) -> u32 {
        let tag = self.tag();
        let pdu = Pdu::new(0x42, 0x80 | function)
            .lun(lun)
            .put_u32(16, tag)
            .put_u32(20, referenced)
            .put_u32(24, self.cmd_sn)
            .put_u32(28, self.exp_stat_sn())
            .put_u32(32, ref_cmd_sn);
        self.send(&pdu);
        tag
    }

    /// Waits for a function's response. No command may have been answered before it.
    #[track_caller]
    pub(crate) fn tmf_answer(&mut self, tag: u32) -> u8 {
        self.tmf_answer_with(tag).0
    }

    /// As [`Initiator::tmf_answer`], with the additional response information (RFC 7144 5.3).
    #[track_caller]
    pub(crate) fn tmf_answer_with(&mut self, tag: u32) -> (u8, [u8; 3]) {
        let pdu = self.other(op::TASK_MANAGEMENT_RESPONSE);
        assert_eq!(pdu.tag(), tag);
        assert!(self.answers.is_empty(), "answered: {:?}", self.answers);
        (pdu.bhs[2], [pdu.bhs[8], pdu.bhs[9], pdu.bhs[10]])
    }

    #[track_caller]
    pub(crate) fn tmf(&mut self, function: u8, lun: u16) -> u8 {
        let tag = self.submit_tmf(function, lun, RESERVED);
        self.tmf_answer(tag)
    }

    #[track_caller]
    pub(crate) fn abort(&mut self, lun: u16, task: u32) -> u8 {
        let tag = self.submit_tmf(tmf::ABORT_TASK, lun, task);
        self.tmf_answer(tag)
    }
}

/// Bytes that differ from place to place, and from seed to seed.
pub(crate) fn pattern(seed: u32, len: usize) -> Vec<u8> {
    (0..len as u32).map(|i| ((i ^ seed.rotate_left(13)).wrapping_mul(0x9e37_79b9) >> 24) as u8).collect()
}

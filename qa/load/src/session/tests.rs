//! A session against a target that is a list of PDUs.

use std::time::Instant;

use bytes::Bytes;
use lusd_iscsi::Serial;
use lusd_iscsi::bhs::{Bhs, Opcode, RESERVED_TAG};
use lusd_iscsi::pdu::{
    DataIn, DataInStatus, DataOut, NopIn, NopOut, ReadyToTransfer, Residual, ScsiCommand, ScsiResponse,
    ServiceResponse, TargetSns,
};

use super::*;

const LEN: u32 = 4096;
/// CmdSN of the first command, and how many the window takes at first.
const CMD_SN: u32 = 5;
const WINDOW: u32 = 4;

fn sns(stat_sn: u32) -> TargetSns {
    TargetSns {
        stat_sn: Serial(stat_sn),
        exp_cmd_sn: Serial(CMD_SN),
        max_cmd_sn: Serial(CMD_SN + WINDOW - 1),
    }
}

fn session(agreed: Agreed) -> Session {
    Session::new(agreed, 0, 8, Serial(CMD_SN), sns(100), Output::default())
}

fn read() -> Command {
    Command { reads: LEN, keeps_data: true, ..Command::transfer(op::READ_16, 8, LEN / 512) }
}

fn write(len: u32) -> Command {
    let data: Vec<u8> = (0..len).map(|i| (i / 512) as u8).collect();
    Command { writes: data.into(), ..Command::transfer(op::WRITE_16, 8, len / 512) }
}

/// Everything that waits to be sent, as headers and data.
fn sent(session: &mut Session) -> Vec<(Bhs, Vec<u8>)> {
    let (mut input, mut pdus) = (Input::default(), Vec::<(Bhs, Vec<u8>)>::new());
    while !session.output.is_empty() {
        let mut bytes = Vec::new();
        session
            .output
            .write_with(|slices| {
                slices.iter().for_each(|slice| bytes.extend_from_slice(slice));
                Ok(bytes.len())
            })
            .unwrap();
        for part in bytes.chunks(10_000) {
            input.room()[..part.len()].copy_from_slice(part);
            input.received(part.len());
            while let Some(piece) = input.take().unwrap() {
                match piece {
                    Piece::Header(bhs) => pdus.push((bhs, Vec::new())),
                    Piece::Data(data) => pdus.last_mut().unwrap().1.extend_from_slice(data),
                    Piece::End => {}
                }
            }
        }
    }
    pdus
}

/// Submits a command and returns its tag.
fn submit(session: &mut Session, command: Command) -> u32 {
    session.submit(command, Instant::now());
    sent(session)[0].0.initiator_task_tag()
}

/// The session takes what a target says.
fn hear(session: &mut Session, pdus: &[(Bhs, &[u8])]) -> anyhow::Result<()> {
    let mut input = Input::default();
    for (bhs, data) in pdus {
        let mut output = Output::default();
        output.push(*bhs, &Bytes::copy_from_slice(data));
        while !output.is_empty() {
            output.write_with(|slices| {
                let n = slices[0].len();
                input.room()[..n].copy_from_slice(&slices[0]);
                input.received(n);
                Ok(n)
            })?;
        }
        session.take_input(&mut input)?;
    }
    Ok(())
}

fn data_in(tag: u32, data_sn: u32, offset: u32, status: Option<u32>) -> DataIn {
    DataIn {
        is_final: status.is_some(),
        status: status.map(|_| DataInStatus { status: GOOD, residual: Residual::None }),
        initiator_task_tag: tag,
        sns: sns(status.unwrap_or_default()),
        data_sn: Serial(data_sn),
        buffer_offset: offset,
    }
}

fn response(tag: u32, stat_sn: u32, status: u8) -> ScsiResponse {
    ScsiResponse {
        response: ServiceResponse::Completed,
        status,
        initiator_task_tag: tag,
        sns: sns(stat_sn),
        exp_data_sn: Serial(0),
        residual: Residual::None,
        bidi_read_residual: Residual::None,
    }
}

fn r2t(tag: u32, r2t_sn: u32, offset: u32, len: u32) -> ReadyToTransfer {
    ReadyToTransfer {
        lun: 0,
        initiator_task_tag: tag,
        target_transfer_tag: 77 + r2t_sn,
        sns: sns(101),
        r2t_sn: Serial(r2t_sn),
        buffer_offset: offset,
        desired_data_transfer_length: len,
    }
}

#[test]
fn a_read_in_parts_with_its_status_in_the_last() {
    let mut session = session(Agreed::default());
    let tag = submit(&mut session, read());
    let half = (LEN / 2) as usize;
    hear(
        &mut session,
        &[
            (data_in(tag, 0, 0, None).to_bhs(), &vec![1; half]),
            (data_in(tag, 1, LEN / 2, Some(101)).to_bhs(), &vec![2; half]),
        ],
    )
    .unwrap();
    let answer = session.answers.pop().unwrap();
    answer.good().unwrap();
    assert_eq!((answer.data[half - 1], answer.data[half], answer.data.len()), (1, 2, LEN as usize));
    assert_eq!(session.in_flight(), 0);
}

#[test]
fn a_read_whose_status_comes_after_its_data() {
    let mut session = session(Agreed::default());
    let tag = submit(&mut session, read());
    let data = vec![3; LEN as usize];
    hear(
        &mut session,
        &[(data_in(tag, 0, 0, None).to_bhs(), &data), (response(tag, 101, GOOD).to_bhs(), &[])],
    )
    .unwrap();
    assert_eq!(session.answers.pop().unwrap().data, data);
}

#[test]
fn what_is_wrong_with_a_read_ends_the_session() {
    let data = vec![0; LEN as usize];
    let wrong = |change: &dyn Fn(&mut DataIn), data: &[u8]| {
        let mut session = session(Agreed::default());
        let mut pdu = data_in(submit(&mut session, read()), 0, 0, Some(101));
        change(&mut pdu);
        hear(&mut session, &[(pdu.to_bhs(), data)]).is_err()
    };
    assert!(!wrong(&|_| {}, &data));
    assert!(wrong(&|_| {}, &data[..512]), "too short");
    assert!(wrong(&|_| {}, &vec![0; 4097]), "too long");
    assert!(wrong(&|pdu| pdu.initiator_task_tag ^= 1, &data), "another slot");
    assert!(wrong(&|pdu| pdu.initiator_task_tag ^= 1 << 20, &data), "an older tag");
    assert!(wrong(&|pdu| pdu.data_sn = Serial(1), &data), "DataSN");
    assert!(wrong(&|pdu| pdu.buffer_offset = 512, &data), "offset");
    assert!(wrong(&|pdu| pdu.sns.stat_sn = Serial(102), &data), "StatSN");
    let residual = DataInStatus { status: GOOD, residual: Residual::Underflow(512) };
    assert!(wrong(&|pdu| pdu.status = Some(residual), &data), "residual");
}

#[test]
fn sense_data_is_told() {
    let mut session = session(Agreed::default());
    let tag = submit(&mut session, read());
    let fixed = [&[0, 18, 0x70, 0, 5, 0, 0, 0, 0, 10, 0, 0, 0, 0, 0x24, 1][..], &[0; 4]].concat();
    hear(&mut session, &[(response(tag, 101, 2).to_bhs(), &fixed)]).unwrap();
    let answer = session.answers.pop().unwrap();
    assert_eq!(answer.sense_code(), Some((5, 0x24, 1)));
    let text = answer.good().unwrap_err().to_string();
    assert!(text.contains("status 02h, sense 5/24/01"), "{text}");
    let tag = submit(&mut session, read());
    hear(&mut session, &[(response(tag, 102, 2).to_bhs(), &[0, 8, 0x72, 6, 0x29, 0, 0, 0, 0, 0])]).unwrap();
    assert_eq!(session.answers.pop().unwrap().sense_code(), Some((6, 0x29, 0)));
}

#[test]
fn the_window_is_kept_and_grows() {
    let mut session = session(Agreed::default());
    let tags: Vec<u32> = (0..WINDOW).map(|_| submit(&mut session, read())).collect();
    assert!(!session.has_room());
    let mut pdu = data_in(tags[0], 0, 0, Some(101));
    hear(&mut session, &[(pdu.to_bhs(), &[0; LEN as usize])]).unwrap();
    assert!(!session.has_room(), "an answer alone does not open the window");
    pdu = data_in(tags[1], 0, 0, Some(102));
    pdu.sns.max_cmd_sn = Serial(CMD_SN + WINDOW);
    hear(&mut session, &[(pdu.to_bhs(), &[0; LEN as usize])]).unwrap();
    assert!(session.has_room());
    submit(&mut session, read());
    assert!(!session.has_room());
}

#[test]
fn a_write_goes_with_its_command_as_far_as_agreed() {
    let agreed = Agreed { first_burst_length: 6144, max_send_data_segment_length: 4096, ..Agreed::default() };
    let mut asking = session(agreed.clone());
    asking.submit(write(16384), Instant::now());
    let pdus = sent(&mut asking);
    let command = ScsiCommand::parse(&pdus[0].0).unwrap();
    assert_eq!((pdus.len(), pdus[0].1.len(), command.is_final), (1, 4096, true));
    let mut freely = session(Agreed { initial_r2t: false, ..agreed });
    freely.submit(write(16384), Instant::now());
    let pdus = sent(&mut freely);
    assert!(!ScsiCommand::parse(&pdus[0].0).unwrap().is_final);
    let data_out = DataOut::parse(&pdus[1].0);
    assert_eq!((pdus.len(), pdus[1].1.len(), data_out.is_final), (2, 2048, true));
    assert_eq!(
        (data_out.target_transfer_tag, data_out.buffer_offset, data_out.data_sn),
        (RESERVED_TAG, 4096, Serial(0))
    );
}

#[test]
fn r2ts_get_what_they_ask_for() {
    let agreed = Agreed { immediate_data: false, max_send_data_segment_length: 4096, ..Agreed::default() };
    let mut session = session(agreed);
    let tag = submit(&mut session, write(16384));
    hear(&mut session, &[(r2t(tag, 0, 0, 10_240).to_bhs(), &[])]).unwrap();
    let pdus = sent(&mut session);
    let shape: Vec<_> = pdus
        .iter()
        .map(|(bhs, data)| {
            let pdu = DataOut::parse(bhs);
            assert_eq!((pdu.initiator_task_tag, pdu.target_transfer_tag), (tag, 77));
            assert_eq!(data[0], (pdu.buffer_offset / 512) as u8);
            (pdu.buffer_offset, data.len(), pdu.data_sn.0, pdu.is_final)
        })
        .collect();
    assert_eq!(shape, [(0, 4096, 0, false), (4096, 4096, 1, false), (8192, 2048, 2, true)]);
    hear(&mut session, &[(r2t(tag, 1, 10_240, 6144).to_bhs(), &[])]).unwrap();
    assert_eq!(sent(&mut session).len(), 2);
    hear(&mut session, &[(response(tag, 101, GOOD).to_bhs(), &[])]).unwrap();
    session.answers.pop().unwrap().good().unwrap();
}

#[test]
fn r2ts_beyond_what_there_is_end_the_session() {
    for (r2t_sn, offset, len) in [(1, 0, 4096), (0, 8192, 16384), (0, 0, 1 << 20), (0, u32::MAX, 4096)] {
        let mut session = session(Agreed::default());
        let tag = submit(&mut session, write(16384));
        assert!(
            hear(&mut session, &[(r2t(tag, r2t_sn, offset, len).to_bhs(), &[])]).is_err(),
            "{offset} {len}"
        );
    }
}

#[test]
fn pings_are_answered_and_ends_are_noticed() {
    let mut session = session(Agreed::default());
    let ping = NopIn { lun: 9, initiator_task_tag: RESERVED_TAG, target_transfer_tag: 3, sns: sns(101) };
    hear(&mut session, &[(ping.to_bhs(), &[])]).unwrap();
    let pdus = sent(&mut session);
    let answer = NopOut::parse(&pdus[0].0);
    assert_eq!((answer.target_transfer_tag, answer.lun, answer.immediate), (3, 9, true));
    let quiet = NopIn { target_transfer_tag: RESERVED_TAG, ..ping };
    hear(&mut session, &[(quiet.to_bhs(), &[])]).unwrap();
    assert!(session.output.is_empty());
    for opcode in [Opcode::AsyncMessage, Opcode::Reject, Opcode::TextResponse, Opcode::LoginResponse] {
        assert!(hear(&mut session, &[(Bhs::new(opcode, 0x80), &[])]).is_err(), "{opcode:?}");
    }
}

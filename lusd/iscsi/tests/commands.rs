//! Commands, their order, their answers: two ends on a virtual clock.

mod common;

use bytes::Bytes;
use common::{Peer, pattern};
use lusd_iscsi::bhs::{Opcode, RESERVED_TAG};
use lusd_iscsi::pdu::{Ahs, Reject, RejectReason, Residual, ScsiCommand};
use lusd_iscsi::{CloseReason, Config, DataOut, Event, Response, Serial, TaskAttribute};

fn small_window(size: u32) -> Config {
    Config { command_window: size, ..Config::default() }
}

fn reject(peer: &mut Peer) -> RejectReason {
    let pdu = peer.pdu();
    assert_eq!((pdu.opcode(), pdu.data.len()), (Opcode::Reject, 48));
    Reject::parse(&pdu.bhs).unwrap().reason
}

#[test]
fn a_command_is_what_was_sent() {
    let mut peer = Peer::logged_in(Config::default(), "");
    let mut command = ScsiCommand { attribute: TaskAttribute::HeadOfQueue, ..peer.read_command(4096) };
    command.lun = 0x4001_0000_0000_0000;
    command.cdb = [0x28, 0, 0, 0, 0, 1, 0, 0, 8, 0, 0, 0, 0, 0, 0, 0];
    peer.send(command.to_bhs(), &[]);
    let Event::Command(event) = peer.event() else { panic!() };
    assert_eq!(event.initiator_task_tag, command.initiator_task_tag);
    assert_eq!((event.lun, event.cmd_sn, event.attribute), (command.lun, command.cmd_sn, command.attribute));
    assert_eq!(event.cdb.as_slice(), command.cdb);
    assert!(event.read && !event.write && !event.immediate);
    assert_eq!((event.expected_data_transfer_length, event.bidi_read_length), (4096, None));
    let info = peer.conn.task(event.tag).unwrap();
    assert_eq!((info.tag, info.lun, info.receiving), (event.tag, command.lun, false));
    assert_eq!(peer.conn.tasks().collect::<Vec<_>>(), [info]);
}

#[test]
fn long_cdbs_and_bidirectional_lengths() {
    let mut peer = Peer::logged_in(Config::default(), "HeaderDigest=CRC32C\0");
    let command = ScsiCommand { read: true, ..peer.write_command(512) };
    let ahs = Ahs { extended_cdb: Some([7; 16][..].into()), bidi_read_length: Some(1024) };
    let bytes = common::encode(command.to_bhs(), &ahs.to_bytes(), &[], peer.digests);
    peer.send_bytes(&bytes);
    let Event::Command(event) = peer.event() else { panic!() };
    assert_eq!((event.cdb.len(), event.bidi_read_length), (32, Some(1024)));
    peer.accept(event.tag, 512);
    let r2t = peer.pdu().r2t();
    peer.answer(&r2t, &[1; 512], 512);
    let (tag, _) = peer.data_out_event();
    peer.conn.respond(
        tag,
        Response { data_in: Bytes::from(vec![2; 600]), transfer_length: 512, ..Response::default() },
    );
    assert_eq!(peer.pdu().data, [2; 600]);
    let response = peer.pdu().response();
    assert_eq!(response.residual, Residual::None);
    assert_eq!(response.bidi_read_residual, Residual::Underflow(424));
    assert_eq!(response.exp_data_sn, Serial(2), "one R2T, one Data-In");
    // A broken additional header.
    let command = peer.read_command(0);
    let bytes = common::encode(command.to_bhs(), &[0, 99, 1, 0], &[], peer.digests);
    peer.send_bytes(&bytes);
    assert_eq!(reject(&mut peer), RejectReason::InvalidPduField);
    let next = peer.read_command(0);
    peer.run(&next);
}

#[test]
fn a_read_with_its_status() {
    let mut peer = Peer::logged_in(Config::default(), "MaxRecvDataSegmentLength=262144\0");
    let command = peer.read_command(4096);
    let tag = peer.run(&command);
    peer.read_good(tag, pattern(4096));
    let pdu = peer.pdu();
    let data_in = pdu.data_in();
    assert!(data_in.is_final);
    assert_eq!(data_in.status.unwrap().residual, Residual::None);
    assert_eq!(data_in.initiator_task_tag, command.initiator_task_tag);
    assert_eq!(pdu.data, pattern(4096));
    peer.no_pdu();
}

#[test]
fn a_long_read_is_cut_to_segments_and_bursts() {
    for digests in ["", "HeaderDigest=CRC32C\0DataDigest=CRC32C\0"] {
        let text = format!("MaxRecvDataSegmentLength=1000\0MaxBurstLength=2500\0{digests}");
        let mut peer = Peer::logged_in(Config::default(), &text);
        peer.slices = 3;
        peer.chunk = 777;
        let command = peer.read_command(6001);
        let tag = peer.run(&command);
        peer.read_good(tag, pattern(6001));
        let pdus = peer.pdus();
        let shape: Vec<_> = pdus
            .iter()
            .map(|pdu| {
                let d = pdu.data_in();
                (d.buffer_offset, pdu.data.len(), d.data_sn.0, d.is_final, d.status.is_some())
            })
            .collect();
        let expected = [
            (0, 1000, 0, false, false),
            (1000, 1000, 1, false, false),
            (2000, 500, 2, true, false),
            (2500, 1000, 3, false, false),
            (3500, 1000, 4, false, false),
            (4500, 500, 5, true, false),
            (5000, 1000, 6, false, false),
            (6000, 1, 7, true, true),
        ];
        assert_eq!(shape, expected);
        let whole: Vec<u8> = pdus.iter().flat_map(|pdu| pdu.data.clone()).collect();
        assert_eq!(whole, pattern(6001));
    }
}

#[test]
fn residuals_of_reads() {
    let mut peer = Peer::logged_in(Config::default(), "");
    // (expected, data, would move) -> (sent, residual)
    for (expected, data, moves, sent, residual) in [
        (512, 512, 512, 512, Residual::None),
        (1024, 512, 512, 512, Residual::Underflow(512)),
        (256, 512, 512, 256, Residual::Overflow(256)),
        (0, 512, 512, 0, Residual::Overflow(512)),
        (255, 36, 36, 36, Residual::Underflow(219)),
        (512, 0, 0, 0, Residual::Underflow(512)),
    ] {
        let command = peer.read_command(expected);
        let tag = peer.run(&command);
        let data_in = Bytes::from(pattern(data));
        peer.conn.respond(tag, Response { data_in, transfer_length: moves, ..Response::default() });
        let pdu = peer.pdu();
        assert_eq!(pdu.data.len(), sent);
        let got = if sent > 0 { pdu.data_in().status.unwrap().residual } else { pdu.response().residual };
        assert_eq!(got, residual, "{expected} {data} {moves}");
    }
    // Neither direction: whatever would move is too much.
    let command = peer.command();
    let tag = peer.run(&command);
    peer.conn.respond(
        tag,
        Response { data_in: Bytes::from_static(&[1; 8]), transfer_length: 8, ..Response::default() },
    );
    assert_eq!(peer.pdu().response().residual, Residual::Overflow(8));
}

#[test]
fn a_status_that_is_not_good_has_its_own_pdu() {
    let mut peer = Peer::logged_in(Config::default(), "DataDigest=CRC32C\0");
    let command = peer.read_command(512);
    let tag = peer.run(&command);
    let sense = [0x70, 0, 5, 0, 0, 0, 0, 10, 0, 0, 0, 0, 0x20, 0, 0, 0, 0, 0];
    peer.conn.respond(tag, Response { status: 2, sense: &sense, ..Response::default() });
    let pdu = peer.pdu();
    let response = pdu.response();
    assert_eq!((response.status, response.residual), (2, Residual::Underflow(512)));
    assert_eq!(pdu.data, [&[0, 18][..], &sense].concat());
    // With data before it.
    let command = peer.read_command(512);
    let tag = peer.run(&command);
    let data_in = Bytes::from(pattern(512));
    peer.conn.respond(tag, Response { status: 2, sense: &sense, data_in, transfer_length: 512 });
    let data_in = peer.pdu().data_in();
    assert!(data_in.is_final && data_in.status.is_none());
    let response = peer.pdu().response();
    assert_eq!((response.status, response.exp_data_sn, response.residual), (2, Serial(1), Residual::None));
    // BUSY, without sense data.
    let command = peer.read_command(512);
    let tag = peer.run(&command);
    peer.conn.respond(tag, Response { status: 8, ..Response::default() });
    let pdu = peer.pdu();
    assert_eq!((pdu.response().status, pdu.data.len()), (8, 0));
}

#[test]
fn numbers_wrap() {
    let (mut peer, _) = Peer::logged_in_at(small_window(4), "", u32::MAX - 2, u32::MAX - 3);
    for _ in 0..10 {
        let command = peer.read_command(8);
        let tag = peer.run(&command);
        peer.read_good(tag, vec![1; 8]);
        assert_eq!(peer.pdu().sns().exp_cmd_sn, peer.cmd_sn);
    }
    assert_eq!(peer.exp_stat_sn(), Serial(u32::MAX - 3).add(11));
}

#[test]
fn the_window_counts_tasks_and_opens_with_their_ends() {
    let mut peer = Peer::logged_in(small_window(3), "");
    assert_eq!(peer.max_cmd_sn(), Serial(2));
    let mut tags = Vec::new();
    for _ in 0..3 {
        let command = peer.read_command(0);
        tags.push(peer.run(&command));
    }
    // What comes beyond the window is ignored, whatever it is.
    let beyond = peer.read_command(0);
    peer.send(beyond.to_bhs(), &[]);
    peer.no_event();
    peer.no_pdu();
    peer.good(tags.remove(0));
    let response = peer.pdu();
    assert_eq!(response.sns().exp_cmd_sn, Serial(3));
    assert_eq!(response.sns().max_cmd_sn, Serial(3));
    // Now the same one is inside.
    peer.send(beyond.to_bhs(), &[]);
    let tag = peer.command_event();
    peer.conn.accept(tag, DataOut::None);
    // And a second time it is a duplicate.
    peer.send(beyond.to_bhs(), &[]);
    peer.no_event();
    // An abandoned task opens the window too, and the initiator, which may send nothing, is told.
    peer.conn.abandon(tags.remove(0));
    let nop_in = peer.pdu();
    assert_eq!((nop_in.opcode(), nop_in.bhs.initiator_task_tag()), (Opcode::NopIn, RESERVED_TAG));
    assert_eq!(nop_in.bhs.u32_at(20), RESERVED_TAG);
    assert_eq!(nop_in.sns().max_cmd_sn, Serial(4));
    peer.no_pdu();
}

#[test]
fn a_closed_window_stands_still() {
    let mut peer = Peer::logged_in(small_window(2), "");
    peer.conn.set_window_closed(true);
    for _ in 0..2 {
        let command = peer.read_command(0);
        let tag = peer.run(&command);
        peer.good(tag);
        assert_eq!(peer.pdu().sns().max_cmd_sn, Serial(1));
    }
    let command = peer.read_command(0);
    peer.send(command.to_bhs(), &[]);
    peer.no_event();
    // Immediate requests still pass.
    let nop = peer.nop_out();
    peer.send(nop.to_bhs(), &[]);
    assert_eq!(peer.pdu().opcode(), Opcode::NopIn);
    peer.conn.set_window_closed(false);
    assert_eq!(peer.pdu().sns().max_cmd_sn, Serial(3));
    peer.send(command.to_bhs(), &[]);
    peer.command_event();
}

#[test]
fn a_gap_in_the_numbers_ends_the_connection() {
    let mut peer = Peer::logged_in(Config::default(), "");
    peer.number();
    let command = peer.read_command(0);
    peer.send(command.to_bhs(), &[]);
    assert_eq!(reject(&mut peer), RejectReason::ProtocolError);
    assert!(matches!(peer.event(), Event::Closed(CloseReason::CmdSnGap)));
}

#[test]
fn immediate_commands_pass_the_window_and_have_their_own_bound() {
    let config = Config { immediate_window: 2, command_window: 1, ..Config::default() };
    let mut peer = Peer::logged_in(config, "");
    let first = peer.read_command(0);
    let first = peer.run(&first);
    let mut tags = Vec::new();
    for _ in 0..2 {
        let command = ScsiCommand { immediate: true, cmd_sn: peer.cmd_sn, ..peer.read_command(0) };
        peer.cmd_sn = command.cmd_sn;
        let Event::Command(event) = ({
            peer.send(command.to_bhs(), &[]);
            peer.event()
        }) else {
            panic!()
        };
        assert!(event.immediate);
        peer.conn.accept(event.tag, DataOut::None);
        assert!(event.tag.slot() < 3);
        tags.push(event.tag);
    }
    let command = ScsiCommand { immediate: true, ..peer.read_command(0) };
    peer.cmd_sn = command.cmd_sn;
    peer.send(command.to_bhs(), &[]);
    assert_eq!(reject(&mut peer), RejectReason::TooManyImmediateCommands);
    peer.good(tags[0]);
    peer.pdu();
    peer.send(ScsiCommand { initiator_task_tag: 99, ..command }.to_bhs(), &[]);
    peer.command_event();
    assert_eq!(peer.conn.tasks_len(), 3);
    peer.conn.respond(first, Response::default());
    assert_eq!(peer.pdu().sns().max_cmd_sn, Serial(1));
}

#[test]
fn task_tags_are_used_once_at_a_time_and_the_reserved_one_never() {
    let mut peer = Peer::logged_in(Config::default(), "");
    let first = peer.read_command(0);
    let tag = peer.run(&first);
    let again = ScsiCommand { initiator_task_tag: first.initiator_task_tag, ..peer.read_command(0) };
    peer.send(again.to_bhs(), &[]);
    assert_eq!(reject(&mut peer), RejectReason::TaskInProgress);
    let reserved = ScsiCommand { initiator_task_tag: RESERVED_TAG, ..peer.read_command(0) };
    peer.send(reserved.to_bhs(), &[]);
    assert_eq!(reject(&mut peer), RejectReason::InvalidPduField);
    // Their numbers were used up all the same.
    peer.good(tag);
    assert_eq!(peer.pdu().sns().exp_cmd_sn, peer.cmd_sn);
    let again = ScsiCommand { cmd_sn: peer.number(), ..again };
    peer.send(again.to_bhs(), &[]);
    peer.command_event();
}

#[test]
fn a_command_that_is_not_answered_stops_the_reading() {
    let mut peer = Peer::logged_in(Config::default(), "InitialR2T=No\0");
    let size = Config::default().staging_bytes;
    let first = peer.read_command(0);
    peer.send(first.to_bhs(), &[]);
    let tag = peer.command_event();
    assert!(peer.conn.is_waiting());
    let mut rest = Vec::new();
    for _ in 0..127 {
        rest.extend(common::encode(peer.write_command(4096).to_bhs(), &[], &pattern(4096), (false, false)));
    }
    peer.send_bytes(&rest);
    peer.no_event();
    assert!(peer.is_blocked(), "no more than the staging buffer is taken in");
    assert_eq!(peer.conn.read_target().limit, 0);
    assert!(rest.len() > size);
    peer.conn.accept(tag, DataOut::None);
    peer.pump();
    for _ in 0..127 {
        let tag = peer.command_event();
        peer.accept(tag, 4096);
        assert_eq!(peer.data_out_event().1, pattern(4096));
    }
    assert!(!peer.is_blocked());
}

#[test]
fn a_command_may_be_answered_without_being_accepted() {
    let mut peer = Peer::logged_in(Config::default(), "InitialR2T=No\0");
    // With immediate data and unsolicited data behind it: both are dropped.
    let command = ScsiCommand { is_final: false, ..peer.write_command(8192) };
    let tag = peer.start(&command, &pattern(4096));
    peer.conn.respond(tag, Response { status: 8, ..Response::default() });
    assert_eq!(peer.pdu().response().status, 8);
    peer.data_out(&common::unsolicited(&command, 0, 4096, true), &pattern(4096));
    let next = peer.read_command(0);
    let tag = peer.start(&next, &[]);
    peer.conn.abandon(tag);
    let last = peer.read_command(0);
    let tag = peer.run(&last);
    peer.good(tag);
    assert_eq!(peer.pdu().response().initiator_task_tag, last.initiator_task_tag);
}

#[test]
#[should_panic(expected = "has ended already")]
fn a_task_ends_once() {
    let mut peer = Peer::logged_in(Config::default(), "");
    let command = peer.read_command(0);
    let tag = peer.run(&command);
    peer.good(tag);
    let command = peer.read_command(0);
    assert_eq!(peer.run(&command).slot(), tag.slot());
    peer.conn.abandon(tag);
}

#[test]
#[should_panic(expected = "was accepted before")]
fn a_task_is_accepted_once() {
    let mut peer = Peer::logged_in(Config::default(), "");
    let command = peer.read_command(0);
    let tag = peer.run(&command);
    peer.conn.accept(tag, DataOut::None);
}

#[test]
fn unsent_output_is_a_bound_on_input() {
    let config = Config { output_bytes_high: 4096, ..Config::default() };
    let mut peer = Peer::logged_in(config, "");
    for _ in 0..200 {
        let nop = peer.nop_out();
        let bytes = common::encode(nop.to_bhs(), &[], &[5; 1000], (false, false));
        peer.send_bytes(&bytes);
    }
    assert!(peer.conn.is_output_full() && peer.is_blocked());
    assert!(peer.conn.output_len() < 4096 + 1100);
    // Whoever reads what waits gets all of it.
    let mut answers = 0;
    while peer.is_blocked() || peer.conn.output_len() > 0 {
        answers += peer.pdus().len();
        peer.pump();
    }
    assert_eq!(answers, 200);
}

/// Whatever the sizes of the pieces, the same commands give the same answers.
#[test]
fn commands_in_pieces() {
    let data = pattern(20_000);
    for chunk in [1, 7, 48, 100, 4096, 8191] {
        let mut peer =
            Peer::logged_in(Config::default(), "InitialR2T=No\0HeaderDigest=CRC32C\0DataDigest=CRC32C\0");
        peer.chunk = chunk;
        for _ in 0..3 {
            let command = peer.write_command(20_000);
            let tag = peer.start(&command, &data);
            peer.accept(tag, 20_000);
            let (tag, got) = peer.data_out_event();
            assert_eq!(got, data);
            peer.good(tag);
            let command = peer.read_command(20_000);
            let tag = peer.run(&command);
            peer.read_good(tag, data.clone());
            let pdus = peer.pdus();
            assert_eq!(pdus.iter().flat_map(|pdu| pdu.data.clone()).collect::<Vec<_>>(), data);
        }
    }
}

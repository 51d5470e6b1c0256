//! Data to the target: immediate, unsolicited, asked for; and what goes wrong with it.

mod common;

use std::time::Duration;

use common::{Peer, pattern, unsolicited};
use lusd_iscsi::bhs::Opcode;
use lusd_iscsi::pdu::{AsyncCode, AsyncMessage, DataOut as DataOutPdu, Reject, RejectReason, ScsiCommand};
use lusd_iscsi::{CloseReason, Config, DataOut, Event, IscsiCondition, Response, Serial, TaskTag};

const UNASKED: &str = "InitialR2T=No\0FirstBurstLength=8192\0MaxBurstLength=16384\0";
const KIB: u32 = 1024;

fn failure(peer: &mut Peer) -> (TaskTag, IscsiCondition) {
    match peer.event() {
        Event::DataOutFailed { tag, condition } => (tag, condition),
        other => panic!("no failure: {other:?}"),
    }
}

#[test]
fn immediate_data() {
    let mut peer = Peer::logged_in(Config::default(), UNASKED);
    let command = peer.write_command(4 * KIB);
    let tag = peer.start(&command, &pattern(4096));
    peer.accept(tag, 4 * KIB);
    let (got, data) = peer.data_out_event();
    assert_eq!((got, &data[..]), (tag, &pattern(4096)[..]));
    peer.no_pdu();
    peer.good(tag);
    assert_eq!(peer.pdu().response().exp_data_sn, Serial(0));
}

#[test]
fn immediate_unsolicited_and_solicited_data_end_in_one_buffer() {
    let mut peer = Peer::logged_in(Config::default(), UNASKED);
    let whole = pattern(50_000);
    let command = ScsiCommand { is_final: false, ..peer.write_command(50_000) };
    let tag = peer.start(&command, &whole[..3000]);
    peer.accept(tag, 50_000);
    peer.data_out(&unsolicited(&command, 0, 3000, false), &whole[3000..6000]);
    peer.no_pdu();
    peer.data_out(&unsolicited(&command, 1, 6000, true), &whole[6000..8192]);
    assert!(peer.conn.task(tag).unwrap().receiving);
    for (i, offset) in [8192, 24_576, 40_960].into_iter().enumerate() {
        let r2t = peer.pdu().r2t();
        assert_eq!((r2t.r2t_sn, r2t.buffer_offset), (Serial(i as u32), offset));
        assert_eq!(r2t.desired_data_transfer_length, (50_000 - offset).min(16_384));
        assert_eq!(r2t.initiator_task_tag, command.initiator_task_tag);
        peer.no_pdu();
        peer.answer(&r2t, &whole, 5000);
    }
    let (tag, data) = peer.data_out_event();
    assert_eq!(data, whole);
    peer.good(tag);
    assert_eq!(peer.pdu().response().exp_data_sn, Serial(3));
}

#[test]
fn several_r2ts_at_once_up_to_what_was_agreed() {
    let text = "InitialR2T=Yes\0ImmediateData=No\0MaxBurstLength=4096\0MaxOutstandingR2T=3\0";
    let mut peer = Peer::logged_in(Config::default(), text);
    let whole = pattern(5 * 4096);
    let command = peer.write_command(5 * 4096);
    let tag = peer.start(&command, &[]);
    peer.accept(tag, 5 * 4096);
    let mut r2ts: std::collections::VecDeque<_> = peer.pdus().iter().map(|pdu| pdu.r2t()).collect();
    assert_eq!(r2ts.len(), 3);
    let mut seen = 3;
    while let Some(r2t) = r2ts.pop_front() {
        peer.answer(&r2t, &whole, 4096);
        r2ts.extend(peer.pdus().iter().map(|pdu| pdu.r2t()));
        seen = seen.max(r2t.r2t_sn.0 + 1 + r2ts.len() as u32);
        assert!(r2ts.len() <= 3);
    }
    assert_eq!(seen, 5);
    assert_eq!(peer.data_out_event().1, whole);
}

#[test]
fn large_data_is_received_straight_into_its_buffer() {
    for digests in ["", "HeaderDigest=CRC32C\0DataDigest=CRC32C\0"] {
        let text = format!("InitialR2T=No\0FirstBurstLength=262144\0{digests}");
        let mut peer = Peer::logged_in(Config::default(), &text);
        let whole = pattern(1 << 20);
        let command = peer.write_command(1 << 20);
        let tag = peer.start(&command, &whole[..262_144]);
        peer.accept(tag, 1 << 20);
        while let Some(pdu) = peer.pdus().pop() {
            peer.answer(&pdu.r2t(), &whole, 200_001);
        }
        assert_eq!(peer.data_out_event().1, whole);
        assert!(peer.read_directly > 500_000, "{}", peer.read_directly);
    }
}

#[test]
fn what_a_command_does_not_want_is_dropped() {
    let mut peer = Peer::logged_in(Config::default(), UNASKED);
    let whole = pattern(8192);
    // Wants less than comes: nothing is asked for, and the surplus goes nowhere.
    let command = ScsiCommand { is_final: false, ..peer.write_command(100_000) };
    let tag = peer.start(&command, &whole[..4096]);
    peer.accept(tag, 5000);
    peer.data_out(&unsolicited(&command, 0, 4096, true), &whole[4096..]);
    let (_, data) = peer.data_out_event();
    assert_eq!(data, whole[..5000]);
    peer.no_pdu();
    // Wants more than the initiator has.
    let command = peer.write_command(4096);
    let tag = peer.start(&command, &whole[..4096]);
    peer.accept(tag, 8192);
    assert_eq!(peer.data_out_event().1, whole[..4096]);
    // Wants nothing, of either sort.
    let command = peer.write_command(4096);
    let tag = peer.start(&command, &whole[..4096]);
    peer.accept(tag, 0);
    assert!(peer.data_out_event().1.is_empty());
    // A command without the "W" bit has no data whatever it expects.
    let command = peer.read_command(4096);
    let tag = peer.start(&command, &[]);
    peer.accept(tag, 4096);
    assert!(peer.data_out_event().1.is_empty());
    peer.no_pdu();
}

#[test]
fn fewer_unsolicited_bytes_than_allowed_are_fine() {
    let mut peer = Peer::logged_in(Config::default(), UNASKED);
    let whole = pattern(12_000);
    let command = ScsiCommand { is_final: false, ..peer.write_command(12_000) };
    let tag = peer.start(&command, &[]);
    peer.accept(tag, 12_000);
    peer.data_out(&unsolicited(&command, 0, 0, true), &whole[..100]);
    let r2t = peer.pdu().r2t();
    assert_eq!(r2t.buffer_offset, 100);
    peer.answer(&r2t, &whole, 12_000);
    assert_eq!(peer.data_out_event().1, whole);
}

/// Each way of being wrong fails the task, once all that was asked for has come, and hurts nothing else.
#[test]
fn wrong_data_fails_its_task_only() {
    use IscsiCondition::{
        DataOffsetError, IncorrectAmountOfData, ProtocolServiceCrcError, UnexpectedUnsolicitedData,
    };
    type Change = fn(&mut DataOutPdu, &mut Vec<u8>);
    let cases: [(Change, IscsiCondition); 7] = [
        (|pdu, _| pdu.data_sn = Serial(27), ProtocolServiceCrcError),
        (|pdu, _| pdu.buffer_offset += 512, DataOffsetError),
        (|pdu, _| pdu.buffer_offset = u32::MAX, DataOffsetError),
        (|_, data| data.truncate(100), IncorrectAmountOfData),
        (|_, data| data.clear(), IncorrectAmountOfData),
        (|_, data| data.push(0), IncorrectAmountOfData),
        (|pdu, _| pdu.target_transfer_tag = lusd_iscsi::bhs::RESERVED_TAG, UnexpectedUnsolicitedData),
    ];
    for (change, expected) in cases {
        let mut peer = Peer::logged_in(Config::default(), "MaxBurstLength=4096\0");
        let command = peer.write_command(8192);
        let tag = peer.start(&command, &[]);
        peer.accept(tag, 8192);
        let r2t = peer.pdu().r2t();
        let mut pdu = DataOutPdu {
            is_final: true,
            lun: r2t.lun,
            initiator_task_tag: r2t.initiator_task_tag,
            target_transfer_tag: r2t.target_transfer_tag,
            exp_stat_sn: Serial(0),
            data_sn: Serial(0),
            buffer_offset: 0,
        };
        let mut data = pattern(4096);
        let good = pdu;
        change(&mut pdu, &mut data);
        peer.data_out(&pdu, &data);
        if expected == UnexpectedUnsolicitedData {
            // What was asked for is still outstanding.
            peer.no_event();
            peer.data_out(&good, &pattern(4096));
        }
        assert_eq!(failure(&mut peer), (tag, expected));
        let (_, asc, ascq) = expected.sense();
        let sense = [0x70, 0, 0x0b, 0, 0, 0, 0, 10, 0, 0, 0, 0, asc, ascq, 0, 0, 0, 0];
        peer.conn.respond(tag, Response { status: 2, sense: &sense, ..Response::default() });
        assert_eq!(peer.pdu().response().status, 2, "no R2T was sent after the failure");
        let next = peer.write_command(512);
        let tag = peer.start(&next, &pattern(512));
        peer.accept(tag, 512);
        assert_eq!(peer.data_out_event().1, pattern(512));
    }
}

#[test]
fn sequences_in_the_wrong_order() {
    let mut peer = Peer::logged_in(Config::default(), "MaxBurstLength=4096\0MaxOutstandingR2T=2\0");
    let command = peer.write_command(8192);
    let tag = peer.start(&command, &[]);
    peer.accept(tag, 8192);
    let r2ts: Vec<_> = peer.pdus().iter().map(|pdu| pdu.r2t()).collect();
    peer.answer(&r2ts[1], &pattern(8192), 4096);
    peer.no_event();
    peer.answer(&r2ts[0], &pattern(8192), 4096);
    assert_eq!(failure(&mut peer), (tag, IscsiCondition::DataOffsetError));
}

#[test]
fn a_data_pdu_that_comes_twice_counts_once() {
    let mut peer = Peer::logged_in(Config::default(), "");
    let command = peer.write_command(8192);
    let tag = peer.start(&command, &[]);
    peer.accept(tag, 8192);
    let r2t = peer.pdu().r2t();
    let whole = pattern(8192);
    let part = |data_sn: u32, is_final| DataOutPdu {
        is_final,
        lun: 0,
        initiator_task_tag: r2t.initiator_task_tag,
        target_transfer_tag: r2t.target_transfer_tag,
        exp_stat_sn: Serial(0),
        data_sn: Serial(data_sn),
        buffer_offset: data_sn * 4096,
    };
    peer.data_out(&part(0, false), &whole[..4096]);
    peer.data_out(&part(0, false), &whole[..4096]);
    peer.no_event();
    peer.data_out(&part(1, true), &whole[4096..]);
    assert_eq!(peer.data_out_event().1, whole);
}

#[test]
fn data_that_the_negotiation_does_not_allow() {
    let text = "ImmediateData=No\0InitialR2T=Yes\0";
    let mut peer = Peer::logged_in(Config::default(), text);
    let command = peer.write_command(4096);
    let tag = peer.start(&command, &pattern(4096));
    peer.accept(tag, 4096);
    assert_eq!(failure(&mut peer), (tag, IscsiCondition::UnexpectedUnsolicitedData));
    let command = ScsiCommand { is_final: false, ..peer.write_command(4096) };
    let tag = peer.start(&command, &[]);
    peer.accept(tag, 4096);
    peer.no_event();
    peer.data_out(&unsolicited(&command, 0, 0, true), &pattern(4096));
    assert_eq!(failure(&mut peer), (tag, IscsiCondition::UnexpectedUnsolicitedData));
    // More at once than the first burst, or than the command has.
    let mut peer = Peer::logged_in(Config::default(), UNASKED);
    for (expected, sent) in [(16_384, 8193), (4096, 4097)] {
        let command = peer.write_command(expected);
        let tag = peer.start(&command, &pattern(sent));
        peer.accept(tag, expected);
        assert_eq!(failure(&mut peer), (tag, IscsiCondition::IncorrectAmountOfData));
    }
}

#[test]
fn data_for_nobody() {
    let mut peer = Peer::logged_in(Config::default(), UNASKED);
    let mut command = peer.write_command(4096);
    command.initiator_task_tag = 0x1234;
    // An unknown task: dropped, as data of an aborted task is.
    peer.data_out(&unsolicited(&command, 0, 0, true), &pattern(4096));
    peer.no_pdu();
    // A known task, but an R2T that was never sent.
    let tag = peer.start(&command, &[]);
    peer.accept(tag, 4096);
    let r2t = peer.pdu().r2t();
    let mut wrong = r2t;
    wrong.target_transfer_tag ^= 0x100;
    peer.answer(&wrong, &pattern(4096), 4096);
    assert_eq!(Reject::parse(&peer.pdu().bhs).unwrap().reason, RejectReason::InvalidPduField);
    peer.answer(&r2t, &pattern(4096), 4096);
    assert_eq!(peer.data_out_event().1, pattern(4096));
}

#[test]
fn a_wrong_data_digest() {
    let text = format!("{UNASKED}DataDigest=CRC32C\0HeaderDigest=CRC32C\0");
    let mut peer = Peer::logged_in(Config::default(), &text);
    // Immediate data.
    let command = peer.write_command(4096);
    let mut bytes = common::encode(command.to_bhs(), &[], &pattern(4096), peer.digests);
    bytes[60] ^= 1;
    peer.send_bytes(&bytes);
    let tag = peer.command_event();
    peer.accept(tag, 4096);
    let pdu = peer.pdu();
    assert_eq!(Reject::parse(&pdu.bhs).unwrap().reason, RejectReason::DataDigestError);
    let mut rejected = command.to_bhs();
    rejected.set_data_segment_length(4096);
    assert_eq!(pdu.data, rejected.0, "the Reject shows the header");
    assert_eq!(failure(&mut peer), (tag, IscsiCondition::ProtocolServiceCrcError));
    peer.good(tag);
    peer.pdu();
    // Data that was asked for: the rest of the sequence is waited for.
    let command = peer.write_command(8192);
    let tag = peer.start(&command, &[]);
    peer.accept(tag, 8192);
    let r2t = peer.pdu().r2t();
    for data_sn in 0..2 {
        let pdu = DataOutPdu {
            is_final: data_sn == 1,
            lun: 0,
            initiator_task_tag: r2t.initiator_task_tag,
            target_transfer_tag: r2t.target_transfer_tag,
            exp_stat_sn: Serial(0),
            data_sn: Serial(data_sn),
            buffer_offset: data_sn * 4096,
        };
        let mut bytes = common::encode(pdu.to_bhs(), &[], &pattern(4096), peer.digests);
        bytes[100] ^= u8::from(data_sn == 0);
        peer.no_event();
        peer.send_bytes(&bytes);
    }
    assert_eq!(failure(&mut peer), (tag, IscsiCondition::ProtocolServiceCrcError));
    assert_eq!(peer.pdu().opcode(), Opcode::Reject);
    // Pings and text whose data is wrong were not received.
    let nop = peer.nop_out();
    let mut bytes = common::encode(nop.to_bhs(), &[], b"ping", peer.digests);
    *bytes.last_mut().unwrap() ^= 1;
    peer.send_bytes(&bytes);
    assert_eq!(peer.pdu().opcode(), Opcode::Reject);
    peer.no_pdu();
    // A header digest error ends it all.
    let command = peer.read_command(0);
    let mut bytes = common::encode(command.to_bhs(), &[], &[], peer.digests);
    bytes[20] ^= 1;
    peer.send_bytes(&bytes);
    assert!(matches!(peer.event(), Event::Closed(CloseReason::HeaderDigest)));
}

#[test]
fn abandoned_in_the_middle_of_its_data() {
    let mut peer = Peer::logged_in(Config::default(), "InitialR2T=No\0FirstBurstLength=262144\0");
    let whole = pattern(200_000);
    // While a large segment is on its way straight into the buffer.
    let command = peer.write_command(200_000);
    let bytes = common::encode(command.to_bhs(), &[], &whole, (false, false));
    peer.send_bytes(&bytes[..80_000]);
    let tag = peer.command_event();
    peer.accept(tag, 200_000);
    peer.conn.abandon(tag);
    peer.send_bytes(&bytes[80_000..]);
    // While R2Ts are outstanding.
    let command = peer.write_command(1 << 20);
    let tag = peer.start(&command, &[]);
    peer.accept(tag, 1 << 20);
    let r2t = peer.pdu().r2t();
    peer.conn.abandon(tag);
    peer.answer(&r2t, &pattern(1 << 20), 65_536);
    peer.no_event();
    // Answered early.
    let command = peer.write_command(1 << 20);
    let tag = peer.start(&command, &[]);
    peer.accept(tag, 1 << 20);
    let r2t = peer.pdu().r2t();
    peer.conn.respond(tag, Response { status: 0x28, ..Response::default() });
    assert_eq!(peer.pdu().response().exp_data_sn, Serial(1));
    peer.answer(&r2t, &pattern(1 << 20), 65_536);
    peer.no_event();
    peer.no_pdu();
    assert_eq!(peer.conn.tasks_len(), 0);
}

#[test]
fn a_write_without_progress_ends_the_connection() {
    let mut peer = Peer::logged_in(Config::default(), "");
    let command = peer.write_command(1 << 20);
    let tag = peer.start(&command, &[]);
    peer.accept(tag, 1 << 20);
    let r2t = peer.pdu().r2t();
    let part = |data_sn: u32| DataOutPdu {
        is_final: false,
        lun: 0,
        initiator_task_tag: r2t.initiator_task_tag,
        target_transfer_tag: r2t.target_transfer_tag,
        exp_stat_sn: Serial(0),
        data_sn: Serial(data_sn),
        buffer_offset: data_sn * 512,
    };
    // Slow, but alive; pings are answered all the while.
    for i in 0..4 {
        for _ in 0..29 {
            peer.pass(Duration::from_secs(1));
            let nop = peer.nop_out();
            peer.send(nop.to_bhs(), &[]);
        }
        peer.data_out(&part(i), &[1; 512]);
    }
    peer.no_event();
    for _ in 0..30 {
        peer.no_event();
        peer.pass(Duration::from_secs(1));
        let nop = peer.nop_out();
        peer.send(nop.to_bhs(), &[]);
    }
    assert!(matches!(peer.event(), Event::Closed(CloseReason::DataOutTimeout)));
    // Of the connection's end the initiator hears. The task is the daemon's to end, and says nothing any more.
    let last = peer.pdus().pop().map(|pdu| AsyncMessage::parse(&pdu.bhs).map(|message| message.event));
    assert_eq!(last, Some(Ok(AsyncCode::ConnectionDrop)));
    peer.good(tag);
    peer.no_pdu();
    peer.no_event();
}

#[test]
fn back_pressure_is_not_the_initiators_fault() {
    let mut peer = Peer::logged_in(Config::default(), "");
    let command = peer.write_command(8192);
    let writing = peer.start(&command, &[]);
    peer.accept(writing, 8192);
    let r2t = peer.pdu().r2t();
    let command = peer.read_command(0);
    let waiting = peer.start(&command, &[]);
    peer.answer(&r2t, &pattern(8192), 8192);
    for _ in 0..100 {
        peer.pass(Duration::from_secs(1));
        peer.pdus();
    }
    peer.no_event();
    assert!(!peer.conn.is_closed());
    peer.conn.accept(waiting, DataOut::None);
    assert_eq!(peer.data_out_event().1, pattern(8192));
}

#[test]
fn a_segment_longer_than_declared_ends_the_connection() {
    let mut peer = Peer::logged_in(Config::default(), "");
    let mut bhs = peer.write_command(1 << 20).to_bhs();
    bhs.set_data_segment_length(262_145);
    peer.send_bytes(&bhs.0);
    assert_eq!(peer.pdu().opcode(), Opcode::Reject);
    assert!(matches!(peer.event(), Event::Closed(CloseReason::DataSegmentTooLong(262_145))));
}

#[test]
fn held_data_is_asked_for_when_the_daemon_says_so() {
    let config = Config { data_out_timeout: Duration::from_secs(5), ..Config::default() };
    let mut peer = Peer::logged_in(config, UNASKED);
    let whole = pattern(20_000);
    let command = ScsiCommand { is_final: false, ..peer.write_command(20_000) };
    peer.send(command.to_bhs(), &whole[..3000]);
    let Event::Command(event) = peer.event() else { panic!("no command") };
    assert_eq!(event.unsolicited_length, 8192);
    let tag = event.tag;
    peer.conn.accept(tag, DataOut::Hold { len: 20_000, buf: bytes::BytesMut::with_capacity(20_000) });
    peer.data_out(&unsolicited(&command, 0, 3000, true), &whole[3000..8192]);
    peer.no_pdu();
    // Nothing was promised, so nothing is late.
    peer.pass(Duration::from_secs(20));
    peer.pdus();
    assert!(!peer.conn.is_closed());
    peer.conn.solicit(tag);
    let r2t = peer.pdu().r2t();
    assert_eq!((r2t.buffer_offset, r2t.desired_data_transfer_length), (8192, 11_808));
    peer.answer(&r2t, &whole, 5000);
    assert_eq!(peer.data_out_event().1, whole);
    peer.good(tag);
}

#[test]
fn held_data_that_has_come_unsolicited_needs_no_asking() {
    let mut peer = Peer::logged_in(Config::default(), UNASKED);
    let command = peer.write_command(4 * KIB);
    peer.send(command.to_bhs(), &pattern(4096));
    let Event::Command(event) = peer.event() else { panic!("no command") };
    assert_eq!(event.unsolicited_length, 4 * KIB);
    peer.conn.accept(event.tag, DataOut::Hold { len: 4 * KIB, buf: bytes::BytesMut::with_capacity(4096) });
    assert_eq!(&peer.data_out_event().1[..], &pattern(4096)[..]);
    peer.good(event.tag);
}

//! Logins as dialogues: text files under `tests/login`. What an initiator and a daemon say is played; what the target says and reports is
//! rendered in between; the whole must be what the file says. `UPDATE=1` writes the files anew.
//!
//! ```text
//! # a comment
//! config text_bytes_max=2048               before the first request
//! > csg=1 nsg=3 [c] [tsih=N] [isid=HEX] [cid=N] [vmin=N] [opcode=0xNN]
//!   Key=Value                              {N} stands for N letters
//! grant tsih=1 [alias=TEXT] [chap=NAME:SECRET [mutual=NAME:SECRET]] | refuse 0203 | redirect ADDRESS | pass SECONDS
//! < a response                             rendered
//! ! an event                               rendered
//! ```

mod common;

use std::fmt::Write as _;
use std::time::Duration;

use common::{Pdu, Peer};
use lusd_iscsi::bhs::{Bhs, Opcode};
use lusd_iscsi::chap::{ChallengeKey, ChapGrant, Credentials, Secret};
use lusd_iscsi::pdu::{Isid, LoginRequest, LoginResponse, Stage};
use lusd_iscsi::{Authentication, CloseReason, Config, DigestOffer, Event, LoginGrant, LoginStatus, text};

fn number(value: &str) -> u32 {
    text::number(value).unwrap_or_else(|| panic!("{value} is not a number"))
}

fn stage(value: &str) -> Stage {
    match value {
        "0" => Stage::SecurityNegotiation,
        "1" => Stage::LoginOperationalNegotiation,
        "3" => Stage::FullFeaturePhase,
        _ => panic!("stage {value}"),
    }
}

fn words(line: &str) -> impl Iterator<Item = (&str, &str)> {
    line.split_whitespace().map(|word| word.split_once('=').unwrap_or((word, "")))
}

fn configure(line: &str) -> Config {
    let mut config = Config::default();
    let crc_only = DigestOffer { none: false, crc32c: true };
    for (name, value) in words(line) {
        match name {
            "text_bytes_max" => config.text_bytes_max = number(value) as usize,
            "initial_r2t" => config.initial_r2t = value == "Yes",
            "immediate_data" => config.immediate_data = value == "Yes",
            "header_digest" if value == "CRC32C" => config.header_digest = crc_only,
            "protocol_level" => config.protocol_level = number(value) as u8,
            _ => panic!("{name}={value} in a config line"),
        }
    }
    config
}

/// The header that a `>` line describes.
fn request(peer: &Peer, line: &str) -> Bhs {
    let mut pdu = LoginRequest { nsg: None, ..peer.login_request() };
    let (mut opcode, mut flags) = (None, None);
    for (name, value) in words(line) {
        match name {
            "csg" => pdu.csg = stage(value),
            "nsg" => pdu.nsg = Some(stage(value)),
            "c" => pdu.continues = true,
            "tsih" => pdu.tsih = number(value) as u16,
            "cid" => pdu.cid = number(value) as u16,
            "isid" => pdu.isid = Isid([0, 2, 0x3d, 0, 0, number(value) as u8]),
            "vmin" => (pdu.version_min, pdu.version_max) = (number(value) as u8, number(value) as u8),
            "opcode" => opcode = Some(number(value) as u8),
            "flags" => flags = Some(number(value) as u8),
            _ => panic!("{name} in a request line"),
        }
    }
    let mut bhs = pdu.to_bhs();
    bhs.0[0] = opcode.unwrap_or(bhs.0[0]);
    bhs.0[1] = flags.unwrap_or(bhs.0[1]);
    bhs
}

/// `{N}` becomes N letters.
fn expand(line: &str) -> String {
    match line.split_once('{').and_then(|(a, rest)| rest.split_once('}').map(|(n, b)| (a, n, b))) {
        Some((a, n, b)) => format!("{a}{}{b}", "a".repeat(number(n) as usize)),
        None => line.to_owned(),
    }
}

fn credentials(value: &str) -> Credentials {
    let (name, secret) = value.split_once(':').unwrap();
    Credentials { name: name.to_owned(), secret: Secret::new(secret.as_bytes()).unwrap() }
}

/// The answer that a `grant` line describes.
fn grant(line: &str) -> LoginGrant {
    let mut grant = LoginGrant { portal_group_tag: 1, ..LoginGrant::default() };
    for (name, value) in words(line) {
        match (name, &mut grant.authentication) {
            ("tsih", _) => grant.tsih = number(value) as u16,
            ("alias", _) => grant.target_alias = Some(value.to_owned()),
            ("chap", authentication) => {
                let initiator = credentials(value);
                let key = ChallengeKey::new([1; 32]);
                let chap = ChapGrant { initiator, target: None, identifier: 42, nonce: [7; 16], key };
                *authentication = Authentication::Chap(Box::new(chap));
            }
            ("mutual", Authentication::Chap(chap)) => chap.target = Some(credentials(value)),
            _ => panic!("{name} in a grant"),
        }
    }
    grant
}

fn render_pdu(out: &mut String, pdu: &Pdu) {
    if pdu.opcode() != Opcode::LoginResponse {
        writeln!(out, "< {:?}", pdu.opcode()).unwrap();
        return;
    }
    let response = LoginResponse::parse(&pdu.bhs).unwrap();
    write!(out, "< csg={}", response.csg as u8).unwrap();
    if let Some(nsg) = response.nsg {
        write!(out, " nsg={}", nsg as u8).unwrap();
    }
    if response.tsih != 0 {
        write!(out, " tsih={}", response.tsih).unwrap();
    }
    writeln!(out, " status={:04x}", response.status.code()).unwrap();
    for (key, value) in pdu.text() {
        writeln!(out, "  {key}={value}").unwrap();
    }
}

fn render_event(out: &mut String, event: &Event) {
    match event {
        Event::Login(request) => {
            write!(out, "! login {:?} {}", request.session_type, request.initiator_name).unwrap();
            if let Some(alias) = &request.initiator_alias {
                write!(out, " ({alias})").unwrap();
            }
            if let Some(target) = &request.target_name {
                write!(out, " to {target}").unwrap();
            }
            writeln!(out, " tsih={} cid={} isid={}", request.tsih, request.cid, request.isid).unwrap();
        }
        Event::LoggedIn(info) => {
            let p = &info.params;
            let on = |on: bool| if on { "Yes" } else { "No" };
            writeln!(
                out,
                "! logged in tsih={} digests={},{} send={} r2t={},{} immediate={} bursts={},{} level={}",
                info.tsih,
                on(p.header_digest),
                on(p.data_digest),
                p.max_send_data_segment_length,
                on(p.initial_r2t),
                p.max_outstanding_r2t,
                on(p.immediate_data),
                p.first_burst_length,
                p.max_burst_length,
                p.protocol_level,
            )
            .unwrap();
        }
        Event::Closed(CloseReason::Login(status)) => writeln!(out, "! closed {:04x}", status.code()).unwrap(),
        Event::Closed(reason) => writeln!(out, "! closed {reason:?}").unwrap(),
        other => writeln!(out, "! {other:?}").unwrap(),
    }
}

/// Plays the lines of a dialogue that are ours to say, and renders all of it.
fn play(script: &str) -> String {
    let mut out = String::new();
    let mut lines = script.lines().peekable();
    let mut peer = None;
    while let Some(line) = lines.next() {
        if line.starts_with('<') || line.starts_with('!') {
            while lines.next_if(|l| l.starts_with("  ")).is_some() {}
            continue;
        }
        writeln!(out, "{line}").unwrap();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let (verb, rest) = line.split_once(' ').unwrap_or((line, ""));
        if verb == "config" {
            peer = Some(Peer::new(configure(rest)));
            continue;
        }
        let peer = peer.get_or_insert_with(|| Peer::new(Config::default()));
        match verb {
            ">" => {
                let mut text = Vec::new();
                while let Some(pair) = lines.next_if(|l| l.starts_with("  ")) {
                    writeln!(out, "{pair}").unwrap();
                    match pair.trim_start().strip_prefix("raw ") {
                        Some(raw) => text.extend_from_slice(raw.replace("\\0", "\0").as_bytes()),
                        None => text.extend_from_slice(format!("{}\0", expand(pair.trim_start())).as_bytes()),
                    }
                }
                let bhs = request(peer, rest);
                peer.send(bhs, &text);
            }
            "grant" => {
                peer.conn.login_grant(grant(rest));
            }
            "refuse" => {
                let code = u16::from_str_radix(rest, 16).unwrap();
                peer.conn.login_refuse(LoginStatus::from_code(code).unwrap());
            }
            "redirect" => peer.conn.login_redirect(false, rest),
            "redirect-permanently" => peer.conn.login_redirect(true, rest),
            "pass" => peer.pass(Duration::from_secs(number(rest).into())),
            _ => panic!("{verb} is not a verb"),
        }
        let mut events = Vec::new();
        // The last response must wait until its event was taken, and not longer.
        while let Some(event) = peer.try_event() {
            events.push(event);
        }
        for pdu in peer.pdus() {
            render_pdu(&mut out, &pdu);
        }
        events.iter().for_each(|event| render_event(&mut out, event));
    }
    out
}

#[test]
fn dialogues() {
    let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/login");
    let update = std::env::var_os("UPDATE").is_some();
    let mut played = 0;
    for entry in std::fs::read_dir(&folder).unwrap() {
        let path = entry.unwrap().path();
        let script = std::fs::read_to_string(&path).unwrap();
        // Dialogues of one file are parted by a line of dashes.
        let got: Vec<_> = script.split("----\n").map(play).collect();
        let got = got.join("----\n");
        if update {
            std::fs::write(&path, &got).unwrap();
        } else {
            for (i, (want, got)) in script.lines().zip(got.lines()).enumerate() {
                assert_eq!(want, got, "{}:{}", path.display(), i + 1);
            }
            assert_eq!(script, got, "{}", path.display());
        }
        played += 1;
    }
    assert!(played >= 7, "the dialogues are gone");
}

/// However the bytes of a login are cut, it goes the same way.
#[test]
fn a_login_cut_at_every_offset() {
    let names =
        format!("InitiatorName={}\0TargetName={}\0InitialR2T=No\0", common::INITIATOR, common::TARGET);
    let reference = Peer::logged_in_at(Config::default(), "InitialR2T=No\0", 0, 0).1;
    let bytes = common::encode(
        Peer::new(Config::default()).login_request().to_bhs(),
        &[],
        names.as_bytes(),
        (false, false),
    );
    for cut in 0..=bytes.len() {
        let mut peer = Peer::new(Config::default());
        peer.send_bytes(&bytes[..cut]);
        if cut < bytes.len() {
            peer.no_event();
            peer.send_bytes(&bytes[cut..]);
        }
        assert!(matches!(peer.event(), Event::Login(_)));
        assert!(peer.conn.is_waiting());
        peer.conn.login_grant(LoginGrant { portal_group_tag: 1, tsih: 1, ..LoginGrant::default() });
        assert_eq!(peer.conn.output_len(), 0, "the last response waits for its event");
        let Event::LoggedIn(info) = peer.event() else { panic!("not logged in") };
        assert_eq!(info, reference);
        assert!(peer.conn.output_len() > 0);
    }
}

#[test]
fn a_grant_after_the_end_is_too_late() {
    let mut peer = Peer::new(Config::default());
    let names = format!("InitiatorName={}\0TargetName={}\0", common::INITIATOR, common::TARGET);
    peer.send(peer.login_request().to_bhs(), names.as_bytes());
    assert!(matches!(peer.event(), Event::Login(_)));
    peer.pass(Duration::from_secs(15));
    assert!(matches!(peer.event(), Event::Closed(CloseReason::LoginTimeout)));
    peer.conn.login_grant(LoginGrant { portal_group_tag: 1, tsih: 1, ..LoginGrant::default() });
    peer.conn.login_refuse(LoginStatus::NotFound);
    peer.no_event();
    peer.no_pdu();
}

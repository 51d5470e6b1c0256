//! Dialogues byte for byte: what one initiator puts on the wire, and all that comes back.
//!
//! ```text
//! > 43 87 00*6 "Key=Value\0" pad   sends
//! < 23 87 .. S+1                   expects; a line without a verb goes on with the one before it
//! closed                           expects a FIN
//! ```
//!
//! A word is hexadecimal, a text, `00*N` (N bytes), `..` (a byte that the target picks), `S+N` (the StatSN of the first answer, and N), `@` (the
//! target's address) or `pad` (zeroes up to a multiple of four bytes from the line's beginning). Digits may be grouped in any way.

use std::io::{Read, Write};
use std::net::TcpStream;

use crate::gateway::{Gateway, PATIENCE};

/// What a byte is to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Byte {
    Is(u8),
    /// Whatever the target picks.
    Any,
    /// One of four bytes of a StatSN, from its beginning, so many after the first.
    StatSn(u8, u32),
}

/// Plays a dialogue with a connection of its own.
#[track_caller]
pub(super) fn play(gateway: &Gateway, script: &str) {
    let mut stream = TcpStream::connect(gateway.address).unwrap();
    stream.set_nodelay(true).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    let address = gateway.address.to_string();
    let mut stat_sn = None;
    for line in joined(script) {
        let (verb, words) = line.split_once(' ').unwrap_or((&line, ""));
        match verb {
            ">" => {
                let bytes: Vec<u8> =
                    parse(words, &address).into_iter().map(|byte| value(byte, stat_sn)).collect();
                stream.write_all(&bytes).unwrap();
            }
            "<" => {
                let wanted = parse(words, &address);
                let mut got = vec![0; wanted.len()];
                stream.read_exact(&mut got).unwrap_or_else(|err| panic!("{err} instead of {line}"));
                stat_sn = stat_sn.or_else(|| first_stat_sn(&wanted, &got));
                for (at, (wanted, byte)) in wanted.iter().zip(&got).enumerate() {
                    let fits = *wanted == Byte::Any || value(*wanted, stat_sn) == *byte;
                    assert!(fits, "byte {at} is {byte:02x}, not {wanted:02x?}, of\n{got:02x?}\nof\n{line}");
                }
            }
            "closed" => assert_eq!(stream.read(&mut [0]).unwrap(), 0, "more than the dialogue says"),
            _ => panic!("{verb} is not a verb"),
        }
    }
}

/// Lines without comments, each with what goes on below it.
fn joined(script: &str) -> Vec<String> {
    let mut lines: Vec<String> = Vec::new();
    for line in script.lines() {
        let text = line.trim();
        if text.is_empty() || text.starts_with('#') {
            continue;
        }
        match lines.last_mut() {
            Some(last) if !text.starts_with(['>', '<']) && text != "closed" => {
                *last = format!("{last} {text}")
            }
            _ => lines.push(text.to_owned()),
        }
    }
    lines
}

fn parse(mut words: &str, address: &str) -> Vec<Byte> {
    let mut bytes = Vec::new();
    loop {
        words = words.trim_start();
        if words.is_empty() {
            return bytes;
        }
        if let Some(rest) = words.strip_prefix('"') {
            let (text, rest) = rest.split_once('"').expect("a text ends");
            let text = text.replace("\\0", "\0").replace('@', address);
            bytes.extend(text.bytes().map(Byte::Is));
            words = rest;
            continue;
        }
        let (word, rest) = words.split_once(' ').unwrap_or((words, ""));
        words = rest;
        if word == "pad" {
            bytes.resize(bytes.len().next_multiple_of(4), Byte::Is(0));
        } else if let Some(after) = word.strip_prefix("S+") {
            let after = after.parse().unwrap();
            bytes.extend((0..4).map(|i| Byte::StatSn(i, after)));
        } else if let Some((byte, times)) = word.split_once('*') {
            let byte = u8::from_str_radix(byte, 16).unwrap();
            bytes.extend(std::iter::repeat_n(Byte::Is(byte), times.parse().unwrap()));
        } else {
            assert!(word.len().is_multiple_of(2) && word.is_ascii(), "{word}");
            let pairs = (0..word.len()).step_by(2).map(|at| &word[at..at + 2]);
            bytes.extend(pairs.map(|pair| match pair {
                ".." => Byte::Any,
                _ => Byte::Is(u8::from_str_radix(pair, 16).unwrap_or_else(|_| panic!("{word}"))),
            }));
        }
    }
}

fn first_stat_sn(wanted: &[Byte], got: &[u8]) -> Option<u32> {
    let at = wanted.iter().position(|byte| *byte == Byte::StatSn(0, 0))?;
    Some(u32::from_be_bytes(got[at..at + 4].try_into().unwrap()))
}

fn value(byte: Byte, stat_sn: Option<u32>) -> u8 {
    match byte {
        Byte::Is(byte) => byte,
        Byte::Any => panic!("a byte that the initiator picks"),
        Byte::StatSn(i, after) => {
            let stat_sn = stat_sn.expect("the first answer has S+0").wrapping_add(after);
            stat_sn.to_be_bytes()[usize::from(i)]
        }
    }
}

#[test]
#[should_panic(expected = "byte 1 is 00")]
fn a_dialogue_can_fail() {
    let (gateway, _) = Gateway::with_ram(crate::gateway::limits(), 1);
    // The answer to a login that is no login.
    play(&gateway, "> 00*48\n< 23 81");
}

//! `lus target auth ...`, `lus host auth ...`, `lus discovery auth ...`: who has to show by CHAP who it is. Secrets come from a file or from
//! stdin, or are made here; never from the command line, which others can see.

use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use clap::{Args, Subcommand};
use lus_map::{Chap, Credentials, Iqn, LusMap, Secret, Secrets, SecretsRefusal, Subject};
use serde_json::{Value, json};

use crate::error::{Failure, Result};
use crate::output::{Reply, count};
use crate::session::Session;
use crate::table::{Align, Column, table};
use crate::target::no_such_target;

/// A file with more than two of the longest lines is something else, bytes.
const FILE_BYTES_MAX: u64 = 1024;
/// Length of a secret that is made here: 96 bits in these letters, and what Windows takes (12 to 16).
const MADE_LEN: usize = 16;
/// 64 letters that every host takes, in every place where a secret is typed in or stands in a URL.
const LETTERS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
/// What a target is called at discovery where nobody says otherwise.
const DISCOVERY_NAME: &str = "lus";

const TARGET_EXAMPLES: &str = "\
Examples:
    lus target auth set iqn.2026-11.com.example:store --chap-name backup
    lus target auth set iqn.2026-11.com.example:store --chap-name backup -i secret.txt

Every host of the target then has to show this name and secret at its next login, but for those that have their own \
(lus host auth set). Sessions that there are go on. Without -i a secret is made, and shown this once.";

const HOST_EXAMPLES: &str = "\
Examples:
    lus host auth set iqn.2026-11.com.example:store iqn.1994-05.com.redhat:web1
    lus host auth set iqn.2026-11.com.example:store iqn.1994-05.com.redhat:web1 --mutual -i secrets.txt
    pass show web1 | lus host auth set iqn.2026-11.com.example:store iqn.1994-05.com.redhat:web1 -i -

A host's own beats what the target wants of all its hosts. Windows takes secrets of 12 to 16 letters. Without -i they are \
made, and shown this once.";

const DISCOVERY_EXAMPLES: &str = "\
Examples:
    lus discovery auth set --chap-name everyone

Whoever asks which targets there are then has to show this name and secret. It has nothing to do with those of targets.";

/// How the secrets come.
#[derive(Debug, Args)]
pub(crate) struct SecretArgs {
    /// File with the secret on its first line and, with --mutual, the target's on the second; - is stdin
    #[arg(short, long = "in-file", value_name = "FILE")]
    input: Option<PathBuf>,
    /// Let the target show who it is, too
    #[arg(long)]
    mutual: bool,
    /// Name that the target shows [default: the target's iSCSI name, lus at discovery]
    #[arg(long, value_name = "NAME", requires = "mutual")]
    mutual_name: Option<String>,
}

/// `lus target auth`.
#[derive(Debug, Subcommand)]
pub(crate) enum TargetAuth {
    /// Let the hosts of a target in with this name and secret only.
    #[command(after_long_help = TARGET_EXAMPLES)]
    Set {
        /// The target.
        #[arg(value_name = "IQN")]
        target: Iqn,
        /// Name that the hosts show [default: the target's iSCSI name]
        #[arg(long, value_name = "NAME")]
        chap_name: Option<String>,
        #[command(flatten)]
        secrets: SecretArgs,
    },
    /// Want nothing any more of hosts that have no secret of their own.
    Rm {
        /// The target.
        #[arg(value_name = "IQN")]
        target: Iqn,
    },
    /// List the targets with secrets, without these.
    Ls,
}

/// `lus host auth`.
#[derive(Debug, Subcommand)]
pub(crate) enum HostAuth {
    /// Let a host in with this name and secret only.
    #[command(after_long_help = HOST_EXAMPLES)]
    Set {
        /// The target.
        #[arg(value_name = "IQN")]
        target: Iqn,
        /// The initiator's iSCSI name.
        #[arg(value_name = "INITIATOR_IQN")]
        initiator: Iqn,
        /// Name that the host shows [default: its iSCSI name]
        #[arg(long, value_name = "NAME")]
        chap_name: Option<String>,
        #[command(flatten)]
        secrets: SecretArgs,
    },
    /// Want nothing of a host any more but what its target wants of all.
    Rm {
        /// The target.
        #[arg(value_name = "IQN")]
        target: Iqn,
        /// The initiator's iSCSI name.
        #[arg(value_name = "INITIATOR_IQN")]
        initiator: Iqn,
    },
    /// List the hosts of a target with secrets of their own, without these.
    Ls {
        /// The target.
        #[arg(value_name = "IQN")]
        target: Iqn,
    },
}

/// `lus discovery`.
#[derive(Debug, Subcommand)]
pub(crate) enum DiscoveryCommand {
    /// Say who may ask which targets there are.
    #[command(subcommand)]
    Auth(DiscoveryAuth),
}

/// `lus discovery auth`.
#[derive(Debug, Subcommand)]
pub(crate) enum DiscoveryAuth {
    /// Answer those only that show this name and secret.
    #[command(after_long_help = DISCOVERY_EXAMPLES)]
    Set {
        /// Name that the hosts show
        #[arg(long, value_name = "NAME", default_value = DISCOVERY_NAME)]
        chap_name: String,
        #[command(flatten)]
        secrets: SecretArgs,
    },
    /// Answer everybody.
    Rm,
    /// Show whether there is a secret, without it.
    Ls,
}

impl TargetAuth {
    /// Runs the verb.
    pub(crate) async fn run(&self, session: &Session) -> Result<Reply> {
        match self {
            Self::Set { target, chap_name, secrets } => {
                known_target(&*session.map().await?, target)?;
                let name = chap_name.as_deref().unwrap_or(target.as_str());
                set(session, Subject::Target(target.clone()), name, secrets).await
            }
            Self::Rm { target } => remove(session, Subject::Target(target.clone())).await,
            Self::Ls => list(session, |subject| matches!(subject, Subject::Target(_))).await,
        }
    }
}

impl HostAuth {
    /// Runs the verb.
    pub(crate) async fn run(&self, session: &Session) -> Result<Reply> {
        match self {
            Self::Set { target, initiator, chap_name, secrets } => {
                known_host(&*session.map().await?, target, initiator)?;
                let name = chap_name.as_deref().unwrap_or(initiator.as_str());
                set(session, Subject::Host(target.clone(), initiator.clone()), name, secrets).await
            }
            Self::Rm { target, initiator } => {
                remove(session, Subject::Host(target.clone(), initiator.clone())).await
            }
            Self::Ls { target } => {
                known_target(&*session.map().await?, target)?;
                list(session, |subject| matches!(subject, Subject::Host(of, _) if of == target)).await
            }
        }
    }
}

impl DiscoveryCommand {
    /// Runs the verb.
    pub(crate) async fn run(&self, session: &Session) -> Result<Reply> {
        let Self::Auth(command) = self;
        match command {
            DiscoveryAuth::Set { chap_name, secrets } => {
                set(session, Subject::Discovery, chap_name, secrets).await
            }
            DiscoveryAuth::Rm => remove(session, Subject::Discovery).await,
            DiscoveryAuth::Ls => list(session, |subject| *subject == Subject::Discovery).await,
        }
    }
}

fn known_target(map: &LusMap, target: &Iqn) -> Result<()> {
    map.target(target).map(drop).ok_or_else(|| no_such_target(target))
}

/// A host that may log in: of an open target any may.
fn known_host(map: &LusMap, target: &Iqn, initiator: &Iqn) -> Result<()> {
    let found = map.target(target).ok_or_else(|| no_such_target(target))?;
    if found.open || map.host(target, initiator).is_some() {
        return Ok(());
    }
    Err(Failure::not_found(format!(
        "host '{initiator}' is not one of target '{target}'; add it with: lus host add {target} {initiator}"
    )))
}

async fn set(session: &Session, subject: Subject, name: &str, args: &SecretArgs) -> Result<Reply> {
    let mut given = match &args.input {
        Some(path) => lines(path, args.mutual)?,
        None => Vec::new(),
    }
    .into_iter();
    let made = args.input.is_none();
    let mut next = || given.next().map_or_else(make_secret, Ok);
    let (secret, own) = (next()?, args.mutual.then(&mut next).transpose()?);
    let own_name = args.mutual_name.as_deref().unwrap_or(match &subject {
        Subject::Discovery => DISCOVERY_NAME,
        Subject::Target(target) | Subject::Host(target, _) => target.as_str(),
    });
    let own = own.map(|own| Credentials::new(own_name, own)).transpose()?;
    let chap = Chap { initiator: Credentials::new(name, secret)?, target: own, changed: session.now() };
    let heard = session.change_secrets(|secrets| secrets.set(&subject, chap.clone()).map(Some)).await?;
    let reply = if made { show(&chap) } else { Reply::default() };
    Ok(behind(reply.note(format!("authentication of {subject} set")), heard))
}

async fn remove(session: &Session, subject: Subject) -> Result<Reply> {
    let heard = session.change_secrets(|secrets| secrets.remove(&subject).map(Some)).await?;
    Ok(behind(Reply::done(format!("authentication of {subject} removed")), heard))
}

/// Forgets what was set for a target or a host that is gone. A client that may not know secrets says so: they stay, and would count again
/// for the same name.
pub(crate) async fn forget(session: &Session, gone: &Subject, reply: Reply) -> Reply {
    let step = |secrets: &Secrets| match gone {
        Subject::Target(target) => secrets.forget_target(target),
        gone => match secrets.remove(gone) {
            Err(SecretsRefusal::NotSet(_)) => Ok(None),
            step => step.map(Some),
        },
    };
    match session.forget_secrets(step).await {
        Ok(()) => reply,
        Err(failure) => {
            reply.note(format!("its authentication, if there was any, stays: {}", failure.message))
        }
    }
}

/// Says where a daemon did not acknowledge: an older secret may let hosts in for some seconds there.
fn behind(reply: Reply, behind: usize) -> Reply {
    match behind {
        0 => reply,
        behind => reply.note(format!("{} did not acknowledge it yet", count(behind, "daemon"))),
    }
}

/// What was made, once.
fn show(chap: &Chap) -> Reply {
    let text = |credentials: &Credentials| {
        let secret = String::from_utf8_lossy(credentials.secret().expose()).into_owned();
        (credentials.name().to_owned(), secret)
    };
    let (name, secret) = text(&chap.initiator);
    let (own_name, own_secret) = chap.target.as_ref().map(text).unzip();
    let mut plain = format!("host:    {name} {secret}\n");
    if let (Some(name), Some(secret)) = (&own_name, &own_secret) {
        plain += &format!("target:  {name} {secret}\n");
    }
    let json = json!({
        "name": name, "secret": secret, "mutual_name": own_name, "mutual_secret": own_secret
    });
    Reply::data(plain, json)
}

fn make_secret() -> Result<Secret> {
    let mut random = [0; MADE_LEN];
    getrandom::fill(&mut random)
        .map_err(|error| Failure::new(lusd_ceph::Errno::EIO, format!("no random numbers: {error}")))?;
    Ok(Secret::new(&random.map(|byte| LETTERS[usize::from(byte) % LETTERS.len()]))?)
}

/// The secrets of a file, a line each: one, or two for both directions.
fn lines(path: &Path, mutual: bool) -> Result<Vec<Secret>> {
    let mut text = Vec::new();
    let read = match path.to_str() {
        Some("-") => io::stdin().lock().take(FILE_BYTES_MAX + 1).read_to_end(&mut text),
        _ => File::open(path).and_then(|file| file.take(FILE_BYTES_MAX + 1).read_to_end(&mut text)),
    };
    let shown = path.display();
    read.map_err(|error| {
        let errno = error.raw_os_error().map_or(lusd_ceph::Errno::EIO, lusd_ceph::Errno::from_raw);
        Failure::new(errno, format!("cannot read {shown}: {error}"))
    })?;
    secrets_of(&text, mutual)
        .map_err(|failure| Failure::new(failure.errno, format!("{shown}: {}", failure.message)))
}

fn secrets_of(text: &[u8], mutual: bool) -> Result<Vec<Secret>> {
    let text = text.strip_suffix(b"\n").unwrap_or(text);
    let lines: Vec<&[u8]> =
        text.split(|byte| *byte == b'\n').map(|line| line.strip_suffix(b"\r").unwrap_or(line)).collect();
    match (lines.len(), mutual) {
        (1, false) | (2, true) => lines.into_iter().map(|line| Ok(Secret::new(line)?)).collect(),
        (_, false) => Err(Failure::invalid("one line with the secret is wanted (two with --mutual)")),
        (_, true) => Err(Failure::invalid("two lines are wanted: the host's secret and the target's")),
    }
}

const COLUMNS: [Column; 4] =
    [("FOR", Align::Left), ("NAME", Align::Left), ("MUTUAL", Align::Left), ("CHANGED", Align::Left)];

async fn list(session: &Session, wanted: impl Fn(&Subject) -> bool) -> Result<Reply> {
    let secrets = session.secrets().await?;
    let found = || secrets.iter().flat_map(Secrets::iter).filter(|(subject, _)| wanted(subject));
    let own_name = |chap: &Chap| chap.target.as_ref().map(|own| own.name().to_owned());
    let rows = found().map(|(subject, chap)| {
        let name = match subject {
            Subject::Discovery => "discovery".to_owned(),
            Subject::Target(name) | Subject::Host(_, name) => name.to_string(),
        };
        let own = own_name(chap).unwrap_or_else(|| "-".to_owned());
        vec![name, chap.initiator.name().to_owned(), own, chap.changed.to_string()]
    });
    let json: Vec<Value> = found()
        .map(|(subject, chap)| {
            let (target, host) = match subject {
                Subject::Discovery => (None, None),
                Subject::Target(target) => (Some(target), None),
                Subject::Host(target, initiator) => (Some(target), Some(initiator)),
            };
            json!({
                "target": target,
                "host": host,
                "name": chap.initiator.name(),
                "mutual_name": own_name(chap),
                "changed": chap.changed,
            })
        })
        .collect();
    Ok(Reply::data(table(&COLUMNS, rows), json))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_of_files() {
        let of = |text: &str, mutual| {
            let secrets = secrets_of(text.as_bytes(), mutual)?;
            Ok::<_, Failure>(secrets.iter().map(|secret| secret.expose().to_vec()).collect::<Vec<_>>())
        };
        let (host, target) = (b"secret of host".to_vec(), b"secret of disk".to_vec());
        for text in ["secret of host", "secret of host\n", "secret of host\r\n"] {
            assert_eq!(of(text, false).unwrap(), std::slice::from_ref(&host), "{text:?}");
        }
        assert_eq!(of("secret of host\nsecret of disk\n", true).unwrap(), [host, target]);
        for (text, mutual) in [
            ("", false),
            ("too short", false),
            ("secret of host\n\n", false),
            ("secret of host\nsecret of disk", false),
            ("secret of host", true),
            ("secret of host\nshort", true),
            ("secret of\thost", false),
        ] {
            assert!(of(text, mutual).is_err(), "{text:?}");
        }
    }

    #[test]
    fn made_secrets_differ_and_fit_every_host() {
        let (one, other) = (make_secret().unwrap(), make_secret().unwrap());
        assert_ne!(one, other);
        assert!((12..=16).contains(&one.expose().len()));
        assert!(one.expose().iter().all(|byte| LETTERS.contains(byte)));
    }

    #[test]
    fn what_was_made_is_shown() {
        let secret = |text: &[u8]| Secret::new(text).unwrap();
        let target = Some(Credentials::new("disk", secret(b"secret-of-disk")).unwrap());
        let initiator = Credentials::new("web1", secret(b"secret-of-host")).unwrap();
        let chap = Chap { initiator, target, changed: lus_map::Timestamp(0) };
        let reply = format!("{:?}", show(&chap));
        assert!(reply.contains("web1 secret-of-host") && reply.contains("disk secret-of-disk"), "{reply}");
    }
}

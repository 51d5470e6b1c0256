//! `lus completion`: completion scripts from the very tree that parses.

use clap::Args;
use clap_complete::Shell;

use crate::args::command;
use crate::output::Reply;

const EXAMPLES: &str = "\
Examples:
    lus completion bash > /etc/bash_completion.d/lus";

/// `lus completion`.
#[derive(Debug, Args)]
#[command(after_long_help = EXAMPLES)]
pub(crate) struct CompletionArgs {
    /// The shell.
    #[arg(value_name = "SHELL")]
    shell: Shell,
}

impl CompletionArgs {
    /// The script; needs no cluster.
    pub(crate) fn run(&self) -> Reply {
        let mut script = Vec::new();
        clap_complete::generate(self.shell, &mut command(), "lus", &mut script);
        Reply::text(String::from_utf8_lossy(&script))
    }
}

//! `lus-load`: see `--help`.
#![forbid(unsafe_code)]

use std::io::Write;
use std::process::ExitCode;

use clap::Parser;
use lus_load::options::{Format, Options};

fn main() -> ExitCode {
    let options = Options::parse();
    match lus_load::drive::run(&options) {
        Ok(report) => {
            let text = match options.format {
                Format::Json => format!("{:#}\n", report.to_json()),
                Format::Text => report.to_text(),
            };
            match std::io::stdout().write_all(text.as_bytes()) {
                Ok(()) => ExitCode::SUCCESS,
                Err(_) => ExitCode::FAILURE,
            }
        }
        Err(error) => {
            eprintln!("lus-load: {error:#}");
            ExitCode::FAILURE
        }
    }
}

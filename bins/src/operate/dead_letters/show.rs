//! `lambda dead-letters show`

use std::fmt::Write as _;
use std::io::{self, Write as _};

use clap::Args;
use lambda_core::Error;
use lambda_core::header::HeaderBuf;
use lambda_core::postgres::DeadLetters;
use lambda_core::postgres::dead_letters::{Content, DeadLetter, Filter};
use serde_json::{Value, json};

use super::selection::by_number;
use super::{CommonArgs, object, place, printable};
use crate::args::Output;
use crate::operate::short;
use crate::operate::timeout::TimeoutArgs;
use crate::pipelines::NameArgs;
use crate::{Failure, json};

/// Bytes per line of hex.
const HEX_LINE: usize = 16;

#[derive(Debug, Args)]
pub(super) struct ShowArgs {
    /// Number of the dead letter
    #[arg(value_name = "ID")]
    id: i64,
    /// Write only the payload, to be edited for a replay
    #[arg(long)]
    payload: bool,
    /// With --payload: as it was read, not as edited since
    #[arg(long, requires = "payload")]
    original: bool,
    #[command(flatten)]
    name: NameArgs,
    #[command(flatten)]
    common: CommonArgs,
}

pub(super) async fn run(args: &ShowArgs, timeout: TimeoutArgs) -> Result<(), Failure> {
    let (id, pipeline) = (args.id, &args.name.pipeline);
    let unknown =
        || Error::Input { what: format!("no dead letter of {pipeline} has the number {id}") };
    let filter = Filter { pipeline: Some(pipeline.clone()), ..by_number(vec![id]) };
    let reading = async |letters: &DeadLetters| {
        let letter = letters.list(&filter, 1).await?.pop().ok_or_else(unknown)?;
        Ok((letters.content(id).await?.ok_or_else(unknown)?, letter))
    };
    let (content, letter) = args.common.read(timeout, reading).await?;
    let letter = &letter;
    if args.payload {
        let read = content.payload.as_deref();
        let payload = if args.original { read } else { content.current() };
        let payload = payload.ok_or_else(|| Error::Input { what: no_payload(letter) })?;
        return write(payload);
    }
    match args.common.output.output {
        Output::Human => crate::print(text(letter, &content)),
        Output::Json => {
            let mut shown = object(letter);
            put(&mut shown, "key", content.key.as_deref());
            shown["headers"] = content.headers.iter().map(header).collect();
            shown["message_time"] = json!(content.message_time.map(|at| at.to_string()));
            put(&mut shown, "payload", content.payload.as_deref());
            put(&mut shown, "edited_payload", content.edited_payload.as_deref());
            json::print("dead_letters", vec![shown], [])
        }
    }
}

fn write(payload: &[u8]) -> Result<(), Failure> {
    let mut out = io::stdout().lock();
    match out.write_all(payload).and_then(|()| out.flush()) {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => {
            Err(Failure::unexpected("write to standard output", error))
        }
        _ => Ok(()),
    }
}

fn no_payload(letter: &DeadLetter) -> String {
    match letter.purged_at {
        Some(at) => format!("the payload of dead letter {} was purged at {at}", letter.id),
        None => format!("dead letter {} is a message without a value", letter.id),
    }
}

/// Inserts text under `name`, or other bytes in hex under `name_hex`.
fn put(object: &mut Value, name: &str, bytes: Option<&[u8]>) {
    match bytes.map(|bytes| (bytes, readable(bytes))) {
        None => object[name] = Value::Null,
        Some((_, Some(text))) => object[name] = json!(text),
        Some((bytes, None)) => object[format!("{name}_hex")] = json!(hex(bytes)),
    }
}

fn header(header: &HeaderBuf) -> Value {
    let mut shown = json!({ "name": header.name });
    put(&mut shown, "value", header.value.as_deref());
    shown
}

fn text(letter: &DeadLetter, content: &Content) -> String {
    let mut text = format!("dead letter {}, {}\n", letter.id, letter.status);
    let mut line = |name: &str, value: &str| {
        // Writing to a string does not fail.
        let _ = writeln!(text, "  {name:<9}{value}");
    };
    line("place", &printable(&place(letter)));
    line("lane", &printable(&letter.lane.to_string()));
    if let Some(job_id) = &letter.job_id {
        let file = letter.file_name.as_deref().unwrap_or_default();
        line("job", &printable(&format!("{job_id}, {file}, byte {}", letter.position)));
    }
    line("reason", &printable(&letter.reason));
    line("detail", &printable(&letter.detail));
    line("rejected", &format!("{:.0}, {} ago", letter.created_at, short(letter.age)));
    line("tries", &letter.attempts.to_string());
    if let Some(at) = letter.resolved_at {
        line(letter.status.as_str(), &format!("{at:.0}"));
    }
    if let Some(at) = letter.purged_at {
        line("purged", &format!("{at:.0}"));
    }
    if let Some(at) = content.message_time {
        line("produced", &at.to_string());
    }
    let shown = |bytes: &[u8]| readable(bytes).map_or_else(|| hex(bytes), ToOwned::to_owned);
    if let Some(key) = &content.key {
        line("key", &shown(key));
    }
    for HeaderBuf { name, value } in &content.headers {
        let value = value.as_deref().map_or_else(|| "no value".to_owned(), shown);
        line("header", &format!("{}: {value}", printable(name)));
    }
    match &content.payload {
        Some(payload) => dump(&mut text, "payload", payload),
        None => {
            let _ = writeln!(text, "\n{}", no_payload(letter));
        }
    }
    if let Some(edited) = &content.edited_payload {
        dump(&mut text, "edited payload", edited);
    }
    text.truncate(text.trim_end().len());
    text
}

fn dump(text: &mut String, name: &str, bytes: &[u8]) {
    let _ = writeln!(text, "\n{name}, {} bytes:", bytes.len());
    if let Some(readable) = readable(bytes) {
        text.push_str(readable);
        text.push('\n');
    } else {
        for (number, line) in bytes.chunks(HEX_LINE).enumerate() {
            let _ = writeln!(text, "{:08x}  {}", number * HEX_LINE, hex(line));
        }
    }
}

/// The bytes as text, if they are UTF-8 without control characters a terminal would obey.
fn readable(bytes: &[u8]) -> Option<&str> {
    let text = str::from_utf8(bytes).ok()?;
    let obeyed = |character: char| character.is_control() && !"\n\r\t".contains(character);
    (!text.contains(obeyed)).then_some(text)
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::with_capacity(bytes.len() * 2), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

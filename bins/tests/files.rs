//! Loads of unusual files and folders: the real binary, a real database, real signals (rules
//! R19 and R20 in docs/protocol.md).

mod loads;

use std::fs::{self, File};
use std::io::{self, Write as _};
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::process::ExitCode;

use lambda_lab::Failure;
use lambda_lab::harness::Context;
use lambda_lab::liveness::until;
use lambda_lab::processes::{Process, Signal};
use serde_json::Value;

use loads::{Bench, DEADLINE, HEADER, all_but_the_end, gzip, row, rows, zstandard};

/// Longest record that is accepted.
const RECORD_BYTES_MAX: usize = 4 << 20;

fn main() -> ExitCode {
    lambda_lab::harness::main(|suite| {
        suite.deadline(180);
        suite.postgres("a file changed between plan and load completes nothing", changed);
        suite.postgres("a file that grew after its last chunk was read stays", grown_at_the_end);
        suite.postgres("files of several members are one content", members);
        suite.postgres("zeros after a .gz file are padding, other data is reported", padded);
        suite.postgres("a damaged file is refused, and nothing of it is stored", damaged);
        suite.postgres("standard input is a file like any other", stdin);
        suite.postgres("standard input that never ends does not keep a run from stopping", endless);
        suite.postgres("a bad file among good ones does not stop their load", folder);
        suite.postgres("markers, unfinished and special files in an inbox are skipped", inbox);
        suite.postgres("a file that another run moved away is no error", moved_away);
        suite.postgres("an empty file is success and stays", empty);
        suite.postgres("a file that is not CSV is refused with its format", foreign);
        suite.postgres("lines that end with CR are counted", carriage_returns);
        suite.postgres(
            "a rejects file that cannot be written is found before anything is loaded",
            rejects,
        );
        suite.postgres("the rejects file is never one of the inputs", rejects_over_input);
        suite.postgres(
            "an archive that cannot be written is found before any file is loaded",
            no_archive,
        );
        suite.postgres("files are archived whole, on another file system too", archive);
        suite.postgres("a record of 4 MiB is stored, a longer one refuses its file", longest);
        suite.postgres("a quote that is never closed refuses its file", open_quote);
    })
}

/// Starts a run that has planned its file and finds no job yet, and blocks it there until
/// `then` is done.
async fn between_plan_and_load(
    bench: &Bench,
    path: &Path,
    flags: &[&str],
    then: impl FnOnce() -> io::Result<()>,
) -> Result<Process, Failure> {
    let blocker = bench.database.connect().await?;
    blocker.batch_execute("begin; lock table batch_jobs in exclusive mode").await?;
    let process = bench.program(&[path]).args(flags).start()?;
    bench.until_blocked("job").await?;
    then()?;
    blocker.batch_execute("commit").await?;
    Ok(process)
}

async fn changed(context: Context) -> Result<(), Failure> {
    let bench = Bench::new(context).await?;
    let text = rows(1_000);
    let contents = [
        ("a.csv", text.clone().into_bytes()),
        ("b.csv.gz", gzip(text.as_bytes())?),
        ("c.csv.zst", zstandard(text.as_bytes())?),
    ];
    let mut attempts = 0;
    for (name, bytes) in contents {
        let longer = [&bytes[..], &bytes[..]].concat();
        let shorter = bytes[..bytes.len() - 10].to_vec();
        let mut other = bytes.clone();
        let middle = other.len() / 2;
        other[middle] ^= 1;
        for changed in [longer, shorter, other] {
            let path = bench.file(name, &bytes)?;
            let modified = path.metadata()?.modified()?;
            // Overwritten, with its old time: if the size is the same too, only the bytes show the
            // change.
            let change = || {
                let mut file = File::options().write(true).truncate(true).open(&path)?;
                file.write_all(&changed)?;
                file.set_modified(modified)
            };
            let process = between_plan_and_load(&bench, &path, &[], change).await?;
            let ended = process.wait(DEADLINE).await?.expect_code(75)?;
            assert!(
                ended.stderr.contains(&format!("{name} changed while it was read")),
                "{}",
                ended.stderr
            );
            attempts += 1;
            let job = bench
                .sql
                .query_one("select status, attempt, lease_until is null from batch_jobs", &[]);
            let job = job.await?;
            assert_eq!(job.try_get::<_, &str>(0)?, "pending");
            assert_eq!(job.try_get::<_, i32>(1)?, attempts);
            assert!(job.try_get::<_, bool>(2)?);
            assert_eq!(bench.number("select count(*) from transactions").await?, 0);
        }
    }
    bench.load(&bench.file("as it was.csv", &text)?, &[], 0).await?;
    bench.is_exact(1_000).await
}

/// Everything planned is stored, so the job is completed. The added record is not, so the
/// file must stay where the next run finds it.
async fn grown_at_the_end(context: Context) -> Result<(), Failure> {
    let bench = Bench::new(context).await?;
    let archive = bench.folder.join("archive");
    let flags = ["--archive", &archive.display().to_string()];
    let stored = "select count(*) from transactions";
    let grow = |path: &Path, number| {
        File::options().append(true).open(path)?.write_all(row(number).as_bytes())
    };
    // A file without a chunk.
    let path = bench.file("header.csv", HEADER)?;
    let process = between_plan_and_load(&bench, &path, &flags, || grow(&path, 1)).await?;
    process.wait(DEADLINE).await?.expect_code(0)?;
    assert_eq!(bench.number(stored).await?, 0);
    assert!(path.exists(), "a file with a record that is not stored was moved away");
    bench.load(&path, &flags, 0).await?;
    assert_eq!(bench.number(stored).await?, 1);
    assert!(!path.exists());
    // When all its chunks are stored and only the end of the job remains to be written.
    let path = bench.file("a.csv", HEADER.to_owned() + &row(2))?;
    let (process, holder) = all_but_the_end(&bench, &path, &flags).await?;
    grow(&path, 3)?;
    holder.batch_execute("commit").await?;
    process.wait(DEADLINE).await?.expect_code(0)?;
    assert_eq!(bench.number(stored).await?, 2);
    assert!(path.exists(), "a file with a record that is not stored was moved away");
    Ok(())
}

async fn members(context: Context) -> Result<(), Failure> {
    let bench = Bench::new(context).await?;
    let text = rows(120_000);
    // Member borders inside a record, and an empty member.
    let (first, rest) = text.as_bytes().split_at(1_000_003);
    let parts = [first, b"", rest];
    let gzipped: Vec<Vec<u8>> = parts.into_iter().map(gzip).collect::<Result<_, _>>()?;
    let mut zstandards: Vec<Vec<u8>> =
        parts.into_iter().map(zstandard).collect::<Result<_, _>>()?;
    // A skippable frame.
    zstandards.insert(1, vec![0x50, 0x2a, 0x4d, 0x18, 4, 0, 0, 0, 1, 2, 3, 4]);
    bench.load(&bench.file("a.csv.gz", gzipped.concat())?, &["--workers", "4"], 0).await?;
    bench.is_exact(120_000).await?;
    for path in [bench.file("b.csv.zst", zstandards.concat())?, bench.file("c.csv", &text)?] {
        let report = bench.load(&path, &[], 0).await?;
        assert_eq!(report["outcome"], "already_loaded", "{}", path.display());
    }
    Ok(())
}

async fn padded(context: Context) -> Result<(), Failure> {
    let bench = Bench::new(context).await?;
    let (text, zeros) = (rows(2_000), vec![0; 100_000]);
    let gzipped = gzip(text.as_bytes())?;
    let garbage = [&gzipped[..], &zeros[..7], b"garbage"].concat();
    let report = bench.load(&bench.file("garbage.csv.gz", garbage)?, &[], 65).await?;
    let error = report["error"].as_str().unwrap_or_default();
    assert!(error.contains(&format!("at byte {} of the file", gzipped.len() + 7)), "{error}");
    bench.is_empty().await?;
    bench.load(&bench.file("padded.csv.gz", [gzipped, zeros].concat())?, &[], 0).await?;
    bench.is_exact(2_000).await
}

async fn damaged(context: Context) -> Result<(), Failure> {
    let bench = Bench::new(context).await?;
    let text = rows(20_000);
    let mut random = fastrand::Rng::with_seed(7);
    let mut files = 0;
    for (kind, bytes) in [("gz", gzip(text.as_bytes())?), ("zst", zstandard(text.as_bytes())?)] {
        for number in 0..20 {
            // The last bytes too, and the first: a file of one byte is truncated.
            let end = match number {
                0 => 1,
                1 => bytes.len() - 1,
                _ => random.usize(2..bytes.len() - 1),
            };
            bench.file(&format!("cut-{number}.csv.{kind}"), &bytes[..end])?;
            // Not in the header, whose times and names do not matter here.
            let mut corrupt = bytes.clone();
            corrupt[random.usize(20..bytes.len())] ^= 1 << random.u32(0..8);
            bench.file(&format!("corrupt-{number}.csv.{kind}"), corrupt)?;
            files += 2;
        }
    }
    let ended = bench.program(&[&bench.folder]).run(DEADLINE).await?.expect_code(65)?;
    let summary: Value = serde_json::from_str(&ended.stdout)?;
    let reports = summary["files"].as_array().ok_or("a list of files")?;
    assert_eq!(reports.len(), files);
    for report in reports {
        assert_eq!(report["exit_code"], 65, "{report}");
        let error = report["error"].as_str().unwrap_or_default();
        assert!(error.contains(" byte "), "{report}");
    }
    bench.is_empty().await
}

async fn stdin(context: Context) -> Result<(), Failure> {
    let bench = Bench::new(context).await?;
    let path = bench.file("empty", "")?;
    let program = bench.program(&[Path::new("-")]);
    let ended = program.clone().input(path).run(DEADLINE).await?.expect_code(0)?;
    assert!(ended.stdout.contains("\"outcome\":\"empty\""), "{}", ended.stdout);
    let path = bench.file("a.csv.gz", gzip(rows(2_000).as_bytes())?)?;
    let nowhere = bench.folder.join("missing");
    let full = program.clone().input(&path).env("TMPDIR", nowhere);
    let ended = full.run(DEADLINE).await?.expect_code(78)?;
    assert!(ended.stderr.contains("set TMPDIR"), "{}", ended.stderr);
    bench.is_empty().await?;
    let temporary = bench.folder.join("tmp");
    fs::create_dir(&temporary)?;
    program.input(&path).env("TMPDIR", &temporary).run(DEADLINE).await?.expect_code(0)?;
    bench.is_exact(2_000).await?;
    assert_eq!(fs::read_dir(&temporary)?.count(), 0, "files that remain");
    let report = bench.load(&path, &[], 0).await?;
    assert_eq!(report["outcome"], "already_loaded");
    Ok(())
}

async fn endless(context: Context) -> Result<(), Failure> {
    let bench = Bench::new(context).await?;
    let (pipe, temporary) = (bench.folder.join("pipe"), bench.folder.join("tmp"));
    fs::create_dir(&temporary)?;
    rustix::fs::mkfifoat(rustix::fs::CWD, &pipe, rustix::fs::Mode::from(0o600))?;
    // Held open for writing, so that it has no end.
    let mut writer = File::options().read(true).write(true).open(&pipe)?;
    writer.write_all(rows(100).as_bytes())?;
    let program = bench.program(&[Path::new("-")]).input(&pipe).env("TMPDIR", &temporary);
    let process = program.start()?;
    let spooling = async || {
        let open = fs::read_dir(format!("/proc/{}/fd", process.pid()))?;
        let mut targets = open.filter_map(|entry| fs::read_link(entry.ok()?.path()).ok());
        Ok(targets.any(|target| target.starts_with(&temporary)))
    };
    until("standard input is being copied", spooling).await?;
    assert_eq!(fs::read_dir(&temporary)?.count(), 0, "its copy has a name, and may remain");
    process.signal(Signal::TERM)?;
    let ended = process.wait(DEADLINE).await?.expect_code(75)?;
    assert!(ended.stderr.contains("standard input: stopped"), "{}", ended.stderr);
    drop(writer);
    bench.is_empty().await
}

async fn folder(context: Context) -> Result<(), Failure> {
    let bench = Bench::new(context).await?;
    for (name, text) in [
        ("1 bad.csv", "no,columns\n".to_owned()),
        ("2 good.csv", rows(10)),
        ("3 unfinished.csv.part", rows(20)),
        (".hidden", rows(30)),
        ("5 last.csv", format!("{HEADER}{}", row(10))),
    ] {
        bench.file(name, text)?;
    }
    let code = |report: &Value| report["exit_code"].as_i64();
    let run = async |paths: &[&Path], expected: i32| {
        let ended = bench.program(paths).run(DEADLINE).await?.expect_code(expected)?;
        let summary: Value = serde_json::from_str(&ended.stdout)?;
        let files = summary["files"].as_array().ok_or("a list of files")?;
        Ok::<_, Failure>(files.iter().map(code).collect::<Vec<_>>())
    };
    let pattern = bench.folder.join("*.csv*");
    assert_eq!(run(&[&pattern], 65).await?, [Some(65), None, None]);
    assert_eq!(bench.number("select count(*) from transactions").await?, 11);
    // A link that leads nowhere is a file that this user cannot read.
    std::os::unix::fs::symlink("nowhere", bench.folder.join("4 lost.csv"))?;
    assert_eq!(run(&[&bench.folder], 78).await?, [Some(65), None, Some(78), None]);
    assert_eq!(bench.number("select count(*) from batch_jobs").await?, 2);
    // A job that another run holds gives 75, but a refused file counts more.
    bench.sql.execute("update batch_jobs set status = 'running', owner = 'another', lease_until = now() + interval '1 hour' where records = 1", &[]).await?;
    let held = bench.folder.join("5 last.csv");
    let (alone, all) = ([held.as_path()], [pattern.as_path()]);
    let (alone, both) = tokio::join!(run(&alone, 75), run(&all, 78));
    assert_eq!((alone?, both?), (vec![Some(75)], vec![Some(65), None, Some(78), Some(75)]));
    let nothing = bench.folder.join("nothing");
    fs::create_dir(&nothing)?;
    assert_eq!(bench.program(&[&nothing]).run(DEADLINE).await?.code(), Some(0));
    Ok(())
}

async fn inbox(context: Context) -> Result<(), Failure> {
    let bench = Bench::new(context).await?;
    bench.file("a.csv", rows(10))?;
    for name in ["_SUCCESS", "b.csv~", "b.csv.tmp", "b.csv.filepart", "b.csv.swp", "b.csv.part"] {
        bench.file(name, rows(20))?;
    }
    // Opening it would wait for a writer.
    let pipe = bench.folder.join("pipe.csv");
    rustix::fs::mkfifoat(rustix::fs::CWD, &pipe, rustix::fs::Mode::from(0o600))?;
    for all in [bench.folder.clone(), bench.folder.join("*")] {
        let ended = bench.program(&[&all]).run(DEADLINE).await?.expect_code(0)?;
        let summary: Value = serde_json::from_str(&ended.stdout)?;
        assert_eq!(summary["files"].as_array().map(Vec::len), Some(1), "{summary}");
    }
    bench.is_exact(10).await
}

async fn moved_away(context: Context) -> Result<(), Failure> {
    let bench = Bench::new(context).await?;
    let (archive, inbox) = (bench.folder.join("archive"), bench.folder.join("inbox"));
    fs::create_dir(&inbox)?;
    fs::write(inbox.join("1.csv"), rows(10))?;
    fs::write(inbox.join("2.csv"), rows(20))?;
    let flags = ["--archive", &archive.display().to_string()];
    // Another run moves both while this one loads the first.
    let away = || {
        fs::create_dir_all(bench.folder.join("elsewhere"))?;
        ["1.csv", "2.csv"].into_iter().try_for_each(|name| {
            fs::rename(inbox.join(name), bench.folder.join("elsewhere").join(name))
        })
    };
    let process = between_plan_and_load(&bench, &inbox, &flags, away).await?;
    let ended = process.wait(DEADLINE).await?.expect_code(0)?;
    let summary: Value = serde_json::from_str(&ended.stdout)?;
    assert_eq!(summary["files"][0]["outcome"], "loaded", "{summary}");
    assert_eq!(summary["files"][1]["outcome"], "taken", "{summary}");
    assert_eq!(fs::read_dir(&archive)?.count(), 0, "something else was left there");
    bench.is_exact(10).await?;

    // Two real runs.
    let names: Vec<String> = (0..30).map(|number| format!("{number}.csv")).collect();
    for (number, name) in names.iter().enumerate() {
        fs::write(inbox.join(name), HEADER.to_owned() + &row(100 + number))?;
    }
    let program = bench.program(&[&inbox]).args(flags);
    let (one, other) = (program.start()?, program.start()?);
    one.wait(DEADLINE).await?.expect_code(0)?;
    other.wait(DEADLINE).await?.expect_code(0)?;
    assert_eq!(bench.number("select count(*) from transactions").await?, 40);
    let mut archived: Vec<_> =
        fs::read_dir(&archive)?.map(|entry| Ok(entry?.file_name())).collect::<io::Result<_>>()?;
    archived.sort();
    let mut expected: Vec<_> = names.into_iter().map(std::ffi::OsString::from).collect();
    expected.sort();
    assert_eq!(archived, expected);
    Ok(())
}

async fn empty(context: Context) -> Result<(), Failure> {
    let bench = Bench::new(context).await?;
    let archive = bench.folder.join("archive").display().to_string();
    let paths = [
        bench.file("empty.csv", "")?,
        bench.file("nothing.csv.gz", "")?,
        bench.file("mark.csv", "\u{feff}\r\n\n")?,
        bench.file("empty.csv.gz", gzip(b"")?)?,
    ];
    for path in paths {
        for flags in [&["--archive", &archive][..], &["--dry-run"]] {
            let report = bench.load(&path, flags, 0).await?;
            assert_eq!(report["outcome"], "empty", "{report}");
        }
        let human = bench.human(&[&path]).run(DEADLINE).await?;
        let said = human.expect_code(0)?.stdout;
        assert!(said.contains("empty, not even a header"), "{said}");
        // Its writer may have just begun.
        assert!(path.exists());
    }
    bench.is_empty().await
}

async fn foreign(context: Context) -> Result<(), Failure> {
    let bench = Bench::new(context).await?;
    let wide: Vec<u8> = rows(3).encode_utf16().flat_map(u16::to_le_bytes).collect();
    let marked = [b"\xff\xfe", &wide[..]].concat();
    let json = br#"[{"transaction_id": "TXN-1"}]"#;
    for (name, bytes, says) in [
        ("utf-16.csv", marked.clone(), "UTF-16 text: convert it to UTF-8"),
        ("no mark.csv", wide, "UTF-16 text: convert it to UTF-8"),
        ("workbook.csv", b"PK\x03\x04 zip".to_vec(), "a zip archive"),
        ("zip.csv.gz", b"PK\x03\x04 zip".to_vec(), "a zip archive"),
        ("json.csv", json.to_vec(), "JSON"),
        ("json.csv.gz", gzip(json)?, "JSON"),
        ("utf-16.csv.zst", zstandard(&marked)?, "UTF-16"),
        ("twice.csv.gz", gzip(&gzip(rows(3).as_bytes())?)?, "gzip data inside compressed data"),
        ("error page.csv", b"<!DOCTYPE html>\n<html>".to_vec(), "HTML"),
        ("semicolons.csv", rows(3).replace(',', ";").into_bytes(), "with semicolons"),
    ] {
        let report = bench.load(&bench.file(name, bytes)?, &[], 65).await?;
        let error = report["error"].as_str().unwrap_or_default();
        assert!(error.contains(says), "{name}: {error}");
    }
    bench.is_empty().await
}

async fn carriage_returns(context: Context) -> Result<(), Failure> {
    let bench = Bench::new(context).await?;
    let text = rows(3) + "short,row\n" + &row(3);
    bench.load(&bench.file("a.csv", text.replace('\n', "\r"))?, &[], 0).await?;
    assert_eq!(bench.number("select count(*) from transactions").await?, 4);
    assert_eq!(bench.number("select line from dead_letters").await?, 5);
    let open = rows(3) + "TXN-open,\"ACC\n";
    let report = bench.load(&bench.file("open.csv", open.replace('\n', "\r"))?, &[], 65).await?;
    let error = report["error"].as_str().unwrap_or_default();
    assert!(error.contains("line 5"), "{error}");
    Ok(())
}

async fn rejects(context: Context) -> Result<(), Failure> {
    let bench = Bench::new(context).await?;
    let path = bench.file("a.csv", rows(10) + "short,row\n")?;
    let there = bench.file("rejects", "of another run")?;
    for nowhere in [bench.folder.join("missing/rejects"), bench.folder.clone(), "/dev/full".into()]
    {
        let flags = ["--rejects", &nowhere.display().to_string()];
        let ended = bench.program(&[&path]).args(flags).run(DEADLINE).await?.expect_code(78)?;
        assert!(ended.stderr.contains("--rejects"), "{}", ended.stderr);
        bench.is_empty().await?;
    }
    let flags = ["--rejects", &there.display().to_string()];
    // An existing file is replaced, and a second run of the same content lists the same rejects.
    for outcome in ["loaded", "already_loaded"] {
        assert_eq!(bench.load(&path, &flags, 0).await?["outcome"], outcome);
        let mut reader = csv::Reader::from_path(&there)?;
        let listed: Vec<csv::StringRecord> = reader.records().collect::<Result<_, _>>()?;
        assert_eq!(listed.len(), 1);
        assert_eq!((&listed[0][1], &listed[0][5]), ("12", "short,row"));
    }
    Ok(())
}

async fn rejects_over_input(context: Context) -> Result<(), Failure> {
    let bench = Bench::new(context).await?;
    let text = rows(10);
    let (path, link) = (bench.file("a.csv", &text)?, bench.folder.join("link"));
    fs::hard_link(&path, &link)?;
    for rejects in [&path, &link] {
        let flags = ["--rejects", &rejects.display().to_string()];
        for dry in [&[][..], &["--dry-run"]] {
            let program = bench.program(&[&path]).args(flags).args(dry);
            let ended = program.run(DEADLINE).await?.expect_code(78)?;
            assert!(ended.stderr.contains("--rejects"), "{}", ended.stderr);
            assert_eq!(fs::read_to_string(&path)?, text, "the input was written over");
        }
    }
    bench.is_empty().await
}

async fn no_archive(context: Context) -> Result<(), Failure> {
    let bench = Bench::new(context).await?;
    let path = bench.file("a.csv", rows(10))?;
    // Not even root can create a file in /proc; and in its own folder a file would get
    // another name each time.
    for nowhere in [path.clone(), path.join("archive"), "/proc".into(), bench.folder.clone()] {
        let flags = ["--archive", &nowhere.display().to_string()];
        let ended = bench.program(&[&path]).args(flags).run(DEADLINE).await?.expect_code(78)?;
        assert!(ended.stderr.contains("--archive"), "{}", ended.stderr);
        assert!(path.exists());
        bench.is_empty().await?;
    }
    Ok(())
}

async fn archive(context: Context) -> Result<(), Failure> {
    let bench = Bench::new(context).await?;
    let elsewhere = tempfile::tempdir_in("/dev/shm")?;
    let device = |path: &Path| path.metadata().map(|metadata| metadata.dev());
    assert_ne!(
        device(elsewhere.path())?,
        device(&bench.folder)?,
        "set TMPDIR to a file system other than /dev/shm"
    );
    let archive = elsewhere.path().join("a/b");
    let flags = ["--archive", &archive.display().to_string()];
    let names = ["a.csv", "a.csv.1", "a.csv.2"];
    for (number, name) in names.into_iter().enumerate() {
        let text = rows(10 + number);
        let path = bench.file("a.csv", &text)?;
        bench.load(&path, &flags, 0).await?;
        assert!(!path.exists());
        assert_eq!(fs::read_to_string(archive.join(name))?, text);
        assert_eq!(fs::read_dir(&archive)?.count(), number + 1, "something else was left there");
    }
    Ok(())
}

async fn longest(context: Context) -> Result<(), Failure> {
    let bench = Bench::new(context).await?;
    let (before, after) = ("TXN-long,ACC-1,purchase,1.00,2025-06-19 10:00:00,,\"", "\",,");
    let longest = RECORD_BYTES_MAX - before.len() - after.len();
    let long = |bytes| format!("{before}{}{after}\n", &"x\n".repeat(RECORD_BYTES_MAX)[..bytes]);
    // If rejected, it is a dead letter with all its bytes.
    let rejected = long(longest).replacen("purchase", "purchasX", 1);
    let text = rows(3) + &long(longest) + &rejected + &row(4);
    bench.load(&bench.file("a.csv", text)?, &[], 0).await?;
    let stored =
        "select length(location)::bigint from transactions where transaction_id = 'TXN-long'";
    assert_eq!(bench.number(stored).await?, i64::try_from(longest)?);
    assert_eq!(bench.number("select count(*) from transactions").await?, 5);
    let payload = "select payload from dead_letters";
    let payload: Vec<u8> = bench.sql.query_one(payload, &[]).await?.try_get(0)?;
    assert!(payload == rejected.trim_end().as_bytes(), "the payload is not the record");

    let before = bench.everything().await?;
    let text = rows(3) + &long(longest + 1) + &row(4);
    let report = bench.load(&bench.file("b.csv", text)?, &[], 65).await?;
    let error = report["error"].as_str().unwrap_or_default();
    assert!(error.contains("line 5"), "{error}");
    assert_eq!(bench.everything().await?, before);
    Ok(())
}

/// A truncated file, or a forgotten quote: all that follows would be one
/// record.
async fn open_quote(context: Context) -> Result<(), Failure> {
    let bench = Bench::new(context).await?;
    let opens = "TXN-open,ACC-1,purchase,1.00,2025-06-19 10:00:00,\"two\nlines\",\"Paris\n";
    let cut = rows(3) + opens.trim_end();
    let forgotten = rows(3) + opens + &row(4).replace('"', "");
    let endless = rows(3) + opens + &row(4).replace('"', "").repeat(60_000);
    for (name, text) in [("cut.csv", cut), ("forgotten.csv", forgotten), ("endless.csv", endless)] {
        for (name, bytes) in [
            (name.to_owned(), text.clone().into_bytes()),
            (format!("{name}.gz"), gzip(text.as_bytes())?),
        ] {
            let report = bench.load(&bench.file(&name, bytes)?, &[], 65).await?;
            let error = report["error"].as_str().unwrap_or_default();
            assert!(error.contains("line 6"), "{name}: {error}");
        }
    }
    bench.is_empty().await
}

//! The fuzzer's property of the request parser, over its corpus: cut everywhere, and garbled.

#[allow(dead_code)]
#[path = "../../fuzz/src/lib.rs"]
mod property;

use std::panic::catch_unwind;
use std::path::Path;

use property::{Input, check, check_pieces, meaning};

/// The files, by name.
fn corpus() -> Vec<(String, Vec<u8>)> {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus/request");
    let mut files: Vec<_> = std::fs::read_dir(&directory)
        .unwrap_or_else(|error| panic!("{}: {error}", directory.display()))
        .map(|entry| entry.unwrap())
        .map(|entry| (entry.file_name().into_string().unwrap(), std::fs::read(entry.path()).unwrap()))
        .collect();
    files.sort();
    files
}

#[test]
fn every_file_means_what_its_name_says_however_it_is_cut() {
    let files = corpus();
    assert!(files.len() >= 40, "{} files", files.len());
    for (name, file) in &files {
        println!("{name}");
        check(file);
        let bytes = Input::from(file.as_slice()).bytes;
        let whole = meaning(bytes);
        let all_consumed = whole.consumed == bytes.len();
        let kind = match whole.reject {
            Some(_) => "refused",
            None if all_consumed => "served",
            None => "partial",
        };
        // The fuzzer adds files that it names by 40 digits.
        let is_named = name.len() != 40 || !name.bytes().all(|byte| byte.is_ascii_hexdigit());
        assert!(!is_named || name.starts_with(kind), "{name} is {kind}: {whole:?}");
        for cut in 1..bytes.len() {
            let (start, end) = bytes.split_at(cut);
            check_pieces([start, end], &whole);
        }
    }
}

#[test]
fn garbled_files_mean_the_same_however_they_are_cut() {
    const MUTANTS: u64 = 4000;
    let files = corpus();
    for seed in 0..MUTANTS {
        let mutant = mutant(&files, &mut fastrand::Rng::with_seed(seed));
        if let Err(panic) = catch_unwind(|| check(&mutant)) {
            println!("seed {seed}: {}", mutant.escape_ascii());
            std::panic::resume_unwind(panic);
        }
    }
}

/// What a fuzzer does to a file: bytes changed, left out, repeated; words put in; the end of another file.
fn mutant(files: &[(String, Vec<u8>)], random: &mut fastrand::Rng) -> Vec<u8> {
    const WORDS: [&[u8]; 27] = [
        b"\r\n",
        b"\r\n\r\n",
        b"\n",
        b"\r",
        b"\0",
        b" ",
        b"\t",
        b":",
        b"%",
        b"?",
        b"#",
        b"0\r\n\r\n",
        b"1\r\nx\r\n",
        b"ffffffff",
        b"99999999999999999999",
        b"HTTP/1.0",
        b"HTTP/2.0",
        b"Host: h\r\n",
        b"Content-Length: 3\r\n",
        b"Transfer-Encoding: chunked\r\n",
        b"Expect: 100-continue\r\n",
        b"Connection: close\r\n",
        b"GET / HTTP/1.1\r\nHost: h\r\n\r\n",
        b"http://h",
        b"Origin: null\r\n",
        b"Sec-Fetch-Site: cross-site\r\n",
        b"Content-Type: application/json\r\n",
    ];
    let any_file = |random: &mut fastrand::Rng| &files[random.usize(0..files.len())].1;
    let mut bytes = any_file(random).clone();
    for _ in 0..random.usize(1..5) {
        let at = random.usize(0..=bytes.len());
        let to = random.usize(at..=bytes.len().min(at + 32));
        match random.u8(0..6) {
            0 if at < bytes.len() => bytes[at] = random.u8(..),
            1 if at < bytes.len() => bytes[at] ^= 1 << random.u8(0..8),
            2 => drop(bytes.drain(at..to)),
            3 => bytes.extend_from_within(at..to),
            4 => drop(bytes.splice(at..at, WORDS[random.usize(0..WORDS.len())].iter().copied())),
            _ => {
                let other = any_file(random);
                bytes.truncate(at);
                bytes.extend_from_slice(&other[random.usize(0..=other.len())..]);
            }
        }
    }
    bytes
}

//! Cases of raw bytes as data: blocks of lines `key text`, and the bytes in lines that begin with `| `.
//!
//! Escapes are `\r`, `\n`, `\t`, `\0`, `\\`, `\xNN`, and `\<count*text>` for a text so many times; for HTTP/2 `\{name=value}` for a field
//! that is neither compressed nor remembered, and `\{GET}` and `\{POST}` for the heads of two good requests. `#` begins a comment.

use std::path::Path;

use super::h2::{block, call, literal};

/// The head of a good request without a body.
const GET: [(&str, &str); 4] = [(":method", "GET"), (":scheme", "http"), (":path", "/v1/files"), (":authority", "windward.test")];

/// The lines of each block of a folder's files, as key and text.
pub(crate) fn blocks(folder: &str) -> Vec<Vec<(String, String)>> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/cases").join(folder);
    let mut paths: Vec<_> = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    paths.sort();
    let text: String = paths.iter().map(|path| std::fs::read_to_string(path).unwrap() + "\n\n").collect();
    let is_case = |block: &&str| block.lines().any(|line| line.starts_with("name "));
    let pair = |line: &str| {
        line.split_once(' ').map(|(key, text)| (key.to_owned(), text.to_owned())).unwrap_or((line.to_owned(), String::new()))
    };
    let lines = |block: &str| block.lines().filter(|line| !line.starts_with('#') && !line.is_empty()).map(pair).collect();
    text.split("\n\n").filter(is_case).map(lines).collect()
}

/// The bytes that a text with escapes stands for.
pub(crate) fn unescaped(text: &str) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut rest = text;
    while let Some(first) = rest.chars().next() {
        rest = &rest[first.len_utf8()..];
        if first != '\\' {
            assert!(first.is_ascii(), "{text:?} is to be escaped");
            bytes.push(first as u8);
            continue;
        }
        let (escape, after) = rest.split_at(1);
        rest = after;
        match escape {
            "r" => bytes.push(b'\r'),
            "n" => bytes.push(b'\n'),
            "t" => bytes.push(b'\t'),
            "0" => bytes.push(0),
            "\\" => bytes.push(b'\\'),
            "x" => {
                let (digits, after) = rest.split_at(2);
                bytes.push(u8::from_str_radix(digits, 16).unwrap());
                rest = after;
            }
            "<" => {
                let (count, after) = rest.split_once('*').unwrap();
                let (text, after) = after.split_once('>').unwrap();
                bytes.extend(unescaped(text).repeat(count.parse().unwrap()));
                rest = after;
            }
            "{" => {
                let (text, after) = rest.split_once('}').unwrap();
                bytes.extend(fields(text));
                rest = after;
            }
            _ => panic!("no escape: \\{escape}"),
        }
    }
    bytes
}

/// What stands between braces.
fn fields(text: &str) -> Vec<u8> {
    match text.split_once('=') {
        Some((name, value)) => literal(std::str::from_utf8(&unescaped(name)).unwrap(), &unescaped(value)),
        None if text == "GET" => block(&GET),
        None if text == "POST" => call(),
        None => panic!("no head: {text}"),
    }
}

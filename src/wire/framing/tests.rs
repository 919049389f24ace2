use proptest::prelude::*;

use super::*;

/// What becomes of a connection's bytes: the messages that pass, and what is left of the last.
#[derive(Debug, Default, PartialEq, Eq)]
struct Seen {
    whole: Vec<Vec<u8>>,
    part: Vec<u8>,
    refused: Option<Then>,
}

/// Feeds `pieces` one after another, as the guard does: what did not pass is kept, and looked at again when there is more.
fn feed<'a>(pieces: impl IntoIterator<Item = &'a [u8]>) -> Seen {
    let mut framing = Framing::new(1 << 10);
    let (mut kept, mut seen) = (Vec::new(), Seen::default());
    for piece in pieces {
        kept.extend_from_slice(piece);
        loop {
            let fed = framing.feed(&kept);
            seen.part.extend(kept.drain(..fed.pass));
            match fed.then {
                Then::More => break,
                Then::Next => {
                    seen.whole.push(std::mem::take(&mut seen.part));
                    assert!(framing.is_between() && framing.messages() as usize == seen.whole.len());
                }
                Then::Refuse(_) | Then::Break(_) => {
                    assert_eq!(
                        framing.feed(b"GET / HTTP/1.1\r\nHost: h\r\n\r\n"),
                        Fed { pass: 0, then: fed.then },
                        "nothing follows"
                    );
                    return Seen { refused: Some(fed.then), ..seen };
                }
            }
        }
    }
    seen
}

fn text(messages: &[Vec<u8>]) -> Vec<String> {
    messages.iter().map(|message| String::from_utf8_lossy(message).into_owned()).collect()
}

const GET: &str = "GET /a?b=c HTTP/1.1\r\nHost: h\r\n\r\n";
const POST: &str = "POST /a HTTP/1.1\r\nHost: h\r\nContent-Length: 5\r\n\r\nhello";
const CHUNKED: &str =
    "POST /a HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n5;x=\"y\"\r\nhello\r\n0\r\nX-Sum: 1\r\n\r\n";

#[test]
fn messages_end_where_they_end_and_one_passes_at_a_time() {
    let all = [GET, POST, CHUNKED, GET].concat();
    let seen = feed([all.as_bytes()]);
    assert_eq!(text(&seen.whole), [GET, POST, CHUNKED, GET]);
    assert_eq!((seen.part.len(), seen.refused), (0, None));
    assert_eq!(feed(all.as_bytes().chunks(1)), seen, "however they are cut");
}

#[test]
fn of_a_head_nothing_passes_before_all_is_there_and_of_a_body_everything() {
    let mut framing = Framing::new(1 << 10);
    let head = POST.len() - 5;
    for length in 1..head {
        assert_eq!(framing.feed(&POST.as_bytes()[..length]), Fed { pass: 0, then: Then::More });
        assert!(framing.is_in_head() && !framing.is_between());
    }
    assert_eq!(framing.feed(&POST.as_bytes()[..head + 2]), Fed { pass: head + 2, then: Then::More });
    assert!(!framing.is_in_head());
    assert_eq!(framing.feed(b"llo more"), Fed { pass: 3, then: Then::Next });
}

#[test]
fn a_head_that_is_wrong_is_refused_and_a_body_that_is_breaks() {
    let refused = |text: &str| feed([text.as_bytes()]).refused;
    assert_eq!(refused("GET / HTTP/1.1\r\n\r\n"), Some(Then::Refuse(Refusal::Host)));
    let broken = feed([CHUNKED.replace("\r\n0\r\n", "\r\n0 \r\n").as_bytes()]);
    assert_eq!(broken.refused, Some(Then::Break(Refusal::Chunk)));
    assert!(broken.part.ends_with(b"hello\r\n0 "), "up to the wrong byte everything passes");
    let trailer = refused(&CHUNKED.replace("X-Sum", "Host"));
    assert_eq!(trailer, Some(Then::Break(Refusal::Trailer)));
}

#[test]
fn what_can_never_become_a_request_is_refused_before_its_line_ends() {
    let begins: [(&[u8], Refusal); 10] = [
        (b"\x16\x03", Refusal::RequestLine),
        (b"{", Refusal::RequestLine),
        (b"get ", Refusal::Method),
        (b"hello\r", Refusal::RequestLine),
        (b"hello:", Refusal::RequestLine),
        (&[b'a'; 33], Refusal::Method),
        (b"GET /\x00", Refusal::Target),
        (b"GET / HTTP/1.1\r\nHost: h\r\nX\n", Refusal::Field),
        (b"GET / HTTP/1.1\r\nHost: h\r\nX: a\rb", Refusal::Field),
        (b"GET / HTTP/1.1\r\nHost: h\r\n ", Refusal::Field),
    ];
    for (begin, refusal) in begins {
        let (whole, cut) = (feed([begin]), feed(begin.chunks(1)));
        assert_eq!((whole.refused, cut.refused), (Some(Then::Refuse(refusal)), Some(Then::Refuse(refusal))), "{begin:?}");
    }
}

#[test]
fn a_head_has_a_limit_whether_it_ends_or_not() {
    let refused = |text: String, size: usize| feed(text.as_bytes().chunks(size)).refused;
    let field = |count: usize| format!("GET / HTTP/1.1\r\nHost: h\r\nX: {}", "a".repeat(count));
    for size in [1, 100, 5000] {
        assert_eq!(refused(field(900) + "\r\n\r\n", size), None);
        assert_eq!(refused(field(1000) + "\r\n\r\n", size), Some(Then::Refuse(Refusal::HeadTooLarge)));
        assert_eq!(refused(field(1100), size), Some(Then::Refuse(Refusal::HeadTooLarge)));
        assert_eq!(refused(format!("GET /{}", "a".repeat(1100)), size), Some(Then::Refuse(Refusal::TargetTooLong)));
    }
}

#[test]
fn a_head_has_so_many_fields_and_a_trailer_section_the_usual_number() {
    let some = |count: u32| "X: y\r\n".repeat(count as usize);
    let head = |fields: u32| format!("GET / HTTP/1.1\r\nHost: h\r\n{}\r\n", some(fields - 1));
    for most in [1, 20, USUAL_FIELDS, 1000] {
        let fed = |fields| Framing::new(64 << 10).with_fields(most).feed(head(fields).as_bytes()).then;
        assert_eq!((fed(most), fed(most + 1)), (Then::Next, Then::Refuse(Refusal::HeadTooLarge)));
        let is_whole = |fields| {
            let mut reader = Reader::new(64 << 10, 0).with_fields(most);
            matches!(reader.look(head(fields).as_bytes(), &mut Whole::default()), Look::Whole(_))
        };
        assert_eq!((is_whole(most), is_whole(most + 1)), (true, false), "{most}");
    }
    let post = "POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n";
    let fed = |trailers| Framing::new(64 << 10).with_fields(1000).feed(format!("{post}{}\r\n", some(trailers)).as_bytes()).then;
    assert!(matches!((fed(USUAL_FIELDS), fed(USUAL_FIELDS + 1)), (Then::Next, Then::Break(_))));
}

/// Pieces of requests, right and wrong.
fn fragment() -> impl Strategy<Value = &'static str> {
    prop::sample::select(vec![
        GET,
        POST,
        CHUNKED,
        "GET / HTTP/1.1\r\n",
        "POST /x HTTP/1.0\r\n",
        "Host: h\r\n",
        "Host: h\n",
        "Content-Length: 3\r\n",
        "content-length:3\r\n",
        "Transfer-Encoding: chunked\r\n",
        "X: \t y\r\n",
        "Expect: 100-continue\r\n",
        "\r\n",
        "\r\n\r\n",
        "\n",
        "\r",
        " ",
        "abc",
        "3\r\nabc\r\n",
        "3;a=b\r\nabc\r\n",
        "3 \r\nabc\r\n",
        "0\r\n",
        "0\r\n\r\n",
        "%41",
        ":",
        "\0",
    ])
}

proptest! {
    #[test]
    fn what_passes_does_not_depend_on_the_cuts(fragments in prop::collection::vec(fragment(), 0..12), sizes in prop::collection::vec(1_usize..40, 1..8)) {
        let bytes = fragments.concat().into_bytes();
        let mut rest = bytes.as_slice();
        let mut pieces = Vec::new();
        for size in sizes.iter().cycle().take_while(|_| !bytes.is_empty()) {
            let (piece, after) = rest.split_at((*size).min(rest.len()));
            pieces.push(piece);
            rest = after;
            if rest.is_empty() {
                break;
            }
        }
        let (whole, cut) = (feed([bytes.as_slice()]), feed(pieces));
        prop_assert_eq!(&whole, &cut);
        let passed = [whole.whole.concat(), whole.part].concat();
        prop_assert!(bytes.starts_with(&passed), "what passes is what came");
    }

    #[test]
    fn nothing_makes_it_panic(bytes in prop::collection::vec(any::<u8>(), 0..200), size in 1_usize..9) {
        prop_assert_eq!(feed([bytes.as_slice()]), feed(bytes.chunks(size)));
    }
}

use std::io::{self, Write};
use std::sync::mpsc::{Receiver, Sender, channel};

use super::super::buffer::BUFFER_BYTES;
use super::*;

const LIMIT: Duration = Duration::from_secs(20);

fn identity() -> Identity {
    Identity::new("test", 7)
}

fn line(buffer: &mut Vec<u8>, seq: u64) {
    buffer.extend_from_slice(format!("{{\"seq\":{seq}}}").as_bytes());
}

fn seqs(text: &str) -> Vec<u64> {
    text.lines()
        .map(|line| line.trim_end().strip_prefix("{\"seq\":").unwrap().strip_suffix('}').unwrap().parse().unwrap())
        .collect()
}

/// A sink that writes only when it is let, and fails as often as it is told.
struct Gated {
    gate: Receiver<io::Result<()>>,
    /// Set as soon as the writer has a buffer in its hands.
    busy: Arc<AtomicBool>,
    kept: Arc<Mutex<Vec<u8>>>,
}

impl Write for Gated {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.busy.store(true, SeqCst);
        self.gate.recv().unwrap_or(Ok(()))?;
        self.kept.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl LogSink for Gated {
    fn reopen(&mut self) -> io::Result<()> {
        Ok(())
    }
}

type Gate = (AccessLog, LogWriter, Sender<io::Result<()>>, Arc<Mutex<Vec<u8>>>);

fn gated() -> Gate {
    gated_with(Arc::default())
}

fn gated_with(busy: Arc<AtomicBool>) -> Gate {
    let (open, gate) = channel();
    let kept = Arc::new(Mutex::new(Vec::new()));
    let (log, writer) = AccessLog::start_with(Box::new(Gated { gate, busy, kept: Arc::clone(&kept) }), identity(), true).unwrap();
    (log, writer, open, kept)
}

#[test]
fn lines_of_one_thread_arrive_in_order_and_all_of_them() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("access.jsonl");
    let (log, writer) = AccessLog::start(&LogTarget::File(path.clone()), identity()).unwrap();
    for _ in 0..20_000 {
        log.append(line);
    }
    assert!(writer.close(LIMIT));
    let seen = seqs(&std::fs::read_to_string(path).unwrap());
    assert_eq!(seen, (1..=20_000).collect::<Vec<_>>());
    assert_eq!((log.written(), log.lost()), (20_000, 0));
}

#[test]
fn lines_of_many_threads_arrive_whole_at_close() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("access.jsonl");
    let (log, writer) = AccessLog::start(&LogTarget::File(path.clone()), identity()).unwrap();
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| (0..1000).for_each(|_| log.append(line)));
        }
    });
    assert!(writer.close(LIMIT));
    let mut seen = seqs(&std::fs::read_to_string(path).unwrap());
    seen.sort_unstable();
    assert_eq!(seen, (1..=4000).collect::<Vec<_>>());
    log.append(line);
    assert_eq!((log.numbered(), log.lost()), (4001, 1), "a line after the end is numbered and lost");
}

#[test]
fn a_writer_that_is_stuck_costs_lines_and_leaves_a_gap_but_never_blocks() {
    let (log, writer, open, kept) = gated();
    let total = 2 * WAITING_BUFFERS as u64;
    (0..total).for_each(|_| log.append(wide));
    let lost = log.lost();
    assert!(lost > 0 && lost < total, "{lost} of {total} lines were lost");
    drop(open);
    assert!(!writer.close(LIMIT), "a close that lost lines says so");
    assert_eq!(log.written() + log.lost(), total);
    let text = String::from_utf8(kept.lock().unwrap().clone()).unwrap();
    let seen = seqs(&text);
    assert_eq!(seen.len() as u64, log.written());
    assert!(seen.is_sorted() && *seen.last().unwrap() < total, "what is missing are the later lines");
}

#[test]
fn a_failed_write_is_tried_again() {
    let (log, writer, open, kept) = gated();
    open.send(Err(io::ErrorKind::StorageFull.into())).unwrap();
    log.append(line);
    log.flush();
    open.send(Ok(())).unwrap();
    while log.written() == 0 {
        std::thread::yield_now();
    }
    assert_eq!((log.write_errors(), log.lost()), (1, 0));
    drop(open);
    assert!(writer.close(LIMIT));
    assert_eq!(kept.lock().unwrap().as_slice(), b"{\"seq\":1}\n");
}

#[test]
fn a_disk_that_stays_full_does_not_hold_up_the_end() {
    let (log, writer, open, _) = gated();
    log.append(line);
    (0..8).for_each(|_| open.send(Err(io::ErrorKind::StorageFull.into())).unwrap());
    assert!(!writer.close(LIMIT));
    assert_eq!((log.written(), log.lost()), (0, 1));
}

#[test]
fn a_renamed_file_is_let_go_when_asked() {
    let dir = tempfile::tempdir().unwrap();
    let (path, old) = (dir.path().join("access.jsonl"), dir.path().join("access.jsonl.1"));
    let (log, writer) = AccessLog::start(&LogTarget::File(path.clone()), identity()).unwrap();
    log.append(line);
    log.flush();
    while log.written() == 0 {
        std::thread::yield_now();
    }
    std::fs::rename(&path, &old).unwrap();
    log.reopen();
    log.append(line);
    assert!(writer.close(LIMIT));
    assert_eq!(seqs(&std::fs::read_to_string(old).unwrap()), [1]);
    assert_eq!(seqs(&std::fs::read_to_string(path).unwrap()), [2]);
}

#[test]
fn a_folder_that_vanished_costs_no_line_and_is_found_again() {
    let dir = tempfile::tempdir().unwrap();
    let folder = dir.path().join("log");
    let path = folder.join("access.jsonl");
    std::fs::create_dir(&folder).unwrap();
    let (log, writer) = AccessLog::start(&LogTarget::File(path.clone()), identity()).unwrap();
    std::fs::remove_dir_all(&folder).unwrap();
    log.reopen();
    while log.write_errors() == 0 {
        std::thread::yield_now();
    }
    log.append(line);
    while log.written() == 0 {
        std::thread::yield_now();
    }
    std::fs::create_dir(&folder).unwrap();
    while !path.exists() {
        std::thread::yield_now();
    }
    log.append(line);
    assert!(writer.close(LIMIT));
    assert_eq!(seqs(&std::fs::read_to_string(path).unwrap()), [2], "the first went to the file that was open");
}

#[test]
fn a_line_that_waits_is_written_without_a_flush() {
    let (log, writer, open, kept) = gated();
    drop(open);
    log.append(line);
    while log.written() == 0 {
        std::thread::yield_now();
    }
    assert_eq!(kept.lock().unwrap().as_slice(), b"{\"seq\":1}\n");
    assert!(writer.close(LIMIT));
}

#[test]
fn a_log_that_is_off_numbers_nothing() {
    let (log, writer) = AccessLog::start(&LogTarget::Off, identity()).unwrap();
    log.append(|_, _| panic!("nobody reads this line"));
    assert_eq!(log.numbered(), 0);
    assert!(writer.close(LIMIT));
}

#[test]
fn a_file_that_cannot_be_opened_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("absent").join("access.jsonl");
    let error = AccessLog::start(&LogTarget::File(path.clone()), identity()).unwrap_err();
    assert!(error.to_string().contains(&path.display().to_string()), "{error}");
}

/// A line as long as a buffer.
fn wide(buffer: &mut Vec<u8>, seq: u64) {
    line(buffer, seq);
    buffer.resize(BUFFER_BYTES, b' ');
}

#[test]
fn a_threads_own_lines_wait_for_its_flush_and_nobody_elses() {
    let (log, writer, open, kept) = gated();
    drop(open);
    let own = log.own_buffer();
    log.append(line);
    std::thread::scope(|scope| scope.spawn(|| log.append(line)).join().unwrap());
    while log.written() == 0 {
        std::thread::yield_now();
    }
    assert_eq!(kept.lock().unwrap().as_slice(), b"{\"seq\":2}\n", "the writer cannot reach into a thread's own buffer");
    log.flush();
    while log.written() == 1 {
        std::thread::yield_now();
    }
    drop(own);
    assert!(writer.close(LIMIT));
}

#[test]
fn what_a_thread_has_at_its_end_is_written() {
    let (log, writer, open, kept) = gated();
    drop(open);
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                let _own = log.own_buffer();
                (0..2500).for_each(|_| log.append(line));
            });
        }
    });
    assert!(writer.close(LIMIT));
    let mut seen = seqs(&String::from_utf8(kept.lock().unwrap().clone()).unwrap());
    seen.sort_unstable();
    assert_eq!(seen, (1..=10_000).collect::<Vec<_>>());
}

#[test]
fn a_full_queue_costs_a_full_buffer_but_no_line_that_can_wait() {
    let busy = Arc::new(AtomicBool::new(false));
    let (log, writer, open, _) = gated_with(Arc::clone(&busy));
    log.append(wide);
    while !busy.load(SeqCst) {
        std::thread::yield_now();
    }
    while log.lost() == 0 {
        log.append(wide);
    }
    let (total, lost) = (log.numbered(), log.lost());
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let _own = log.own_buffer();
            log.append(wide);
            assert_eq!(log.lost(), lost + 1, "a full buffer does not wait");
            log.append(line);
            log.flush();
            assert_eq!(log.lost(), lost + 1, "a buffer with room does");
        });
    });
    drop(open);
    assert!(!writer.close(LIMIT));
    assert_eq!((log.numbered(), log.lost()), (total + 2, lost + 1));
    assert_eq!(log.written(), log.numbered() - log.lost());
}

#[test]
fn a_close_before_a_threads_end_says_that_lines_are_missing() {
    let (log, writer, open, _) = gated();
    drop(open);
    let own = log.own_buffer();
    log.append(line);
    assert!(!writer.close(LIMIT), "a thread still has a line");
    drop(own);
    assert_eq!((log.numbered(), log.written(), log.lost()), (1, 0, 1));
}

#[test]
fn a_thread_that_has_a_buffer_of_one_log_still_writes_another() {
    let (one, one_writer, open, _) = gated();
    drop(open);
    let (two, two_writer, open, _) = gated();
    drop(open);
    let own = one.own_buffer();
    let second = two.own_buffer();
    one.append(line);
    two.append(line);
    drop(second);
    one.append(line);
    drop(own);
    assert!(one_writer.close(LIMIT) && two_writer.close(LIMIT));
    assert_eq!((one.written(), two.written()), (2, 1));
}

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| windward_fuzz::event_stream(data));

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| warren_fuzz::fuzz_turn_client(data));

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| oneport_fuzz::targets::deflate::run(data));

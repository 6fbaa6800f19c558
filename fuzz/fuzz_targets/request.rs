#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| idalloc_fuzz::check(input));

//! See [`fuzz::instruct`].
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    fuzz::instruct(data);
});

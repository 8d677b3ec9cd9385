//! See [`fuzz::extension`].
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    fuzz::extension(data);
});

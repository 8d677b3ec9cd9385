//! See [`fuzz::publish`].
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    fuzz::publish(data);
});

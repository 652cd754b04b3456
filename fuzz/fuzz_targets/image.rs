//! A copy of a segment, as ring-dump decodes it.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    let _ = ringbell::fuzzing::image(bytes);
});

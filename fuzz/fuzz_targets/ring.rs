//! What a peer wrote into its ring.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    let _ = ringbell::fuzzing::ring(bytes);
});

//! What a peer sent over a socket that carries a session.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    let _ = ringbell::fuzzing::socket(bytes);
});

//! Messages of the handshake.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    let _ = ringbell::fuzzing::handshake(bytes);
});

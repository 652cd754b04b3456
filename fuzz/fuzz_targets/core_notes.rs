//! The notes of a core dump, as ring-dump reads them.
#![no_main]

#[allow(dead_code, reason = "ring-dump reads the fields")]
#[path = "../../tools/src/ring_dump/core_dump/notes.rs"]
mod notes;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    let mut notes = notes::Notes::default();
    notes.add(bytes);
    assert!(notes.threads.len() <= bytes.len() && notes.segments.len() <= bytes.len());
    assert!(notes.name.len() <= 3 * bytes.len());
});

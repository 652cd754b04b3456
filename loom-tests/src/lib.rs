//! loom-tests of Ringbell.

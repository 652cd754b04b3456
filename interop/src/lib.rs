//! Ringbell with what others have made: see `examples/` and `tests/`. Nothing is exported.

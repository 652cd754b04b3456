//! tools of Ringbell.

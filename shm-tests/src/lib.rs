//! shm-tests of Ringbell.

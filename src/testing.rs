//! What Ringbell's own tests and fuzz targets call. No part of the interface.

pub mod fuzzing;

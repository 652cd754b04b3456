//! Ringbell beneath what people already have.
//!
//! An [`AsyncByteStream`](ringbell::AsyncByteStream) is `AsyncRead + AsyncWrite`, which is all that
//! clients ask for. Servers want traits of their own from who accepts; here they are, for
//! [tonic](grpc) and for [axum](http). Copy them: they are a few lines each, and belong where those
//! crates are in use anyway. With tower there is nothing to adapt: see `examples/tower_stack.rs`.

pub mod grpc;
pub mod http;

//! Ringbell beneath what people already have.
//!
//! An [`AsyncByteStream`](ringbell::AsyncByteStream) is `AsyncRead + AsyncWrite`, which is all that clients ask for. Servers
//! want traits of their own from who accepts; here they are, for [tonic](grpc) and for [axum](http). Copy them: they are a few
//! lines each, and belong where those crates are in use anyway.

pub mod grpc;
pub mod http;

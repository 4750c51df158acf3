//! The gRPC interface of the streaming service: messages, client and server. Its reference is
//! `tenantry/config/v1/config.proto`.

/// `tenantry.config.v1`.
pub mod v1 {
    tonic::include_proto!("tenantry.config.v1");

    /// The interface's own description, as the reflection service shows it: an encoded
    /// `google.protobuf.FileDescriptorSet`.
    pub const FILE_DESCRIPTOR_SET: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/descriptors.bin"));
}

//! Makes the Rust code of the interface, without `protoc`: `protox` is a compiler of the protocol
//! buffers language in Rust.

use std::{env, error::Error, fs, path::PathBuf};

use protox::prost::Message;

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo::rerun-if-changed=tenantry");
    let descriptors = protox::compile(["tenantry/config/v1/config.proto"], ["."])?;
    let out = PathBuf::from(env::var("OUT_DIR")?);
    // What the reflection service shows.
    fs::write(out.join("descriptors.bin"), descriptors.encode_to_vec())?;
    // Values are slices of what was received, not copies.
    tonic_prost_build::configure().bytes(".tenantry.config.v1.Entry.value").compile_fds(descriptors)?;
    Ok(())
}

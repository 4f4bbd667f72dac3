//! Generates the contract's types from the protos of the project. Needs no protoc.

use std::{env, error::Error, path::PathBuf};

fn main() -> Result<(), Box<dyn Error>> {
    let here = env::var_os("CARGO_MANIFEST_DIR").ok_or("CARGO_MANIFEST_DIR is not set")?;
    let protos = PathBuf::from(here).join("../../../protos");
    println!("cargo::rerun-if-changed={}", protos.join("noa/agent/v1").display());
    let descriptors = protox::compile(["noa/agent/v1/agent_service.proto"], [&protos])?;
    tonic_prost_build::configure().bytes(".").compile_fds(descriptors)?;
    Ok(())
}

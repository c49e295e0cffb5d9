//! Compiles the control API. `protox` reads the proto files, so that no `protoc` is needed.

fn main() -> Result<(), Box<dyn std::error::Error>> {
    println!("cargo::rerun-if-changed=proto");
    #[cfg(feature = "host")]
    {
        let files = protox::compile(
            ["proto/agentcreds/v1/control.proto", "proto/agentcreds/v1/shared_vault.proto"],
            ["proto"],
        )?;
        tonic_prost_build::configure().compile_fds(files)?;
    }
    Ok(())
}

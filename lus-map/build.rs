//! Generates the prost types of `proto/lus_map.proto` (needs `protoc`).

fn main() -> std::io::Result<()> {
    println!("cargo::rerun-if-changed=proto/lus_map.proto");
    // What has a secret in it is not shown, not by mistake either.
    prost_build::Config::new()
        .skip_debug(["lus.map.v1.Secret", "lus.map.v1.Secrets"])
        .compile_protos(&["proto/lus_map.proto"], &["proto"])
}

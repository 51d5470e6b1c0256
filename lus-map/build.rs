//! Generates the prost types of `proto/lus_map.proto` (needs `protoc`).

fn main() -> std::io::Result<()> {
    println!("cargo::rerun-if-changed=proto/lus_map.proto");
    prost_build::Config::new().compile_protos(&["proto/lus_map.proto"], &["proto"])
}

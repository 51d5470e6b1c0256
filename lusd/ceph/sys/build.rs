//! Links librbd and librados: Debian's packages librbd-dev, librados-dev and libradospp-dev, 16.2 or newer. Compiles the one call that
//! librados has in C++ only.

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    println!("cargo:rerun-if-changed=src/watchers.cc");
    cc::Build::new().cpp(true).std("c++17").file("src/watchers.cc").compile("lus_watchers");
    println!("cargo:rustc-link-lib=dylib=rbd");
    println!("cargo:rustc-link-lib=dylib=rados");
}

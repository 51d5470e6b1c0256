//! Links librbd and librados: Debian's packages librbd-dev and librados-dev, 16.2 or newer.

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    println!("cargo:rustc-link-lib=dylib=rbd");
    println!("cargo:rustc-link-lib=dylib=rados");
}

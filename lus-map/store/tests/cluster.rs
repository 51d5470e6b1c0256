//! Against a real cluster: `eval $(tools/vstart env)`, then `cargo test --features cluster-tests`.

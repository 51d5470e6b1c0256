//! Has the C compiler compare our declarations with the installed headers.
//!
//! Both sources of declarations are read as Rust: `src/lib.rs` of this crate and `src/rados.rs` of the crate `ceph`. What is listed in the first (its own functions,
//! structs and constants, and what it re-exports) is written again as C behind the real headers:
//!
//! * a function as a second declaration, which must not conflict with the header's;
//! * a struct as one of our own, whose size, offsets and types of fields must be those of the header's;
//! * a constant as an assertion of its value.
//!
//! Needs a C compiler (`CC`, else `cc`), librados-dev and librbd-dev.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Write as _,
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use syn::{FnArg, ForeignItem, GenericArgument, Item, PathArguments, ReturnType, Type, UseTree};

#[derive(Default)]
struct Declarations {
    functions: BTreeMap<String, syn::Signature>,
    structs: BTreeMap<String, syn::ItemStruct>,
    aliases: BTreeMap<String, Type>,
    constants: BTreeMap<String, i64>,
    reexports: BTreeSet<String>,
}

impl Declarations {
    fn parse(source: &str) -> Declarations {
        let mut found = Declarations::default();
        for item in syn::parse_file(source).expect("Rust source").items {
            match item {
                Item::ForeignMod(block) => {
                    for item in block.items {
                        if let ForeignItem::Fn(function) = item {
                            found.functions.insert(function.sig.ident.to_string(), function.sig);
                        }
                    }
                }
                Item::Struct(item) => {
                    found.structs.insert(item.ident.to_string(), item);
                }
                Item::Type(item) => {
                    found.aliases.insert(item.ident.to_string(), *item.ty);
                }
                Item::Const(item) => {
                    let syn::Expr::Lit(syn::ExprLit { lit: syn::Lit::Int(value), .. }) = *item.expr else {
                        panic!("{}: write constants as plain numbers", item.ident)
                    };
                    found.constants.insert(item.ident.to_string(), value.base10_parse().expect("a number"));
                }
                Item::Use(item) if matches!(item.vis, syn::Visibility::Public(_)) => {
                    names(&item.tree, &mut found.reexports);
                }
                _ => {}
            }
        }
        found
    }
}

fn names(tree: &UseTree, out: &mut BTreeSet<String>) {
    match tree {
        UseTree::Path(path) => names(&path.tree, out),
        UseTree::Group(group) => group.items.iter().for_each(|tree| names(tree, out)),
        UseTree::Name(name) => {
            out.insert(name.ident.to_string());
        }
        _ => panic!("re-export one by one, under their own names"),
    }
}

/// Writes C for Rust types. `aliases` are those of both sources.
struct C<'a> {
    ours: &'a Declarations,
    ceph: &'a Declarations,
}

impl C<'_> {
    /// A declaration of `name` with this type; the name may be empty.
    fn declare(&self, ty: &Type, name: &str) -> String {
        match ty {
            Type::Ptr(pointer) => {
                // `*const T` is a pointer to a const T. If T is a pointer itself, its const stands behind its own star: `char *const *p`.
                let inner = &*pointer.elem;
                let to_const = pointer.const_token.is_some();
                match self.resolved(inner) {
                    Type::Ptr(_) if to_const => self.declare(inner, &format!("const *{name}")),
                    _ if to_const => format!("const {}", self.declare(inner, &format!("*{name}"))),
                    _ => self.declare(inner, &format!("*{name}")),
                }
            }
            Type::Array(array) => {
                let syn::Expr::Path(len) = &array.len else {
                    panic!("array lengths are constants of the header")
                };
                self.declare(&array.elem, &format!("{name}[{}]", last(&len.path)))
            }
            Type::Path(path) => self.declare_path(&path.path, name),
            Type::Tuple(unit) if unit.elems.is_empty() => format!("void {name}"),
            Type::BareFn(function) => {
                let args: Vec<_> = function.inputs.iter().map(|arg| self.declare(&arg.ty, "")).collect();
                let args = if args.is_empty() { "void".into() } else { args.join(", ") };
                self.returning(&function.output, &format!("(*{name})({args})"))
            }
            _ => panic!("no C for this type near {name:?}"),
        }
    }

    fn declare_path(&self, path: &syn::Path, name: &str) -> String {
        let ident = last(path);
        let c = match &ident[..] {
            "c_void" => "void",
            "c_char" => "char",
            "c_uchar" => "unsigned char",
            "c_int" => "int",
            "c_uint" => "unsigned int",
            "u8" => "uint8_t",
            "u32" => "uint32_t",
            "u64" => "uint64_t",
            "i64" => "int64_t",
            "bool" => "bool",
            "size_t" => "size_t",
            "ssize_t" => "ssize_t",
            "time_t" => "time_t",
            "iovec" => "struct iovec",
            "Option" => {
                let Some(segment) = path.segments.last() else { panic!("an empty path") };
                let PathArguments::AngleBracketed(arguments) = &segment.arguments else {
                    panic!("Option of what?")
                };
                let Some(GenericArgument::Type(inner)) = arguments.args.first() else {
                    panic!("Option of what?")
                };
                return self.declare(inner, name);
            }
            other => match self.alias(other) {
                Some(alias) if self.is_enum(alias) => other,
                Some(alias) => return self.declare(alias, name),
                None if self.ours.structs.contains_key(other) => other,
                None => panic!("no C for the type {other}"),
            },
        };
        format!("{c} {name}")
    }

    fn alias(&self, name: &str) -> Option<&Type> {
        self.ours.aliases.get(name).or_else(|| self.ceph.aliases.get(name))
    }

    /// Follows aliases.
    fn resolved<'t>(&'t self, ty: &'t Type) -> &'t Type {
        match ty {
            Type::Path(path) => self.alias(&last(&path.path)).map_or(ty, |alias| self.resolved(alias)),
            _ => ty,
        }
    }

    /// C enums are unsigned ints to Rust. C takes the two for compatible, yet newer compilers warn when a declaration mixes them: so they keep their names.
    fn is_enum(&self, alias: &Type) -> bool {
        matches!(self.resolved(alias), Type::Path(path) if last(&path.path) == "c_uint")
    }

    fn returning(&self, output: &ReturnType, declarator: &str) -> String {
        match output {
            ReturnType::Default => format!("void {declarator}"),
            ReturnType::Type(_, ty) => self.declare(ty, declarator),
        }
    }

    fn function(&self, signature: &syn::Signature) -> String {
        let args: Vec<_> = signature
            .inputs
            .iter()
            .map(|arg| match arg {
                FnArg::Typed(arg) => self.declare(&arg.ty, ""),
                FnArg::Receiver(_) => panic!("a C function"),
            })
            .collect();
        let args = if args.is_empty() { "void".into() } else { args.join(", ") };
        format!("extern {};\n", self.returning(&signature.output, &format!("{}({args})", signature.ident)))
    }

    fn structure(&self, item: &syn::ItemStruct) -> String {
        let name = item.ident.to_string();
        assert!(item.attrs.iter().any(|a| a.path().is_ident("repr")), "{name}: repr(C)");
        let fields: Vec<_> =
            item.fields.iter().map(|f| (f.ident.as_ref().expect("a name").to_string(), &f.ty)).collect();
        let mut c = format!("struct ours_{name} {{\n");
        for (field, ty) in &fields {
            writeln!(c, "    {};", self.declare(ty, field)).expect("a string");
        }
        writeln!(c, "}};\n_Static_assert(sizeof(struct ours_{name}) == sizeof({name}), \"size of {name}\");")
            .expect("a string");
        for (field, _) in &fields {
            writeln!(
                c,
                "_Static_assert(offsetof(struct ours_{name}, {field}) == offsetof({name}, {field}), \"offset of {name}.{field}\");\n\
                 _Static_assert(__builtin_types_compatible_p(__typeof__(((struct ours_{name} *)0)->{field}), __typeof__((({name} *)0)->{field})), \"type of {name}.{field}\");"
            )
            .expect("a string");
        }
        c
    }
}

fn last(path: &syn::Path) -> String {
    path.segments.last().expect("a path").ident.to_string()
}

/// All that is listed in our source, as C.
fn generate(ours: &str, ceph: &str) -> String {
    let (ours, ceph) = (Declarations::parse(ours), Declarations::parse(ceph));
    let c = C { ours: &ours, ceph: &ceph };
    let mut out = String::from(
        "#include <stdbool.h>\n#include <stddef.h>\n#include <stdint.h>\n#include <sys/uio.h>\n#include <time.h>\n\
         #include <rados/librados.h>\n#include <rbd/librbd.h>\n",
    );
    for item in ours.structs.values() {
        out += &c.structure(item);
    }
    for (name, value) in &ours.constants {
        writeln!(out, "_Static_assert({name} == {value}, \"value of {name}\");").expect("a string");
    }
    for signature in ours.functions.values() {
        out += &c.function(signature);
    }
    for name in &ours.reexports {
        assert!(!ours.functions.contains_key(name), "{name} is declared and re-exported");
        if let Some(signature) = ceph.functions.get(name) {
            out += &c.function(signature);
        } else {
            let alias = ceph.aliases.get(name).unwrap_or_else(|| panic!("the crate ceph has no {name}"));
            // A typedef twice is allowed if it is the same.
            writeln!(out, "typedef {};", c.declare(alias, name)).expect("a string");
        }
    }
    for (name, alias) in &ours.aliases {
        if c.is_enum(alias) {
            writeln!(
                out,
                "_Static_assert(__builtin_types_compatible_p({name}, unsigned int), \"type of {name}\");"
            )
            .expect("a string");
        } else {
            writeln!(out, "typedef {};", c.declare(alias, name)).expect("a string");
        }
    }
    out
}

/// Compiles; the error is the compiler's output.
fn compile(c: &str) -> Result<(), String> {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let file = dir.path().join("headers.c");
    fs::write(&file, c).expect("write the C file");
    let compiler = std::env::var_os("CC").unwrap_or_else(|| "cc".into());
    let output = Command::new(&compiler)
        .args(["-std=gnu11", "-Wall", "-Wextra", "-Werror", "-Wno-deprecated-declarations", "-fsyntax-only"])
        .arg(&file)
        .output()
        .unwrap_or_else(|error| {
            panic!("cannot run {compiler:?}: {error}; a C compiler is needed (apt-get install gcc)")
        });
    if output.status.success() { Ok(()) } else { Err(String::from_utf8_lossy(&output.stderr).into_owned()) }
}

fn our_source() -> String {
    fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("src/lib.rs")).expect("our source")
}

/// The source of the very `ceph` that is linked, wherever cargo has put it.
fn ceph_source() -> String {
    let output = Command::new(env!("CARGO"))
        .args(["metadata", "--format-version", "1", "--offline", "--manifest-path"])
        .arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("Cargo.toml"))
        .output()
        .expect("cargo metadata");
    assert!(output.status.success(), "cargo metadata: {}", String::from_utf8_lossy(&output.stderr));
    let metadata: serde_json::Value = serde_json::from_slice(&output.stdout).expect("JSON");
    let packages = metadata["packages"].as_array().expect("packages");
    let manifests: Vec<_> =
        packages.iter().filter(|p| p["name"] == "ceph").map(|p| &p["manifest_path"]).collect();
    let [manifest] = manifests[..] else { panic!("one crate ceph, not {manifests:?}") };
    let manifest = PathBuf::from(manifest.as_str().expect("a path"));
    fs::read_to_string(manifest.with_file_name("src").join("rados.rs")).expect("the source of ceph::rados")
}

#[test]
fn declarations_match_the_headers() {
    let c = generate(&our_source(), &ceph_source());
    if let Err(errors) = compile(&c) {
        panic!("declarations do not match the installed headers:\n{errors}");
    }
}

/// The check is worth something only if it fails: each of these is one wrong thing, in each source and of each kind.
#[test]
fn planted_mistakes_are_found() {
    let (ours, ceph) = (our_source(), ceph_source());
    let plant = |source: &str, right: &str, wrong: &str| {
        assert!(source.contains(right), "nothing to plant in: {right}");
        source.replacen(right, wrong, 1)
    };
    let in_ours = [
        // an argument's type, and that of a re-declared function of librados
        (
            "pub fn rbd_aio_discard(image: rbd_image_t, off: u64, len: u64",
            "pub fn rbd_aio_discard(image: rbd_image_t, off: u64, len: u32",
        ),
        (
            "client_address: *mut c_char, expire_seconds: u32",
            "client_address: *mut c_char, expire_seconds: u64",
        ),
        // constness, indirection, an argument too few, a return type
        (
            "pub fn rados_getaddrs(cluster: rados_t, addrs: *mut *mut c_char)",
            "pub fn rados_getaddrs(cluster: rados_t, addrs: *mut *const c_char)",
        ),
        ("entry: *mut *const c_char,", "entry: *mut *mut *const c_char,"),
        (
            "pub fn rbd_aio_flush(image: rbd_image_t, c: rbd_completion_t)",
            "pub fn rbd_aio_flush(image: rbd_image_t)",
        ),
        (
            "pub fn rbd_aio_get_return_value(c: rbd_completion_t) -> ssize_t",
            "pub fn rbd_aio_get_return_value(c: rbd_completion_t) -> c_int",
        ),
        // a callback's argument, a constant
        (
            "extern \"C\" fn(offset: u64, total: u64, ptr: *mut c_void)",
            "extern \"C\" fn(offset: u64, total: u32, ptr: *mut c_void)",
        ),
        ("pub const RBD_IMAGE_OPTION_ORDER: c_int = 2;", "pub const RBD_IMAGE_OPTION_ORDER: c_int = 3;"),
        // a struct's field: its type, its place, its absence
        ("pub num_objs: u64,", "pub num_objs: i64,"),
        ("pub size: u64,\n    pub obj_size: u64,", "pub obj_size: u64,\n    pub size: u64,"),
        ("pub state: rbd_mirror_image_state_t,\n", ""),
    ];
    for (right, wrong) in in_ours {
        let c = generate(&plant(&ours, right, wrong), &ceph);
        // Two fields of the same type that change places keep all types: their names and offsets tell.
        assert!(compile(&c).is_err(), "not found: {wrong}");
    }
    let in_ceph = [
        ("pub fn rados_watch_flush(cluster: rados_t)", "pub fn rados_watch_flush(cluster: u64)"),
        (
            "pub fn rados_unwatch2(io: rados_ioctx_t, cookie: u64)",
            "pub fn rados_unwatch2(io: rados_ioctx_t, cookie: i64)",
        ),
        ("handle: u64,\n        notifier_id: u64,", "handle: u64,\n        notifier_id: u32,"),
    ];
    for (right, wrong) in in_ceph {
        let c = generate(&ours, &plant(&ceph, right, wrong));
        assert!(compile(&c).is_err(), "not found: {wrong}");
    }
    assert!(compile(&generate(&ours, &ceph)).is_ok());
}

/// Whatever the safe crate calls is in the list that is checked, and whatever is listed is called.
#[test]
fn every_call_is_covered() {
    let ours = Declarations::parse(&our_source());
    let ceph = Declarations::parse(&ceph_source());
    let listed: BTreeSet<String> = ours
        .functions
        .keys()
        .cloned()
        .chain(ours.reexports.iter().filter(|name| ceph.functions.contains_key(*name)).cloned())
        .collect();
    let mut used = BTreeSet::new();
    for entry in
        fs::read_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join("../src")).expect("the safe crate's sources")
    {
        let path = entry.expect("an entry").path();
        assert!(path.is_file(), "{}: look into subfolders, too", path.display());
        let source = fs::read_to_string(&path).expect("a source");
        assert!(!source.contains("ceph::rados"), "{}: uses the crate ceph past the list", path.display());
        assert!(!source.contains("extern \"C\" {"), "{}: declares past the list", path.display());
        for (at, _) in source.match_indices("sys::") {
            let name: String =
                source[at + 5..].chars().take_while(|c| c.is_ascii_alphanumeric() || *c == '_').collect();
            if source[at + 5 + name.len()..].starts_with('(') {
                used.insert(name);
            }
        }
    }
    assert!(used.len() > 80, "found only {} calls", used.len());
    let missing: Vec<_> = used.difference(&listed).collect();
    assert!(missing.is_empty(), "called but not checked: {missing:?}");
    let idle: Vec<_> = listed.difference(&used).collect();
    assert!(idle.is_empty(), "listed but not called: {idle:?}");
}

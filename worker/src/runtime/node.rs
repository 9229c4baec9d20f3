//! Node.js: the host's `/usr/bin/node` runs `sdk/node/warmpath/runtime.js`, which loads the entry.

use store::Manifest;

use super::{Exec, File, LIBRARY_DIR, Runtime};

/// Where Node is. It must lie under `/usr`, which is all that a sandbox has of the host.
const NODE: &str = "/usr/bin/node";
/// The library's directory, in that of all libraries.
const PACKAGE: &str = "node/warmpath";
/// V8's old generation may have three quarters of the function's memory: the rest is for what is not on its heap.
const HEAP_PARTS: (u32, u32) = (3, 4);

/// Every file of `sdk/node/warmpath`.
const FILES: [File; 6] = [
    ("db.js", include_str!("../../../sdk/node/warmpath/db.js")),
    (
        "http.js",
        include_str!("../../../sdk/node/warmpath/http.js"),
    ),
    (
        "index.js",
        include_str!("../../../sdk/node/warmpath/index.js"),
    ),
    (
        "runtime.js",
        include_str!("../../../sdk/node/warmpath/runtime.js"),
    ),
    (
        "stream.js",
        include_str!("../../../sdk/node/warmpath/stream.js"),
    ),
    (
        "wire.js",
        include_str!("../../../sdk/node/warmpath/wire.js"),
    ),
];

/// `runtime = "node"`.
#[derive(Debug)]
pub struct Node;

impl Runtime for Node {
    fn package(&self) -> Option<(&'static str, &'static [File])> {
        Some((PACKAGE, &FILES))
    }

    fn exec(&self, manifest: &Manifest) -> Option<Exec> {
        let (part, parts) = HEAP_PARTS;
        let heap_mb = manifest.memory_mb * part / parts;
        let argv = [
            NODE,
            // One thread for the collector beside the handler's own: more would count against the function's processes.
            "--v8-pool-size=1",
            &format!("--max-old-space-size={heap_mb}"),
            &format!("{LIBRARY_DIR}/{PACKAGE}/runtime.js"),
        ];
        let env = [
            // `require("warmpath")`.
            ("NODE_PATH", format!("{LIBRARY_DIR}/node")),
            // The system call filter has no io_uring.
            ("UV_USE_IO_URING", "0".to_owned()),
        ];
        Some(Exec {
            argv: argv.map(str::to_owned).to_vec(),
            env: env.map(|(name, value)| (name.to_owned(), value)).to_vec(),
        })
    }

    fn is_executed_ahead(&self) -> bool {
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn carries_every_file_of_the_library() {
        let source = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../sdk/node/warmpath");
        let mut on_disk: Vec<String> = std::fs::read_dir(source)
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        on_disk.sort();
        assert_eq!(FILES.map(|(name, _)| name.to_owned()).to_vec(), on_disk);
    }

    #[test]
    fn the_heap_leaves_room_beside_it() {
        let manifest =
            Manifest::parse(b"name = 'f'\nruntime = 'node'\nentry = 'f.js'\nmemory_mb = 200")
                .unwrap();
        let exec = Node.exec(&manifest).unwrap();
        assert!(exec.argv.contains(&"--max-old-space-size=150".to_owned()));
    }
}

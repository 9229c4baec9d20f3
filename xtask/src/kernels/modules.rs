//! Kernel modules for a virtual machine, each after those that it needs. What a module needs stands in its
//! own `.modinfo`; so `depmod`, which a small machine has not, is not asked.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result, bail};

use super::initramfs::BUSYBOX;

/// Copies `wanted` and all that they need from `kernel_modules` to `stage`, uncompressed.
/// Returns the order in which to load them, a file name a line.
pub(super) fn stage(kernel_modules: &Path, wanted: &[&str], stage: &Path) -> Result<String> {
    let mut known = BTreeMap::new();
    find(kernel_modules, &mut known)?;
    let mut loader = Loader {
        known,
        stage,
        done: BTreeSet::new(),
        order: String::new(),
    };
    for module in wanted {
        loader.add(module)?;
    }
    Ok(loader.order)
}

struct Loader<'a> {
    known: BTreeMap<String, PathBuf>,
    stage: &'a Path,
    done: BTreeSet<String>,
    order: String,
}

impl Loader<'_> {
    fn add(&mut self, module: &str) -> Result<()> {
        let module = module.replace('-', "_");
        if !self.done.insert(module.clone()) {
            return Ok(());
        }
        let path = self.known.get(&module);
        let path = path.with_context(|| format!("this kernel has no module {module}"))?;
        let bytes = read(path)?;
        for needed in needs(&bytes) {
            self.add(&needed)?;
        }
        let file = format!("{module}.ko");
        let to = self.stage.join(&file);
        fs::write(&to, bytes).with_context(|| format!("writing {}", to.display()))?;
        self.order.push_str(&file);
        self.order.push('\n');
        Ok(())
    }
}

fn find(folder: &Path, known: &mut BTreeMap<String, PathBuf>) -> Result<()> {
    let entries = fs::read_dir(folder).with_context(|| format!("reading {}", folder.display()))?;
    for entry in entries {
        let path = entry
            .with_context(|| format!("reading {}", folder.display()))?
            .path();
        if path.is_dir() {
            find(&path, known)?;
        } else if let Some(name) = path.file_name().and_then(|name| name.to_str())
            && let Some((module, _)) = name.split_once(".ko")
        {
            known.insert(module.replace('-', "_"), path);
        }
    }
    Ok(())
}

fn read(path: &Path) -> Result<Vec<u8>> {
    if path.extension().is_some_and(|extension| extension == "ko") {
        return fs::read(path).with_context(|| format!("reading {}", path.display()));
    }
    let output = Command::new(BUSYBOX)
        .arg("xzcat")
        .arg(path)
        .output()
        .context("starting busybox xzcat")?;
    if !output.status.success() {
        bail!("cannot decompress {}", path.display());
    }
    Ok(output.stdout)
}

/// The modules named by `depends=` in a module's `.modinfo`: strings with a zero byte behind each.
fn needs(module: &[u8]) -> Vec<String> {
    const KEY: &[u8] = b"\0depends=";
    let Some(at) = module.windows(KEY.len()).position(|bytes| bytes == KEY) else {
        return Vec::new();
    };
    let value = module
        .get(at + KEY.len()..)
        .unwrap_or_default()
        .split(|byte| *byte == 0)
        .next()
        .unwrap_or_default();
    String::from_utf8_lossy(value)
        .split(',')
        .filter(|name| !name.is_empty())
        .map(str::to_owned)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_module_needs_stands_in_its_modinfo() {
        let module = b"\x7fELF\0license=GPL\0depends=stp,llc\0retpoline=Y\0";
        assert_eq!(needs(module), ["stp", "llc"]);
        assert!(needs(b"\x7fELF\0license=GPL\0depends=\0name=veth\0").is_empty());
        assert!(needs(b"\x7fELF").is_empty());
    }

    #[test]
    fn a_module_is_loaded_after_those_that_it_needs_and_once() {
        let folder = std::env::temp_dir().join(format!("wp-modules-{}", std::process::id()));
        let (from, to) = (folder.join("kernel/net"), folder.join("stage"));
        fs::create_dir_all(&from).unwrap();
        fs::create_dir_all(&to).unwrap();
        for (name, needed) in [("br-idge", "stp,llc"), ("stp", "llc"), ("llc", "")] {
            let text = format!("\0depends={needed}\0");
            fs::write(from.join(format!("{name}.ko")), text).unwrap();
        }
        let order = stage(&folder.join("kernel"), &["br_idge", "llc"], &to);
        let refused = stage(&folder.join("kernel"), &["absent"], &to);
        fs::remove_dir_all(&folder).unwrap();
        // llc is met twice: by stp, and by the bridge.
        assert_eq!(order.unwrap(), "llc.ko\nstp.ko\nbr_idge.ko\n");
        assert!(refused.unwrap_err().to_string().contains("absent"));
    }
}

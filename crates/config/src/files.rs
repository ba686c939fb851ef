//! Where text comes from: the disk and the environment when the program runs, nowhere (or a map) when text is parsed by a
//! test or a fuzzer. Reading is all it does; no watching, no writing. No other module of this crate asks the system.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

/// Largest configuration, user list or file of rules read, in bytes. A larger file is an error, so that a wrong path such as
/// `/dev/zero` ends.
pub const FILE_BYTES_MAX: u64 = 64 * 1024 * 1024;

/// A source of what a configuration names: files (`%include`, `auth_file`, rules, maps, passwords) and environment variables.
pub trait Files {
    /// The whole text of a file.
    ///
    /// # Errors
    /// What the operating system says; `InvalidData` when the file is not UTF-8, `FileTooLarge` above [`FILE_BYTES_MAX`].
    fn read(&self, path: &Path) -> io::Result<String>;

    /// The value of an environment variable; `None` if it is not set.
    fn variable(&self, _name: &str) -> Option<OsString> {
        None
    }

    /// The directory in which a user keeps files of its own; `None` if there is none.
    fn home(&self) -> Option<PathBuf> {
        self.variable("HOME").filter(|home| !home.is_empty()).map(PathBuf::from)
    }

    /// Type and permissions of a file, `st_mode` of stat(2); `None` if they are not to be had.
    fn mode(&self, _path: &Path) -> Option<u32> {
        None
    }
}

/// The file system, and the environment of this process.
#[derive(Clone, Copy, Debug)]
pub struct Disk;

/// No files at all: everything is "not found".
#[derive(Clone, Copy, Debug)]
pub struct NoFiles;

impl Files for Disk {
    fn read(&self, path: &Path) -> io::Result<String> {
        let file = File::open(path)?;
        let length = file.metadata().map_or(0, |found| found.len()).min(FILE_BYTES_MAX);
        // Room enough from the start: a text that grows leaves copies behind, and it may hold passwords.
        let mut text = String::with_capacity(length as usize + 1);
        let read = file.take(FILE_BYTES_MAX + 1).read_to_string(&mut text)?;
        if read as u64 > FILE_BYTES_MAX { Err(io::ErrorKind::FileTooLarge.into()) } else { Ok(text) }
    }

    fn variable(&self, name: &str) -> Option<OsString> {
        std::env::var_os(name)
    }

    fn home(&self) -> Option<PathBuf> {
        // Services often have no HOME: then it is what the system's list of users says.
        std::env::home_dir().filter(|home| !home.as_os_str().is_empty())
    }

    fn mode(&self, path: &Path) -> Option<u32> {
        std::fs::metadata(path).ok().map(|found| found.permissions().mode())
    }
}

impl Files for NoFiles {
    fn read(&self, _: &Path) -> io::Result<String> {
        Err(io::ErrorKind::NotFound.into())
    }
}

impl Files for BTreeMap<PathBuf, String> {
    fn read(&self, path: &Path) -> io::Result<String> {
        self.get(path).cloned().ok_or_else(|| io::ErrorKind::NotFound.into())
    }
}

/// Reads `path` as PgBouncer does (relative to the working directory), then, if it is not there, relative to the
/// directory of the file that names it. Answers with the path that was read.
pub(crate) fn read_near(files: &dyn Files, path: &Path, named_by: &Path) -> io::Result<(PathBuf, String)> {
    match files.read(path) {
        Err(e) if e.kind() == io::ErrorKind::NotFound && path.is_relative() => {
            let near = named_by.parent().unwrap_or(Path::new("")).join(path);
            files.read(&near).map(|text| (near, text))
        }
        other => other.map(|text| (path.to_path_buf(), text)),
    }
}

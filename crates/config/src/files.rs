//! Where text comes from: the disk when the program runs, nowhere (or a map) when text is parsed by a test or a fuzzer.
//! Reading is all it does; no watching, no writing.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

/// Largest configuration, user list or file of rules read, in bytes. A larger file is an error, so that a wrong path such as
/// `/dev/zero` ends.
pub const FILE_BYTES_MAX: u64 = 64 * 1024 * 1024;

/// A source of files named by a configuration: `%include`, `auth_file`, rules and maps.
pub trait Files {
    /// The whole text of a file.
    ///
    /// # Errors
    /// What the operating system says; `InvalidData` when the file is not UTF-8, `FileTooLarge` above [`FILE_BYTES_MAX`].
    fn read(&self, path: &Path) -> io::Result<String>;
}

/// The file system.
#[derive(Clone, Copy, Debug)]
pub struct Disk;

/// No files at all: everything is "not found".
#[derive(Clone, Copy, Debug)]
pub struct NoFiles;

impl Files for Disk {
    fn read(&self, path: &Path) -> io::Result<String> {
        let mut text = String::new();
        let read = File::open(path)?.take(FILE_BYTES_MAX + 1).read_to_string(&mut text)?;
        if read as u64 > FILE_BYTES_MAX { Err(io::ErrorKind::FileTooLarge.into()) } else { Ok(text) }
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

//! The data folder: who may use it, the issuer's key in it, and files that appear whole or not at
//! all.

use std::{
    fs::{self, File, TryLockError},
    io::{self, Write},
    path::{Path, PathBuf},
};

use crate::issuer::{IssuerError, generate_key};

/// A data folder that cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DataError {
    /// The folder cannot be made or written.
    #[error("cannot use the data folder {}", folder.display())]
    Folder {
        /// The folder.
        folder: PathBuf,
        /// The system's reason.
        source: io::Error,
    },
    /// Another process works in it.
    #[error("another instance is running on the data folder {}; stop it, or choose another folder with --data", .0.display())]
    InUse(PathBuf),
    /// A file cannot be read or written.
    #[error("cannot read or write {}", file.display())]
    File {
        /// The file.
        file: PathBuf,
        /// The system's reason.
        source: io::Error,
    },
    /// No key could be generated.
    #[error(transparent)]
    Key(#[from] IssuerError),
}

/// A data folder.
#[derive(Debug, Clone)]
pub struct DataFolder(PathBuf);

/// The right to run on a data folder, held until it is dropped or the process ends, however it
/// ends.
#[derive(Debug)]
pub struct DataLock(#[expect(dead_code, reason = "open as long as the lock is held")] File);

impl DataFolder {
    /// Makes the folder if it is not there. Only its owner may look into it: secrets lie there in
    /// the clear. On Windows it has the rights of the folder above it.
    pub fn open(folder: &Path) -> Result<Self, DataError> {
        let mut builder = fs::DirBuilder::new();
        builder.recursive(true);
        #[cfg(unix)]
        std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o700);
        builder.create(folder).map_err(|source| DataError::Folder { folder: folder.to_owned(), source })?;
        Ok(Self(folder.to_owned()))
    }

    /// A folder as it is: nothing is made, not even the folder.
    pub fn at(folder: &Path) -> Self {
        Self(folder.to_owned())
    }

    /// Where the emulator keeps its databases.
    pub fn emulator(&self) -> PathBuf {
        self.0.join("aws")
    }

    /// Takes the folder for this process; refused while another one holds it.
    pub fn lock(&self) -> Result<DataLock, DataError> {
        let path = self.0.join("lock");
        let mut options = File::options();
        options.create(true).write(true).truncate(false);
        #[cfg(unix)]
        std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
        let file = options.open(&path).map_err(|source| DataError::Folder { folder: self.0.clone(), source })?;
        match file.try_lock() {
            Ok(()) => Ok(DataLock(file)),
            Err(TryLockError::WouldBlock) => Err(DataError::InUse(self.0.clone())),
            Err(TryLockError::Error(source)) => Err(DataError::File { file: path, source }),
        }
    }

    /// The issuer's private key, made at the first call. Of several processes that call at once,
    /// one makes the key and all get that one.
    pub fn issuer_key(&self) -> Result<String, DataError> {
        if let Some(key) = self.known_issuer_key()? {
            return Ok(key);
        }
        let path = self.issuer_key_file();
        let failed = |source| DataError::File { file: path.clone(), source };
        let key = generate_key()?;
        // Temporary files are made with mode 0600, and a file that is already there is not
        // replaced.
        match whole_file(&path, key.as_bytes()).map_err(failed)?.persist_noclobber(&path) {
            Ok(_) => Ok(key),
            Err(error) if error.error.kind() == io::ErrorKind::AlreadyExists => {
                fs::read_to_string(&path).map_err(failed)
            }
            Err(error) => Err(failed(error.error)),
        }
    }

    /// The issuer's private key, if one was made.
    pub fn known_issuer_key(&self) -> Result<Option<String>, DataError> {
        read_if_there(self.issuer_key_file())
    }

    fn issuer_key_file(&self) -> PathBuf {
        self.0.join("issuer-key.pem")
    }

    /// The issuer's address in the newest run, if there was one.
    pub fn issuer_url(&self) -> Result<Option<String>, DataError> {
        read_if_there(self.0.join("issuer-url"))
    }

    /// Notes the issuer's address for those who sign tokens beside the running suite.
    pub fn set_issuer_url(&self, url: &str) -> Result<(), DataError> {
        write_whole(&self.0.join("issuer-url"), url.as_bytes())
    }
}

fn read_if_there(file: PathBuf) -> Result<Option<String>, DataError> {
    match fs::read_to_string(&file) {
        Ok(text) => Ok(Some(text)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(source) => Err(DataError::File { file, source }),
    }
}

/// Writes a file so that nobody ever sees a part of it.
pub fn write_whole(path: &Path, content: &[u8]) -> Result<(), DataError> {
    let failed = |source| DataError::File { file: path.to_owned(), source };
    whole_file(path, content).map_err(failed)?.persist(path).map_err(|error| failed(error.error))?;
    Ok(())
}

fn whole_file(path: &Path, content: &[u8]) -> io::Result<tempfile::NamedTempFile> {
    // In the same folder: a rename does not cross file systems.
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let mut file = tempfile::NamedTempFile::new_in(folder)?;
    file.write_all(content)?;
    Ok(file)
}

#[cfg(test)]
mod tests {
    use std::{collections::BTreeSet, thread};

    use super::*;

    /// Promise: processes that start at once sign with one key, and nobody else can read it.
    #[test]
    fn all_callers_get_one_key_that_only_the_owner_can_read() {
        let folder = tempfile::tempdir().unwrap();
        let data = DataFolder::open(&folder.path().join("new")).unwrap();
        let keys: BTreeSet<String> = thread::scope(|scope| {
            let callers: Vec<_> = (0..4).map(|_| scope.spawn(|| data.issuer_key().unwrap())).collect();
            callers.into_iter().map(|caller| caller.join().unwrap()).collect()
        });
        assert_eq!(keys.len(), 1);
        #[cfg(unix)]
        {
            use std::os::unix::fs::PermissionsExt;
            let mode = |path: PathBuf| fs::metadata(path).unwrap().permissions().mode() & 0o777;
            assert_eq!(mode(data.issuer_key_file()), 0o600);
            assert_eq!(mode(data.0.clone()), 0o700);
        }
        let names: Vec<_> = fs::read_dir(&data.0).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        assert_eq!(names, ["issuer-key.pem"], "no temporary file is left");
    }

    /// Promise: two instances never write to one database.
    #[test]
    fn a_second_instance_is_refused_until_the_first_is_gone() {
        let folder = tempfile::tempdir().unwrap();
        let data = DataFolder::open(folder.path()).unwrap();
        let first = data.lock().unwrap();
        assert!(data.lock().unwrap_err().to_string().contains("another instance"));
        drop(first);
        data.lock().unwrap();
    }

    #[test]
    fn a_file_is_no_data_folder() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let error = DataFolder::open(file.path()).unwrap_err().to_string();
        assert!(error.contains("cannot use the data folder"), "{error}");
    }
}

//! What was in memory last, kept on disk for a start while the stores are down. Encrypted, and
//! without any secret.
//!
//! The file begins with a header: eight bytes that name the format, and 16 random ones, from which
//! the file's own key is made (HKDF, RFC 5869). Then come frames, one for each tenant and one empty
//! one at the end: a length in four bytes and so many bytes of AES-256-GCM. Each is bound to the
//! header and to its place, so that none can be left out, moved or taken from another file.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, BufReader, BufWriter, Read, Write},
    path::Path,
    sync::Arc,
    time::Duration,
};

use aws_lc_rs::{
    aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey},
    error::Unspecified,
    hkdf::{HKDF_SHA256, Salt},
    rand,
};
use tenantry::{
    backend::Backend,
    clock::Timestamp,
    model::{
        entry::{CommitId, Revision},
        tenant::TenantId,
    },
    tail::Position,
};
use tokio::{sync::watch, time::interval};
use tracing::{info, warn};

use crate::{
    memory::Memory,
    pages::{Pages, Slot, SlotValue},
    settings::SnapshotSettings,
    tenant::LoadedTenant,
};

/// How often what has changed is written.
const INTERVAL: Duration = Duration::from_mins(1);
/// The format. Another one is not read.
const FORMAT: &[u8; 8] = b"tenantr1";
const SALT_BYTES: usize = 16;
/// No tenant is larger.
const MAX_FRAME_BYTES: u32 = 1 << 30;

/// Why a file cannot be written or read.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub(crate) enum DiskError {
    /// The file system says no.
    #[error(transparent)]
    Io(#[from] io::Error),
    /// It is of another format.
    #[error("it is no snapshot, or one of another version")]
    Format,
    /// It was encrypted with another key, cut off or changed.
    #[error("it was encrypted with another key, or is damaged")]
    Sealed,
}

impl From<Unspecified> for DiskError {
    fn from(_: Unspecified) -> Self {
        Self::Sealed
    }
}

/// Writes memory to the disk from time to time, and once more when `stop` says so.
pub(crate) async fn keep(memory: Arc<Memory>, settings: SnapshotSettings, mut stop: watch::Receiver<bool>) {
    let mut ticks = interval(INTERVAL);
    ticks.tick().await;
    let mut written = 0;
    loop {
        let is_last = tokio::select! {
            _ = ticks.tick() => false,
            _ = stop.wait_for(|stop| *stop) => true,
        };
        let changes = memory.metrics().commits.get() + memory.metrics().loads.get();
        if changes != written {
            let (memory, settings) = (Arc::clone(&memory), settings.clone());
            let saving = tokio::task::spawn_blocking(move || save(&memory, &settings));
            match saving.await {
                Ok(Ok(())) => written = changes,
                Ok(Err(error)) => warn!(%error, "what is in memory could not be written to the disk"),
                Err(error) => warn!(%error, "what is in memory could not be written to the disk"),
            }
        }
        if is_last {
            return;
        }
    }
}

/// Puts what the disk has into memory, where it is served only while the stores do not answer.
pub(crate) fn restore(memory: &Memory, settings: &SnapshotSettings) {
    match load(settings) {
        Ok(tenants) => {
            let count = tenants.len();
            for (id, loaded) in tenants {
                memory.restore(id, loaded);
            }
            info!(tenants = count, "what was in memory last has been read from the disk");
        }
        Err(DiskError::Io(error)) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => {
            warn!(%error, file = %settings.file.display(), "the snapshot cannot be used, and will be replaced");
        }
    }
}

/// Writes all tenants in memory; the file appears with its whole content.
pub(crate) fn save(memory: &Memory, settings: &SnapshotSettings) -> Result<(), DiskError> {
    let unfinished = settings.file.with_extension("unfinished");
    let written = write_all(memory, settings, &unfinished);
    if written.is_err() {
        // Nobody reads it; it is in the way at most.
        let _ = fs::remove_file(&unfinished);
    }
    written?;
    fs::rename(&unfinished, &settings.file)?;
    Ok(())
}

fn write_all(memory: &Memory, settings: &SnapshotSettings, path: &Path) -> Result<(), DiskError> {
    // One of an earlier try may have other permissions.
    if let Err(error) = fs::remove_file(path)
        && error.kind() != io::ErrorKind::NotFound
    {
        return Err(error.into());
    }
    let mut options = OpenOptions::new();
    options.write(true).create_new(true);
    // Elsewhere a file has the rights of its folder.
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    let file = options.open(path)?;
    let mut salt = [0; SALT_BYTES];
    rand::fill(&mut salt)?;
    let mut frames = Frames::new(&settings.key, salt)?;
    let mut out = BufWriter::new(file);
    out.write_all(&frames.header)?;
    for (id, tenant) in memory.all() {
        if let Some(loaded) = tenant.loaded() {
            frames.write(&mut out, encode(&id, &loaded, memory.tail().backend()))?;
        }
    }
    frames.write(&mut out, Vec::new())?;
    let file = out.into_inner().map_err(io::IntoInnerError::into_error)?;
    file.sync_all()?;
    Ok(())
}

/// All tenants of the file.
pub(crate) fn load(settings: &SnapshotSettings) -> Result<Vec<(TenantId, LoadedTenant)>, DiskError> {
    let mut file = BufReader::new(File::open(&settings.file)?);
    let mut header = [0; FORMAT.len() + SALT_BYTES];
    file.read_exact(&mut header)?;
    let (format, salt) = header.split_at(FORMAT.len());
    let salt = salt.try_into().map_err(|_| DiskError::Format)?;
    if format != FORMAT {
        return Err(DiskError::Format);
    }
    let mut frames = Frames::new(&settings.key, salt)?;
    let mut tenants = Vec::new();
    loop {
        let frame = frames.read(&mut file)?;
        if frame.is_empty() {
            return Ok(tenants);
        }
        tenants.push(decode(&frame).ok_or(DiskError::Format)?);
    }
}

/// Seals and opens frames in their order.
struct Frames {
    key: LessSafeKey,
    header: Vec<u8>,
    next: u64,
}

impl Frames {
    fn new(key: &[u8; 32], salt: [u8; SALT_BYTES]) -> Result<Self, DiskError> {
        let header = [FORMAT.as_slice(), &salt].concat();
        let made = Salt::new(HKDF_SHA256, &salt).extract(key);
        let purpose = [FORMAT.as_slice()];
        let made = made.expand(&purpose, &AES_256_GCM)?;
        Ok(Self { key: LessSafeKey::new(UnboundKey::from(made)), header, next: 0 })
    }

    /// The next frame's nonce: its place in the file, under a key that no other file has.
    fn nonce(&mut self) -> Nonce {
        let mut nonce = [0; NONCE_LEN];
        nonce[..8].copy_from_slice(&self.next.to_le_bytes());
        self.next += 1;
        Nonce::assume_unique_for_key(nonce)
    }

    fn write(&mut self, out: &mut impl Write, mut frame: Vec<u8>) -> Result<(), DiskError> {
        let nonce = self.nonce();
        self.key.seal_in_place_append_tag(nonce, Aad::from(&self.header), &mut frame)?;
        let length = u32::try_from(frame.len()).map_err(|_| DiskError::Format)?;
        out.write_all(&length.to_le_bytes())?;
        out.write_all(&frame)?;
        Ok(())
    }

    fn read(&mut self, file: &mut impl Read) -> Result<Vec<u8>, DiskError> {
        let mut length = [0; 4];
        // The last frame is known by being empty: a file that ends before it was cut off.
        file.read_exact(&mut length).map_err(|_| DiskError::Sealed)?;
        let length = u32::from_le_bytes(length);
        if length > MAX_FRAME_BYTES {
            return Err(DiskError::Sealed);
        }
        let mut frame = Vec::new();
        file.take(u64::from(length)).read_to_end(&mut frame)?;
        let nonce = self.nonce();
        let opened = self.key.open_in_place(nonce, Aad::from(&self.header), &mut frame)?.len();
        frame.truncate(opened);
        Ok(frame)
    }
}

/// A tenant: length and text of its id, revision, length and text of the commit's id, entries as
/// pages have them.
fn encode(id: &TenantId, loaded: &LoadedTenant, backend: &Backend) -> Vec<u8> {
    let commit = loaded.position.commit.as_ref().map(CommitId::to_string).unwrap_or_default();
    let mut bytes = Vec::new();
    for text in [id.as_str(), &commit] {
        // Neither is longer than 63 characters.
        bytes.push(u8::try_from(text.len()).unwrap_or(u8::MAX));
        bytes.extend_from_slice(text.as_bytes());
    }
    bytes.extend_from_slice(&loaded.position.revision.get().to_le_bytes());
    let slots = loaded.pages.iter().map(|slot| {
        let value = if backend.is_secret(slot.key) { SlotValue::Unavailable } else { slot.value };
        Slot { value, ..slot }
    });
    Pages::of(slots).append_to(&mut bytes);
    bytes
}

fn decode(bytes: &[u8]) -> Option<(TenantId, LoadedTenant)> {
    let text = |bytes: &mut &[u8]| {
        let (length, rest) = bytes.split_first()?;
        let (text, rest) = rest.split_at_checked(usize::from(*length))?;
        *bytes = rest;
        String::from_utf8(text.to_vec()).ok()
    };
    let mut rest = bytes;
    let (id, commit) = (text(&mut rest)?, text(&mut rest)?);
    let (revision, entries) = rest.split_first_chunk::<8>()?;
    let commit = (!commit.is_empty()).then(|| CommitId::from_stored(&commit));
    let loaded = LoadedTenant {
        position: Position { revision: Revision::new(u64::from_le_bytes(*revision)), commit },
        pages: Pages::read(entries),
        validated_at: Timestamp::from_millis(0),
        lacks_secrets: false,
        lacks_values: false,
        is_restored: true,
    };
    Some((id.parse().ok()?, loaded))
}

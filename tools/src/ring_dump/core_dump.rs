//! Core dumps: shared memory lies in them as it was mapped.

use crate::handle::Handle;
use crate::{Unattachable, text};
use object::elf::{ET_CORE, FileHeader64, PT_LOAD};
use object::endian::Endianness;
use object::read::ReadCache;
use object::read::elf::{FileHeader, ProgramHeader};
use std::fs::File;
use std::path::Path;
use std::sync::Arc;

/// The segments in a core dump. A mapping whose bytes begin like a segment is one: the decoder says
/// whether it is good.
pub(crate) fn segments(path: &Path) -> Result<Vec<Handle>, Unattachable> {
    let unattachable =
        |why: &dyn std::fmt::Display| Unattachable(format!("{}: {why}", text::of_path(path)));
    let file = File::open(path).map_err(|error| unattachable(&error))?;
    let size = file.metadata().map_err(|error| unattachable(&error))?.len();
    let data = ReadCache::new(&file);
    let header = FileHeader64::<Endianness>::parse(&data).map_err(|error| unattachable(&error))?;
    let endian = header.endian().map_err(|error| unattachable(&error))?;
    if header.e_type(endian) != ET_CORE {
        return Err(unattachable(&"an ELF file, but no core dump"));
    }
    let mappings = header.program_headers(endian, &data).map_err(|error| unattachable(&error))?;
    let ranges: Vec<_> = mappings
        .iter()
        .filter(|mapping| mapping.p_type(endian) == PT_LOAD)
        .map(|mapping| {
            (mapping.p_vaddr(endian), mapping.p_offset(endian), mapping.p_filesz(endian))
        })
        // A damaged header may point anywhere.
        .filter(|(_, offset, _)| *offset < size)
        .map(|(address, offset, length)| (address, offset, length.min(size - offset)))
        .collect();
    let file = Arc::new(file.try_clone().map_err(|error| unattachable(&error))?);
    let handles: Vec<_> = ranges
        .into_iter()
        .map(|(address, offset, length)| {
            let found = format!("in the core dump at {address:x}");
            Handle::range(file.clone(), offset, length, address, found)
        })
        .filter(|handle| handle.decode().is_some())
        .collect();
    if handles.is_empty() {
        return Err(unattachable(
            &"there are no segments of Ringbell in it (are shared mappings dumped? see coredump_filter in core(5))",
        ));
    }
    Ok(handles)
}

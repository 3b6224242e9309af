use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use memory::PAGE_BYTES;
use memory::images;
use memory::store::Store;

use crate::sandbox::Sandbox;

/// Below the sandbox's root.
const STORE: &str = "/store";
const LIMIT_BYTES: u64 = 1 << 20;

/// The unit of st_blocks (stat(2)).
const BLOCK_BYTES: u64 = 512;

pub(super) fn stream(input: &[u8]) {
    thread_local!(static SANDBOX: Sandbox = Sandbox::new(stream_here));
    SANDBOX.with(|sandbox| sandbox.run(input));
}

fn stream_here(input: &[u8]) {
    let _ = fs::remove_dir_all(STORE);
    fs::create_dir(STORE).expect("there is room");
    let mut store = Store::new(STORE.into(), LIMIT_BYTES);
    if store.feed(&mut &input[..]).is_ok() {
        assert!(store.bytes() <= LIMIT_BYTES);
    }
    let files = fs::read_dir(STORE).expect("it is there still");
    let taken = files.flatten().map(|file| {
        let name = file.file_name();
        let name = name.to_str().expect("its name is a number");
        let number = name.strip_prefix("memory-").expect("it is one of its own");
        number.parse::<u32>().expect("its name is a number");
        file.metadata().expect("it is there").blocks() * BLOCK_BYTES
    });
    assert!(taken.sum::<u64>() <= LIMIT_BYTES);
    store.prove(Path::new(STORE)).expect("there are no images");
}

pub(super) fn lists_of_pages(input: &[u8]) {
    let mut end = 0;
    for range in images::lazy_in(&mut &input[..]).unwrap_or_default() {
        assert!(range.start >= end && range.start < range.end);
        assert!(range.start.is_multiple_of(PAGE_BYTES as u64));
        assert!(range.end.is_multiple_of(PAGE_BYTES as u64));
        end = range.end;
    }
}

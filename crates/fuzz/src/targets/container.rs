use std::path::Path;

use common::container::spec::Spec;
use common::fuzzing::{self, round_trip};
use common::journal::MigrationRecord;
use common::net::flows::apply::Installed;
use common::net::flows::port_forward::Forward;
use common::net::state::Record;

use super::text;

pub(super) fn logs(input: &[u8]) {
    for line in fuzzing::log(&text(input)).into_iter().flatten() {
        assert!(!line.contains('\n') || line.len() < input.len());
    }
    fuzzing::label(&text(input));
}

pub(super) fn criu_images(input: &[u8]) {
    let mut new = Vec::new();
    if let Ok(mended) = fuzzing::files_image(input, &mut new) {
        if mended == 0 {
            assert_eq!(new, input);
        }
        let again = fuzzing::files_image(&new, &mut Vec::new());
        assert_eq!(again.expect("a mended image is one"), 0);
    }
}

pub(super) fn podman(input: &[u8]) {
    fuzzing::podman(&text(input));
}

pub(super) fn oci_config(input: &[u8]) {
    let Ok(spec) = serde_json::from_slice::<Spec>(input) else {
        return;
    };
    spec.user_namespace();
    for path in [spec.netns(), spec.bound_at("/dev/shm"), Some(spec.rootfs())] {
        path.map(Path::file_name);
    }
}

pub(super) fn records(input: &[u8]) {
    round_trip::<MigrationRecord>(input);
    round_trip::<Vec<Installed>>(input);
    for forward in round_trip::<Vec<Forward>>(input).unwrap_or_default() {
        for port in &forward.ports {
            assert!(!port.to_string().is_empty());
        }
    }
    if let Some(record) = round_trip::<Record>(input) {
        fuzzing::view(&record.agreement, &record.public_key);
    }
}

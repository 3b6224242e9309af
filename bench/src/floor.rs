//! The floor: what the OCI runtime and CRIU alone take to checkpoint a container and to restore it,
//! on one host, with nothing in between.

use anyhow::{Context, Result};

use crate::sample::{Phase, Run, Span};
use crate::stage::{CONTAINER, Stage, bash};

/// The container is the one that Podman made, in its cgroup and its network. Its conmon is stopped,
/// because it would have Podman take down the network and the root file system when the processes
/// end. Prints when each step began and ended, and how many bytes the checkpoint has.
const SCRIPT: &str = r#"
read -r id conmon config < <(podman inspect \
    --format '{{.Id}} {{.State.ConmonPid}} {{.OCIConfigPath}}' NAME)
options="--image-path /root/bench/images --work-path /root/bench --tcp-established --file-locks"
kill -STOP $conmon
a=$EPOCHREALTIME
runc checkpoint $options $id
b=$EPOCHREALTIME
runc restore --detach --bundle ${config%/*} $options $id </dev/null >/dev/null 2>/root/bench/err ||
    { cat /root/bench/err; grep Error /root/bench/restore.log; exit 1; }
c=$EPOCHREALTIME
echo $a $b $c
"#;

/// Checkpoints the container at the source and restores it there.
pub(crate) fn run(stage: &Stage) -> Result<Run> {
    let said = bash(stage.source(), &SCRIPT.replace("NAME", CONTAINER))?;
    let times: Vec<f64> = said
        .split_whitespace()
        .map(|text| Ok(text.parse::<f64>()? * 1e3))
        .collect::<Result<_>>()
        .with_context(|| said.clone())?;
    let [start, between, end] = times[..] else {
        anyhow::bail!("three times were expected: {said}");
    };
    let phase = |name: &str, from: f64, to: f64| Phase {
        name: name.to_owned(),
        span: Span {
            start_ms: from - start,
            ms: to - from,
        },
    };
    Ok(Run {
        start_unix_ms: start,
        phases: vec![
            phase("checkpoint", start, between),
            phase("restore", between, end),
        ],
        freeze_ms: end - start,
        total_ms: end - start,
        bytes: 0,
        peaks: Default::default(),
    })
}

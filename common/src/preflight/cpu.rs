//! What the container's processes may have learned about the processors.

use std::collections::BTreeSet;

use super::{Checks, DestinationFacts, Verdict};
use crate::container::ContainerFacts;
use crate::host::HostFacts;
use crate::host::processors::list;

/// Flags in `/proc/cpuinfo` on x86 that say nothing about what a program can execute, by their words
/// in Linux' arch/x86/include/asm/cpufeatures.h. A flag that is not listed counts.
#[rustfmt::skip]
const NOT_FOR_PROGRAMS: &[&str] = &[
    // Word 3, "Other features, Linux-defined mapping".
    "cxmmx", "k6_mtrr", "cyrix_arr", "centaur_mcr", "k8", "constant_tsc", "up", "art", "arch_perfmon", "pebs",
    "bts", "syscall32", "sysenter32", "rep_good", "amd_lbr_v2", "clear_cpu_buf", "acc_power", "nopl", "always",
    "xtopology", "tsc_reliable", "nonstop_tsc", "cpuid", "extd_apicid", "amd_dcm", "aperfmperf", "rapl",
    "nonstop_tsc_s3", "tsc_known_freq",
    // Word 7, "Auxiliary flags: Linux defined - For features scattered in various CPUID levels". Not
    // ring3mwait, which programs do use.
    "cpuid_fault", "cpb", "epb", "cat_l3", "cat_l2", "cdp_l3", "tdx_host_platform", "hw_pstate",
    "proc_feedback", "xcompacted", "pti", "kernel_ibrs", "rsb_vmexit", "intel_ppin", "cdp_l2",
    "msr_spec_ctrl", "ssbd", "mba", "rsb_ctxsw", "perfmon_v2", "use_ibpb", "use_ibrs_fw",
    "spec_store_bypass_disable", "ls_cfg_ssbd", "ibrs", "ibpb", "stibp", "zen", "l1tf_pteinv",
    "ibrs_enhanced", "msr_ia32_feat_ctl",
    // Word 8, "Virtualization flags: Linux defined".
    "tpr_shadow", "flexpriority", "ept", "vpid", "coherency_sfw_no", "vnmi", "vmmcall", "xenpv", "ept_ad",
    "vmcall", "vmw_vmmcall", "pvunlock", "vcpupreempt", "tdx_guest",
    // Words 11 and 21, "Extended auxiliary flags: Linux defined". Not user_shstk, nor the instructions
    // of SGX.
    "cqm_llc", "cqm_occup_llc", "cqm_mbm_total", "cqm_mbm_local", "fence_swapgs_user", "fence_swapgs_kernel",
    "split_lock_detect", "per_thread_mba", "entry_ibpb", "rrsba_ctrl", "retpoline", "retpoline_lfence",
    "rethunk", "srso", "unret", "use_ibpb_fw", "rsb_vmexit_lite", "call_depth", "msr_tsx_ctrl", "smba", "bmec",
    "amd_lbr_pmc_freeze", "clear_bhb_loop", "bhi_ctrl", "clear_bhb_hw", "amd_fast_cppc",
    "amd_htr_cores", "amd_workload_class", "prefer_ymm",
    // Words 14 and 15, power management (CPUID 6) and nested virtualization (CPUID 0x8000000a).
    "dtherm", "ida", "arat", "pln", "pts", "hwp", "hwp_notify", "hwp_act_window", "hwp_epp", "hwp_pkg_req",
    "hfi", "npt", "lbrv", "svm_lock", "nrip_save", "tsc_scale", "vmcb_clean", "flushbyasid", "decodeassists",
    "pausefilter", "pfthreshold", "avic", "v_vmsave_vmload", "vgif", "x2avic", "v_spec_ctrl",
    // CPUID bits for hypervisors and operating systems: instructions and registers that the processor
    // denies to programs, and faults that programs need not know of.
    "hypervisor", "md_clear", "flush_l1d", "arch_capabilities", "core_capabilities", "spec_ctrl",
    "intel_stibp", "spec_ctrl_ssbd", "amd_ibrs", "amd_ibpb", "amd_stibp", "amd_ssbd", "virt_ssbd",
    "amd_psfd", "amd_ppin", "btc_no", "ibpb_ret", "sbpb", "tsx_force_abort", "srbds_ctrl", "vmx", "svm", "smx",
    "vme", "mce", "mca", "mtrr", "pge", "pse", "pse36", "pae", "pat", "apic", "extapic", "x2apic", "cr8_legacy",
    "acpi", "tm", "tm2", "est", "eist", "pbe", "ds", "dts", "dtes64", "ds_cpl", "pdcm", "pcid", "xtpr", "dca",
    "smep", "smap", "umip", "invpcid", "invpcid_single", "tsc_deadline_timer", "tsc_adjust", "rdt_a", "cqm",
    "ibs", "osvw", "skinit", "wdt", "lwp", "nodeid_msr", "topoext", "perfctr_core", "perfctr_nb",
    "perfctr_llc", "perfctr_l2", "bpext", "ptsc", "sme", "sev", "sev_es", "sev_snp", "succor", "overflow_recov",
    "smca", "cppc", "arch_lbr", "intel_pt", "pconfig", "bus_lock_detect", "hybrid_cpu",
];

/// `sizeof(struct aio_ring)` and of `struct io_event`, Linux fs/aio.c and include/uapi/linux/aio_abi.h.
const RING_HEADER: u64 = 32;
const RING_EVENT: u64 = 32;

/// Whether the destination's processors suit a container that ran on the source's.
pub(super) fn cpu(
    checks: &mut Checks,
    container: &ContainerFacts,
    source: &HostFacts,
    host: &HostFacts,
) {
    let same = source.architecture == host.architecture && source.page_bytes == host.page_bytes;
    checks.expect(
        "architecture",
        same,
        match source.architecture == host.architecture {
            true if same => format!("{} to {}", source.architecture, host.architecture),
            true => format!(
                "pages of {} to {} bytes",
                source.page_bytes, host.page_bytes
            ),
            false => format!("{} to {}", source.architecture, host.architecture),
        },
        "memory images do not move between architectures",
    );
    let wanted = for_programs(&source.cpu_flags);
    let missing: Vec<&str> = wanted
        .difference(&for_programs(&host.cpu_flags))
        .copied()
        .collect();
    checks.expect(
        "CPU features",
        missing.is_empty(),
        if missing.is_empty() {
            format!("all {} of the source that programs use", wanted.len())
        } else {
            format!("lacks {}", missing.join(" "))
        },
        "a process that found these features at the source would crash here",
    );
    let another = |bytes: &&u64| ring_made(**bytes, host) != **bytes;
    if let Some(bytes) = container.aio_rings.iter().find(another) {
        checks.add(
            "asynchronous I/O",
            Verdict::Failed,
            format!(
                "the container has a ring of {bytes} bytes for asynchronous I/O (libaio), and the kernel \
                 here would make it one of {}, because it has room for {} processors (the source's for \
                 {}): restart the container without libaio, or boot this host with \
                 `possible_cpus={}`, or give this virtual machine no more processors to plug in",
                ring_made(*bytes, host),
                host.possible_cpus,
                source.possible_cpus,
                source.possible_cpus,
            ),
        );
    } else if !container.aio_rings.is_empty() {
        checks.add("asynchronous I/O", Verdict::Ok, "rings of the same size");
    }
}

/// Whether the destination has the processors and memory nodes that the container is limited to.
pub(super) fn cpusets(checks: &mut Checks, container: &ContainerFacts, facts: &DestinationFacts) {
    let kinds = [
        (
            "processors",
            "--cpuset-cpus",
            &container.processors,
            &facts.processors,
        ),
        (
            "memory nodes",
            "--cpuset-mems",
            &container.memory_nodes,
            &facts.memory_nodes,
        ),
    ];
    for (name, option, wanted, here) in kinds {
        let missing: BTreeSet<u32> = wanted.difference(here).copied().collect();
        if wanted.is_empty() {
            continue;
        }
        checks.expect(
            name,
            missing.is_empty(),
            match missing.is_empty() {
                true => format!("limited to {}", list(wanted)),
                false => format!(
                    "limited to {}, of which {} are not here",
                    list(wanted),
                    list(&missing)
                ),
            },
            &format!("`podman update {option}={}` at the source", list(here)),
        );
    }
}

fn for_programs(flags: &BTreeSet<String>) -> BTreeSet<&str> {
    let flags = flags.iter().map(String::as_str);
    flags
        .filter(|flag| !NOT_FOR_PROGRAMS.contains(flag))
        .collect()
}

/// Size of the ring that `host` creates when CRIU restores one of `bytes`.
///
/// CRIU asks for the number of requests that had led to the old ring (`aio_estimate_nr_reqs` in its
/// aio.c), and gives up if the new one has another size. The kernel makes room for at least four
/// requests for each possible processor, twice that number, and two more (`ioctx_alloc` and
/// `aio_setup_ring` in fs/aio.c). So the new ring can only be too large.
fn ring_made(bytes: u64, host: &HostFacts) -> u64 {
    let asked = (bytes.saturating_sub(RING_HEADER) / RING_EVENT).saturating_sub(2) / 2;
    let events = asked.max(4 * u64::from(host.possible_cpus)) * 2 + 2;
    let page = host.page_bytes.max(1);
    (RING_HEADER + events * RING_EVENT)
        .div_ceil(page)
        .saturating_mul(page)
}

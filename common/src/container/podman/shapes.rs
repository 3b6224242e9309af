//! What `podman inspect` prints, as far as it is read here.

use std::collections::BTreeMap;

use serde::Deserialize;

/// The container that moves.
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct Container {
    pub(super) id: String,
    pub(super) name: String,
    pub(super) state: State,
    pub(super) image: String,
    pub(super) image_name: String,
    #[serde(rename = "OCIRuntime")]
    pub(super) oci_runtime: String,
    #[serde(rename = "OCIConfigPath")]
    pub(super) oci_config_path: Option<String>,
    #[serde(default)]
    pub(super) resolv_conf_path: String,
    #[serde(default)]
    pub(super) hosts_path: String,
    #[serde(default)]
    pub(super) hostname_path: String,
    pub(super) pod: Option<String>,
    #[serde(default)]
    pub(super) dependencies: Option<Vec<String>>,
    #[serde(rename = "ExecIDs", default)]
    pub(super) exec_ids: Option<Vec<String>>,
    #[serde(default)]
    pub(super) mounts: Option<Vec<Mount>>,
    pub(super) graph_driver: GraphDriver,
    pub(super) network_settings: NetworkSettings,
    pub(super) config: Config,
    pub(super) host_config: HostConfig,
}

/// Any other container: one that was made in another way may lack what the one that moves must have.
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct Other {
    pub(super) id: String,
    pub(super) name: String,
    pub(super) state: State,
    #[serde(default)]
    pub(super) mounts: Option<Vec<Mount>>,
    pub(super) network_settings: NetworkSettings,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct State {
    #[serde(default)]
    pub(super) status: String,
    pub(super) pid: i32,
    #[serde(default)]
    pub(super) cgroup_path: String,
    #[serde(default)]
    pub(super) conmon_pid: i32,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct Mount {
    pub(super) r#type: String,
    #[serde(default)]
    pub(super) name: String,
    pub(super) source: String,
    pub(super) destination: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct GraphDriver {
    pub(super) name: String,
    #[serde(default)]
    pub(super) data: Option<BTreeMap<String, String>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct NetworkSettings {
    #[serde(default)]
    pub(super) ports: Option<BTreeMap<String, Option<Vec<HostPort>>>>,
    #[serde(default)]
    pub(super) networks: Option<BTreeMap<String, Network>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct HostPort {
    pub(super) host_ip: String,
    pub(super) host_port: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct Network {
    #[serde(rename = "IPAddress", default)]
    pub(super) ip_address: String,
    #[serde(rename = "GlobalIPv6Address", default)]
    pub(super) global_ipv6_address: String,
    #[serde(default)]
    pub(super) mac_address: String,
    #[serde(default)]
    pub(super) gateway: String,
    #[serde(rename = "IPv6Gateway", default)]
    pub(super) ipv6_gateway: String,
    #[serde(rename = "SecondaryIPAddresses", default)]
    pub(super) secondary_ip_addresses: Option<Vec<Secondary>>,
    #[serde(rename = "SecondaryIPv6Addresses", default)]
    pub(super) secondary_ipv6_addresses: Option<Vec<Secondary>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct Secondary {
    pub(super) addr: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct Config {
    #[serde(default)]
    pub(super) tty: bool,
    pub(super) healthcheck: Option<Healthcheck>,
    pub(super) startup_health_check: Option<Healthcheck>,
    #[serde(rename = "sdNotifyMode", default)]
    pub(super) sd_notify_mode: String,
    #[serde(default)]
    pub(super) secrets: Option<Vec<Secret>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct Secret {
    pub(super) name: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct Healthcheck {
    #[serde(default)]
    pub(super) interval: u64,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct HostConfig {
    pub(super) network_mode: String,
    #[serde(default)]
    pub(super) devices: Option<Vec<serde_json::Value>>,
    #[serde(default)]
    pub(super) privileged: bool,
    #[serde(default)]
    pub(super) log_config: Log,
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "PascalCase")]
pub(super) struct Log {
    #[serde(default)]
    pub(super) r#type: String,
    #[serde(default)]
    pub(super) path: String,
}

/// An image.
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct Image {
    #[serde(default)]
    pub(super) size: u64,
    #[serde(rename = "RootFS", default)]
    pub(super) root_fs: RootFs,
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "PascalCase")]
pub(super) struct RootFs {
    #[serde(default)]
    pub(super) layers: Vec<String>,
}

/// A volume.
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct Volume {
    pub(super) name: String,
    pub(super) driver: String,
    #[serde(default)]
    pub(super) labels: Option<BTreeMap<String, String>>,
    #[serde(default)]
    pub(super) options: Option<BTreeMap<String, String>>,
    #[serde(default)]
    pub(super) anonymous: bool,
}

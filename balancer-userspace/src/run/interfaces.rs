//! Attaching the program to the interfaces, at the start and whenever one is made anew.

use std::{net::Ipv4Addr, time::Duration};

use tokio::{
    sync::mpsc,
    time::{MissedTickBehavior, interval},
};
use tracing::{error, info, warn};

use super::RunError;
use crate::{
    api::types::InterfaceStatus,
    config::{Config, InterfaceConfig, PolicyFile},
    controller::PortsEvent,
    maps::{Attachment, DataPlane},
    ports::{Ports, PortsError},
    rate_limit::RateLimit,
};

/// How often our interfaces are looked at: one that is made anew gets the program back by then.
const LOOK_AT_PORTS: Duration = Duration::from_millis(200);
const LOG_EVERY: Duration = Duration::from_secs(10);

/// Our interfaces as they are now.
pub(super) fn ports(interfaces: &[InterfaceConfig]) -> Result<Ports, PortsError> {
    let names: Vec<String> = interfaces
        .iter()
        .map(|interface| interface.name.clone())
        .collect();
    Ok(Ports::read(&names)?.with_mtus(interfaces))
}

/// Whether `policy` leaves the LOAD address alone, which is a port of our `own` address unless configured.
pub(super) fn check_load_address(
    config: &Config,
    policy: &PolicyFile,
    own: Option<Ipv4Addr>,
) -> Result<(), RunError> {
    let load = config.load_address(own);
    match load.and_then(|load| Some((load, policy.udp_vip_at(load)?))) {
        Some((load, vip)) => Err(RunError::LoadAddress {
            vip: vip.label(),
            load,
        }),
        None => Ok(()),
    }
}

/// Attaches the program to every interface, or says why not.
pub(super) fn attach_all(
    data_plane: &mut DataPlane,
    interfaces: &[InterfaceConfig],
) -> Result<PortsEvent, RunError> {
    let ports = ports(interfaces)?;
    let attached = data_plane.attach(interfaces, &ports)?;
    let attached: Vec<Attachment> = attached.into_iter().collect::<Result<_, _>>()?;
    let interfaces = interfaces
        .iter()
        .map(|interface| interface_status(interface, &ports, attached.iter()))
        .collect();
    Ok(PortsEvent { ports, interfaces })
}

fn interface_status<'a>(
    interface: &InterfaceConfig,
    ports: &Ports,
    mut attached: impl Iterator<Item = &'a Attachment>,
) -> InterfaceStatus {
    InterfaceStatus {
        name: interface.name.clone(),
        ifindex: ports.named(&interface.name).map(|port| port.ifindex),
        mode: attached
            .find(|attachment| attachment.interface == interface.name)
            .map(|attachment| attachment.mode.name().to_owned()),
    }
}

/// Notices interfaces that go, come back or change, attaches the program anew where it must, and tells
/// the controller.
pub(super) async fn watch_ports(
    mut data_plane: DataPlane,
    interfaces: Vec<InterfaceConfig>,
    mut last: PortsEvent,
    changes: mpsc::Sender<PortsEvent>,
) {
    let mut ticks = interval(LOOK_AT_PORTS);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut log = RateLimit::new(LOG_EVERY);
    loop {
        ticks.tick().await;
        if let Err(error) = data_plane.give_back_orphans()
            && let Some(suppressed) = log.allow()
        {
            let error = &error as &dyn std::error::Error;
            warn!(error, suppressed, "links may still have a tracer's program");
        }
        let is_attached = last
            .interfaces
            .iter()
            .all(|interface| interface.mode.is_some());
        let ports = match ports(&interfaces) {
            Ok(ports) if ports == last.ports && is_attached => continue,
            Ok(ports) => ports,
            Err(error) => {
                if let Some(suppressed) = log.allow() {
                    warn!(
                        error = &error as &dyn std::error::Error,
                        suppressed, "interfaces unknown"
                    );
                }
                continue;
            }
        };
        let attached = attach_where_possible(&mut data_plane, &interfaces, &ports, &mut log);
        let event = PortsEvent {
            interfaces: interfaces
                .iter()
                .map(|interface| interface_status(interface, &ports, attached.iter()))
                .collect(),
            ports,
        };
        if event.ports == last.ports && event.interfaces == last.interfaces {
            continue;
        }
        info!(interfaces = ?event.interfaces, "interfaces changed");
        last = event.clone();
        if changes.send(event).await.is_err() {
            return;
        }
    }
}

fn attach_where_possible(
    data_plane: &mut DataPlane,
    interfaces: &[InterfaceConfig],
    ports: &Ports,
    log: &mut RateLimit,
) -> Vec<Attachment> {
    let results = match data_plane.attach(interfaces, ports) {
        Ok(results) => results,
        Err(error) => vec![Err(error)],
    };
    let mut attached = Vec::new();
    for result in results {
        match result {
            Ok(attachment) => attached.push(attachment),
            Err(error) => {
                if let Some(suppressed) = log.allow() {
                    let error = &error as &dyn std::error::Error;
                    error!(
                        error,
                        suppressed, "the program is not attached; tried again until it is"
                    );
                }
            }
        }
    }
    attached
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    fn config(vip: &str, more: &str) -> Config {
        let text = format!(
            r#"
            pin_path = "/sys/fs/bpf/none"
            admin_socket = "/none.sock"
            interface = [{{ name = "eth0" }}]
            {more}
            [[vip]]
            address = "10.80.0.2"
            {vip}
            "#
        );
        Config::parse(&text, Path::new("balancer.toml")).unwrap()
    }

    #[test]
    fn a_vip_where_workers_would_send_load_packets_is_refused_before_anything_is_touched() {
        const MEMBERS: &str = "[membership]\nlisten = \"10.80.0.2:7000\"\ntoken_file = \"/none\"";
        let check = |vip: &str, more: &str, own: Option<[u8; 4]>| {
            let config = config(vip, more);
            check_load_address(&config, &config.policy(), own.map(Ipv4Addr::from))
        };
        let own = Some([10, 80, 0, 2]);
        for vip in ["port = 7001", "port = \"any\"\nkind = \"l4\""] {
            let error = check(vip, MEMBERS, own).unwrap_err().to_string();
            assert!(error.contains("10.80.0.2:7001: set [load]"), "{error}");
        }
        for (vip, more, own) in [
            ("port = 9000", MEMBERS, own),
            (
                "port = 7001\nkind = \"l4\"\nprotocol = \"tcp\"",
                MEMBERS,
                own,
            ),
            ("port = 7001", "", own),
            ("port = 7001", MEMBERS, Some([10, 80, 0, 3])),
            ("port = 7001", MEMBERS, None),
            (
                "port = 7001",
                &format!("{MEMBERS}\n[load]\nport = 7002"),
                own,
            ),
        ] {
            check(vip, more, own).unwrap();
        }
    }
}

//! Attaching the program to the interfaces, at the start and whenever one is made anew.

use std::time::Duration;

use tokio::{
    sync::mpsc,
    time::{MissedTickBehavior, interval},
};
use tracing::{error, info, warn};

use super::RunError;
use crate::{
    api::types::InterfaceStatus,
    config::InterfaceConfig,
    controller::PortsEvent,
    maps::{Attachment, DataPlane},
    ports::Ports,
    rate_limit::RateLimit,
};

/// How often our interfaces are looked at: one that is made anew gets the program back by then.
const LOOK_AT_PORTS: Duration = Duration::from_millis(200);
const LOG_EVERY: Duration = Duration::from_secs(10);

/// Attaches the program to every interface, or says why not.
pub(super) fn attach_all(
    data_plane: &mut DataPlane,
    interfaces: &[InterfaceConfig],
) -> Result<PortsEvent, RunError> {
    let names: Vec<String> = interfaces
        .iter()
        .map(|interface| interface.name.clone())
        .collect();
    let ports = Ports::read(&names)?.with_mtus(interfaces);
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
    let names: Vec<String> = interfaces
        .iter()
        .map(|interface| interface.name.clone())
        .collect();
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
        let ports = match Ports::read(&names).map(|ports| ports.with_mtus(&interfaces)) {
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

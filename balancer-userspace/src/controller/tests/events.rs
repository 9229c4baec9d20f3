//! Events as the running controller takes them in.

use tokio::sync::mpsc;

use super::*;

#[tokio::test]
async fn the_loop_carries_events_to_the_maps_and_stops_when_told() {
    let bench = Bench::new();
    let (stop, stopped) = watch::channel(false);
    let (connections, connection_events) = mpsc::channel(8);
    let (commands, command_events) = mpsc::channel(8);
    let (_, catalogs) = mpsc::channel(1);
    let (_, ports) = mpsc::channel(1);
    let events = Events {
        connections: connection_events,
        catalogs,
        ports,
        commands: command_events,
    };
    let task = tokio::spawn(bench.controller.run(events, stopped));
    let (reply, welcome) = oneshot::channel();
    let hello = ConnectionEvent::Hello {
        connection: ConnectionId::test(1),
        identity: identity("w0"),
        reply,
    };
    connections.send(hello).await.unwrap();
    welcome.await.unwrap().unwrap();
    loop {
        let (answer, status) = oneshot::channel();
        commands.send(Command::Status(answer)).await.unwrap();
        let status = status.await.unwrap();
        if status.workers_up == 1 && status.writes_pending == 0 {
            break;
        }
        tokio::task::yield_now().await;
    }
    stop.send(true).unwrap();
    task.await.unwrap();
}

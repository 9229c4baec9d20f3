//! What the admin API asks of the controller.

use ebpf_common::ids::FunctionId;
use thiserror::Error;
use tokio::sync::oneshot;
use tracing::info;

use super::Controller;
use crate::{
    api::types::{
        FunctionStatus, KeyEpoch, OrderRequest, PolicyChange, PolicyStatus, PrewarmStatus,
        SlotsStatus, Status, VipStatus, WorkerStatus,
    },
    config::PolicyFile,
    history::HistoryError,
    maps::{MapStore, TrafficNames},
    policy::orders::OrderError,
};

/// A question or an order, with where the answer goes.
#[derive(Debug)]
pub(crate) enum Command {
    Status(oneshot::Sender<Status>),
    Workers(oneshot::Sender<Vec<WorkerStatus>>),
    Functions(oneshot::Sender<Vec<FunctionStatus>>),
    Slots(oneshot::Sender<SlotsStatus>),
    Vips(oneshot::Sender<Vec<VipStatus>>),
    /// What every VIP and worker and these functions are called.
    Names {
        functions: Vec<FunctionId>,
        answer: oneshot::Sender<TrafficNames>,
    },
    Policy(oneshot::Sender<PolicyStatus>),
    ChangePolicy {
        policy: PolicyFile,
        is_dry_run: bool,
        answer: oneshot::Sender<Result<PolicyChange, CommandError>>,
    },
    RotateKeys(oneshot::Sender<Result<KeyEpoch, CommandError>>),
    Drain {
        worker: String,
        is_drained: bool,
        answer: oneshot::Sender<Result<WorkerStatus, CommandError>>,
    },
    /// Functions with orders of warmth.
    Prewarms(oneshot::Sender<Vec<PrewarmStatus>>),
    Order {
        request: OrderRequest,
        answer: oneshot::Sender<Result<PrewarmStatus, CommandError>>,
    },
    Withdraw {
        function: String,
        answer: oneshot::Sender<Result<PrewarmStatus, CommandError>>,
    },
}

/// Why an order was not carried out.
#[derive(Debug, Error)]
pub(crate) enum CommandError {
    #[error("there is no worker `{name}`; `GET /v1/workers` lists them")]
    UnknownWorker { name: String },
    #[error("there is no function {name}: `warmpath fn list` shows those there are")]
    UnknownFunction { name: String },
    #[error(
        "the keys are made of `[keys] secret_file` and the time, as at the other balancers; for new ones, give all of them another secret"
    )]
    KeysShared,
    #[error("the store has not said yet which functions there are")]
    NoCatalog,
    #[error(
        "no worker takes new work, so nothing can be made warm: `warmpath worker list` shows them"
    )]
    NoWorker,
    #[error(transparent)]
    Order(#[from] OrderError),
    #[error("nobody has ordered {name}: `warmpath fn prewarm --list` shows the orders")]
    NoOrder { name: String },
    #[error("the policy is refused, and nothing was changed: `{key}` {problem}")]
    Policy { key: String, problem: String },
    #[error(transparent)]
    History(HistoryError),
}

impl<S: MapStore> Controller<S> {
    pub(super) fn command(&mut self, command: Command) {
        // Whoever asked may have gone away: then nobody needs the answer.
        match command {
            Command::Status(answer) => drop(answer.send(self.status())),
            Command::Workers(answer) => drop(answer.send(self.workers())),
            Command::Functions(answer) => drop(answer.send(self.functions())),
            Command::Slots(answer) => drop(answer.send(self.slots_status())),
            Command::Vips(answer) => drop(answer.send(self.vips())),
            Command::Names { functions, answer } => {
                drop(answer.send(self.names(&functions)));
            }
            Command::Policy(answer) => drop(answer.send(self.policy_status())),
            Command::ChangePolicy {
                policy,
                is_dry_run,
                answer,
            } => drop(answer.send(self.change_policy(policy, is_dry_run))),
            Command::RotateKeys(answer) => {
                let epoch = self.rotate_keys_now();
                drop(answer.send(epoch.map(|epoch| KeyEpoch { epoch })));
            }
            Command::Drain {
                worker,
                is_drained,
                answer,
            } => drop(answer.send(self.drain(worker, is_drained))),
            Command::Prewarms(answer) => drop(answer.send(self.prewarms())),
            Command::Order { request, answer } => drop(answer.send(self.order(&request))),
            Command::Withdraw { function, answer } => {
                drop(answer.send(self.withdraw(&function)));
            }
        }
    }

    fn drain(&mut self, name: String, is_drained: bool) -> Result<WorkerStatus, CommandError> {
        let Some((id, _)) = self.membership.named(&name) else {
            return Err(CommandError::UnknownWorker { name });
        };
        if self.membership.set_drained(id, is_drained) {
            info!(
                worker = name,
                id = id.0,
                is_drained,
                "drain set by the operator"
            );
            self.worker_changed(id);
        }
        self.worker(id).ok_or(CommandError::UnknownWorker { name })
    }
}

//! Wiring: one container start from the first connection to SIGTERM. The runner outlives the harness, so that the
//! container isn't restarted and the harness with it.

use std::io;
use std::sync::atomic::Ordering;
use std::time::Duration;

use berth_protocol::handoff::ToRunner;
use tokio::signal::unix::{Signal, SignalKind, signal};

use crate::cli::Options;
use crate::link::{self, Link};
use crate::reap::Reaper;
use crate::serve::Session;
use crate::wait;

/// The runner can't do its work.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// Signals can't be waited for.
    #[error("failed to listen for signals")]
    Signals(#[source] io::Error),
}

/// Runs until SIGTERM.
pub async fn run(options: Options) -> Result<(), RunError> {
    let reaper = Reaper::begin().map_err(RunError::Signals)?;
    let mut stop = StopSignal::new().map_err(RunError::Signals)?;
    let mut link = link::open(&options.handoff);
    let assignment = tokio::select! {
        assignment = wait::for_start(&mut link) => assignment,
        () = stop.received() => None,
    };
    if let Some(assignment) = assignment {
        link.ran.store(assignment.incarnation, Ordering::Release); // before anything runs: it never runs twice
        let session = Session::new(&options, &reaper, &assignment, &mut link, &mut stop);
        let leaving = session.serve().await;
        if !leaving {
            idle(assignment.incarnation, &mut link, &mut stop).await;
        }
    }
    link.close(FLUSH).await;
    Ok(())
}

/// The harness has run: a restarted sidecar assigns again and is answered; nothing starts.
async fn idle(incarnation: u64, link: &mut Link, stop: &mut StopSignal) {
    loop {
        tokio::select! {
            Some(order) = link.orders.recv() => answer(incarnation, &order, link),
            () = stop.received() => return,
        }
    }
}

/// Answers an order that changes nothing any more.
pub fn answer(ran: u64, order: &ToRunner, link: &Link) {
    match order {
        ToRunner::Assignment(assignment) if assignment.incarnation == ran => wait::ready(&link.answers, ran),
        ToRunner::Assignment(assignment) => {
            tracing::warn!(
                ran,
                assigned = assignment.incarnation,
                "this container serves one incarnation only"
            );
        }
        ToRunner::Start
        | ToRunner::Stop { .. }
        | ToRunner::Checkpoint(_)
        | ToRunner::Input { .. }
        | ToRunner::Abort => {}
    }
}

/// SIGTERM, or SIGINT at a terminal.
pub struct StopSignal {
    terminate: Signal,
    interrupt: Signal,
}

impl StopSignal {
    /// Listens from now on.
    pub fn new() -> io::Result<Self> {
        Ok(Self {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
        })
    }

    /// Until one comes.
    pub async fn received(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
        }
    }
}

/// For the last frames; 2 s of the pod's grace stay for the sidecar to send them on.
const FLUSH: Duration = Duration::from_secs(1);

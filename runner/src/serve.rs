//! The session in this pod: restored, then turn after turn. A session that runs to completion has one turn; an interactive
//! one waits for input between two.

use std::sync::Arc;
use std::time::Duration;

use berth_protocol::handoff::{Assignment, FromRunner, ToRunner};
use berth_protocol::told::{Said, Told};
use parking_lot::Mutex;
use tokio::sync::mpsc;
use tokio::time::{Instant, interval};

use crate::checkpoint::gather::Sources;
use crate::checkpoint::keep::{FIRST, Keeper};
use crate::checkpoint::restore::restore;
use crate::checkpoint::take::{Exchange, Place};
use crate::cli::Options;
use crate::harness::{Launch, Task, resumed};
use crate::link::Link;
use crate::reap::Reaper;
use crate::repository::Checkout;
use crate::run::{StopSignal, answer};
use crate::start::{Harness, NotStarted, prepare, start};
use crate::tell::Teller;
use crate::turn::{LEAVE, Over, Turn};

/// What a pod does for one incarnation of a session.
pub struct Session<'a> {
    options: &'a Options,
    reaper: &'a Reaper,
    assignment: &'a Assignment,
    link: &'a mut Link,
    stop: &'a mut StopSignal,
    keeper: Keeper,
    place: Place,
    /// Bytes of output so far.
    printed: u64,
}

/// What comes after a step.
enum Next {
    /// The harness is to work on this.
    Work(String),
    /// It waits for somebody.
    Wait,
    /// Nothing more is done here; the runner stays, so that its container isn't restarted.
    Rest,
    /// The runner leaves.
    Leave,
}

/// What ends a wait.
enum Heard {
    /// Somebody said this.
    Input(u64, String),
    /// The session is to rest.
    Stop,
    /// The pod goes.
    Leave,
}

impl<'a> Session<'a> {
    /// Before anything is done.
    pub fn new(
        options: &'a Options,
        reaper: &'a Reaper,
        assignment: &'a Assignment,
        link: &'a mut Link,
        stop: &'a mut StopSignal,
    ) -> Self {
        let sources = Sources {
            home: options.home.clone(),
            workspace: options.workspace.clone(),
            keeps: options.harness.keeps(),
        };
        let answers = link.checkpoints.take().unwrap_or_else(|| mpsc::channel(1).1);
        let steps = link.steps.clone();
        Self {
            keeper: Keeper::new(sources, Exchange { steps, answers }, assignment.checkpoints),
            place: place(assignment),
            printed: 0,
            options,
            reaper,
            assignment,
            link,
            stop,
        }
    }

    /// Until the session is over here; says whether the runner was told to leave meanwhile.
    pub async fn serve(mut self) -> bool {
        let mut next = self.restore().await;
        loop {
            next = match next {
                Next::Work(prompt) => self.work(&prompt).await,
                Next::Wait => self.wait().await,
                Next::Rest => return false,
                Next::Leave => return true,
            };
        }
    }

    /// Restores what an earlier pod left, if there is something.
    async fn restore(&mut self) -> Next {
        let Some(from) = &self.assignment.restore else {
            return self.clone_repository().await;
        };
        let restored = {
            let (sources, exchange) = self.keeper.exchange();
            let restoring = restore(sources.clone(), from, exchange);
            tokio::pin!(restoring);
            loop {
                tokio::select! {
                    restored = &mut restoring => break restored,
                    Some(order) = self.link.orders.recv() => match order {
                        ToRunner::Stop { .. } => return Next::Rest,
                        other => answer(self.assignment.incarnation, &other, self.link),
                    },
                    () = self.stop.received() => return Next::Leave,
                }
            }
        };
        let digest = match restored {
            Ok(digest) => digest,
            Err(error) => {
                let error = format!("checkpoint {}/{}: {error}", from.incarnation, from.number);
                return self.give_up(NotStarted { code: 255, error }).await;
            }
        };
        let restored = FromRunner::Restored {
            incarnation: from.incarnation,
            number: from.number,
            digest,
        };
        // The same way as the start takes, which has to come after it.
        if self.link.answers.try_send(restored).is_err() {
            tracing::warn!("the sidecar doesn't take what was restored");
        }
        if self.place.working {
            Next::Work(resumed(self.assignment))
        } else {
            Next::Wait
        }
    }

    fn checkout(&self) -> Option<Checkout<'a>> {
        Checkout::of(self.reaper, self.assignment, &self.options.workspace)
    }

    /// The first pod of a run clones; later ones find it in what is restored.
    async fn clone_repository(&mut self) -> Next {
        let begin = || Next::Work(self.assignment.prompt.clone());
        let Some(checkout) = self.checkout() else {
            return begin();
        };
        let cloning = checkout.clone();
        tokio::pin!(cloning);
        let cloned = loop {
            tokio::select! {
                cloned = &mut cloning => break cloned,
                Some(order) = self.link.orders.recv() => match order {
                    ToRunner::Stop { .. } => return Next::Rest,
                    other => answer(self.assignment.incarnation, &other, self.link),
                },
                () = self.stop.received() => return Next::Leave,
            }
        };
        match cloned {
            Ok(()) => begin(),
            Err(error) => {
                let error = error.to_string();
                self.give_up(NotStarted { code: 128, error }).await
            }
        }
    }

    /// One turn of the harness.
    async fn work(&mut self, prompt: &str) -> Next {
        self.place.working = true;
        let (launch, harness) = match self.begin(prompt) {
            Ok(begun) => begun,
            Err(error) => return self.give_up(error).await,
        };
        let command = launch.command;
        if self.link.answers.try_send(FromRunner::Started { command }).is_err() {
            tracing::warn!("the sidecar doesn't take the start");
        }
        let teller = self.options.harness.reader();
        let teller = teller.map(|lines| Arc::new(Mutex::new(Teller::new(lines, self.printed))));
        let turn = Turn {
            harness,
            teller: teller.clone(),
            workspace: self.options.workspace.clone(),
            incarnation: self.assignment.incarnation,
            is_last: !self.assignment.interactive,
            checkout: self.checkout(),
        };
        let (before, newest) = (self.place.clone(), self.options.harness.newest());
        let place = || {
            let told = teller
                .as_ref()
                .and_then(|teller| teller.lock().conversation().map(str::to_owned));
            let known = Some(before.conversation.clone()).filter(|known| !known.is_empty());
            let conversation = told.or(known).or_else(|| newest.map(str::to_owned)).unwrap_or_default();
            Place {
                conversation,
                ..before.clone()
            }
        };
        let watch = self.keeper.watch(FIRST, &place);
        let over = turn.run_out(self.link, self.stop, watch).await;
        self.place = place();
        if let Some(teller) = &teller {
            self.printed = teller.lock().offset();
        }
        self.after(over).await
    }

    async fn after(&mut self, over: Over) -> Next {
        if let Some(until) = over.stopped {
            self.keeper.last(self.place.clone(), until).await;
            return if over.leaving { Next::Leave } else { Next::Rest };
        }
        if !self.assignment.interactive {
            // One that was refused its model has failed, and may yet go on in another pod.
            if over.code != 0 {
                self.keeper.last(self.place.clone(), Instant::now() + LEAVE).await;
            }
            return Next::Rest;
        }
        if over.aborted {
            let message = "the turn was aborted".to_owned();
            self.say(Told::Error { message }).await;
        } else if over.code != 0 {
            let message = format!("the turn ended with exit status {}", over.code);
            self.say(Told::Error { message }).await;
        } else if !over.unpushed.is_empty() {
            let message = over.unpushed;
            self.say(Told::Error { message }).await;
        }
        Next::Wait
    }

    /// Until somebody says something.
    async fn wait(&mut self) -> Next {
        self.place.working = false;
        self.say(Told::WaitingForInput).await;
        let place = self.place.clone();
        let heard = {
            let keep = self.keeper.watch(Duration::ZERO, || place.clone());
            tokio::pin!(keep);
            let mut ask = interval(ASK);
            loop {
                tokio::select! {
                    () = &mut keep => {}
                    _ = ask.tick() => {
                        let want = FromRunner::WantInput { after: place.input };
                        drop(self.link.answers.try_send(want)); // it is asked again
                    }
                    Some(order) = self.link.orders.recv() => match order {
                        ToRunner::Input { number, text } if number > place.input => break Heard::Input(number, text),
                        ToRunner::Stop { .. } => break Heard::Stop,
                        other => answer(self.assignment.incarnation, &other, self.link),
                    },
                    () = self.stop.received() => break Heard::Leave,
                }
            }
        };
        let (number, text) = match heard {
            Heard::Input(number, text) => (number, text),
            Heard::Stop | Heard::Leave => {
                self.keeper.last(place, Instant::now() + LEAVE).await;
                return if matches!(heard, Heard::Leave) {
                    Next::Leave
                } else {
                    Next::Rest
                };
            }
        };
        self.place.input = number;
        let told = Told::Input {
            number,
            text: text.clone(),
        };
        self.say(told).await;
        Next::Work(text)
    }

    /// Prepares and starts the harness.
    fn begin(&self, prompt: &str) -> Result<(Launch, Harness), NotStarted> {
        let Self { options, place, .. } = self;
        let task = Task {
            assignment: self.assignment,
            fallback: &options.command,
            home: &options.home,
            workspace: &options.workspace,
            resume: Some(place.conversation.as_str()).filter(|conversation| !conversation.is_empty()),
            prompt,
        };
        let launch = options.harness.launch(task).map_err(|error| NotStarted {
            code: 126,
            error: error.to_string(),
        })?;
        prepare(&launch)?;
        let harness = start(self.reaper, &launch, &options.workspace)?;
        Ok((launch, harness))
    }

    /// The harness can't be started: the session's end.
    async fn give_up(&self, NotStarted { code, error }: NotStarted) -> Next {
        tracing::error!(code, error, "the harness wasn't started");
        let exited = FromRunner::Exited {
            code,
            summary: String::new(),
            error,
            stopped: false,
            branch: String::new(),
            pull_request: 0,
            last_lines: String::new(),
        };
        if self.link.frames.send(exited).await.is_err() {
            tracing::warn!("the end can't be told");
        }
        Next::Rest
    }

    /// Something that the runner itself tells, at this place of the output.
    async fn say(&self, told: Told) {
        let said = Said {
            told: told.cut(),
            offset: self.printed,
            length: 0,
        };
        if self.link.frames.send(FromRunner::Said(said)).await.is_err() {
            tracing::warn!("the sidecar has gone");
        }
    }
}

/// Where the session is when this pod takes it up. A program that keeps no conversation is given its last input anew.
fn place(assignment: &Assignment) -> Place {
    let Some(restore) = &assignment.restore else {
        return Place::default();
    };
    let lost = restore.working && restore.conversation.is_empty() && restore.input > 0;
    Place {
        conversation: restore.conversation.clone(),
        input: restore.input - u64::from(lost),
        working: restore.working && !lost,
    }
}

/// Whoever was asked may have gone.
const ASK: Duration = Duration::from_secs(5);

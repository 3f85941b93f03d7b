//! The task behind a handle: connects, runs the connection, waits, connects again.
//!
//! While there is no connection it serves the handle all the same: messages go into the outbox,
//! requests fail, the state can be read.

use std::time::Duration;

use tokio::sync::mpsc;
use tokio::time::Instant;

use super::backoff::{self, End, Next};
use super::core::{Command, Core};
use super::error::StopReason;
use super::event::ConnectionState;
use super::options::{Dial, Token};
use super::session::{self, Identity};
use super::state::Preload;
use super::transport::{self, Address, Wire};

/// What the task needs beside its [`Core`].
pub(super) struct Task {
    pub(super) core: Core,
    pub(super) commands: mpsc::Receiver<Command>,
    pub(super) address: Address,
    pub(super) identity: Identity,
    pub(super) token: Token,
    pub(super) dial: Option<Dial>,
    pub(super) preload: Preload,
}

impl Task {
    pub(super) async fn run(mut self) {
        let reason = match self.core.load().await {
            Ok(()) => {
                self.core.state.preload = self.preload;
                self.connect_until_stopped().await
            }
            Err(End::Stop(reason)) => reason,
            Err(_) => StopReason::Closed,
        };
        tracing::debug!(%reason, "client stopped");
        self.core.publish(ConnectionState::Disconnected(Some(reason)));
    }

    async fn connect_until_stopped(&mut self) -> StopReason {
        let mut renew = false;
        loop {
            self.core.publish(ConnectionState::Connecting);
            let end = self.once(renew).await;
            tracing::debug!(?end, attempt = self.core.attempt, "connection ended");
            let provider = matches!(self.token, Token::Provider(_));
            match backoff::after(&end, self.core.attempt, provider, &mut self.core.rng) {
                Next::Stop(reason) => return reason,
                Next::Reconnect { wait, renew_token } => {
                    // A token stays expired until one has been given.
                    renew = renew_token || (renew && !matches!(end, End::Closed { .. }));
                    self.core.attempt = self.core.attempt.saturating_add(1);
                    self.core.publish(ConnectionState::Disconnected(None));
                    if let Err(reason) = self.wait(wait).await {
                        return reason;
                    }
                }
            }
        }
    }

    /// One connection, from the token to its end.
    async fn once(&mut self, renew: bool) -> End {
        let (wire, token) = match self.open(renew).await {
            Ok(opened) => opened,
            Err(end) => return end,
        };
        session::run(&mut self.core, wire, &mut self.commands, &self.identity, token).await
    }

    async fn open(&mut self, renew: bool) -> Result<(Wire, String), End> {
        let (token, address, dial) = (self.token.clone(), &self.address, self.dial.as_ref());
        let opening = async {
            let token = match token {
                Token::Fixed(token) => token,
                Token::Provider(provider) => {
                    let given = provider(renew).await;
                    given.map_err(|_| End::Lost("no token"))?
                }
            };
            Ok((transport::open(address, dial).await?, token))
        };
        tokio::pin!(opening);
        loop {
            tokio::select! {
                biased;
                opened = &mut opening => return opened,
                command = self.commands.recv() => {
                    if !self.core.offline(command).await? {
                        return Err(End::Stop(StopReason::Closed));
                    }
                }
            }
        }
    }

    async fn wait(&mut self, wait: Duration) -> Result<(), StopReason> {
        let until = Instant::now() + wait;
        loop {
            tokio::select! {
                biased;
                () = tokio::time::sleep_until(until) => return Ok(()),
                command = self.commands.recv() => match self.core.offline(command).await {
                    Ok(true) => {}
                    Ok(false) => return Err(StopReason::Closed),
                    Err(End::Stop(reason)) => return Err(reason),
                    Err(_) => return Err(StopReason::Closed),
                },
            }
        }
    }
}

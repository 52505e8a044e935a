//! The control stream as tests open it: as an honest sidecar, or as somebody who would like to be one.

use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use aws_lc_rs::signature::{Ed25519KeyPair, KeyPair};
use berth_protocol::control::control_client::ControlClient;
use berth_protocol::control::{FromSidecar, Hello, KeyProof, ToSidecar, from_sidecar, to_sidecar};
use berth_protocol::{CONTROL_PORT, KEY_PROOF_PREFIX, VERSION};
use futures::channel::mpsc::{UnboundedSender, unbounded};
use k8s_openapi::api::core::v1::{ConfigMap, Service};
use kube::api::Api;
use tokio::time::timeout;
use tonic::transport::{Certificate, Channel, ClientTlsConfig, Endpoint};
use tonic::{Request, Status, Streaming};

use crate::Team;

/// A stream that said Hello.
pub struct Stream {
    key: Ed25519KeyPair,
    sender: UnboundedSender<FromSidecar>,
    incoming: Streaming<ToSidecar>,
}

impl Stream {
    /// Opens a stream with a fresh key; the controller answers with its refusal when the token says nothing.
    pub async fn open(endpoint: &Endpoint, token: Option<&str>) -> Result<std::result::Result<Self, Status>> {
        let channel: Channel = endpoint.connect().await?;
        let key = Ed25519KeyPair::generate()?;
        let (sender, receiver) = unbounded();
        let hello = Hello {
            protocol: VERSION,
            version: "e2e".to_owned(),
            public_key: key.public_key().as_ref().to_vec(),
            ..Hello::default()
        };
        say(&sender, from_sidecar::Message::Hello(hello))?;
        let mut request = Request::new(receiver);
        if let Some(token) = token {
            let bearer = format!("Bearer {token}").parse()?;
            request.metadata_mut().insert("authorization", bearer);
        }
        let mut client = ControlClient::new(channel);
        let answer = timeout(ANSWER, client.attach(request))
            .await
            .context("the controller doesn't answer")?;
        Ok(answer.map(|answer| Self {
            key,
            sender,
            incoming: answer.into_inner(),
        }))
    }

    /// Opens a stream with a token that is a pod's.
    pub async fn of_pod(endpoint: &Endpoint, token: &str) -> Result<Self> {
        Ok(Self::open(endpoint, Some(token)).await??)
    }

    /// Answers Welcome with a signature over what `signed` makes of it.
    pub async fn prove(&mut self, signed: impl Fn(&[u8]) -> Vec<u8>) -> Result<()> {
        let first = timeout(ANSWER, self.incoming.message()).await.context("no Welcome")??;
        let Some(to_sidecar::Message::Welcome(welcome)) = first.and_then(|first| first.message) else {
            bail!("the first message isn't Welcome")
        };
        let signature = self.key.sign(&signed(&welcome.nonce)).as_ref().to_vec();
        self.say(from_sidecar::Message::KeyProof(KeyProof { signature }))
    }

    /// Says something.
    pub fn say(&self, message: from_sidecar::Message) -> Result<()> {
        say(&self.sender, message)
    }

    /// What the controller says next; `None` when it has ended the stream.
    pub async fn next(&mut self) -> Result<Option<ToSidecar>, Status> {
        self.incoming.message().await
    }

    /// Fails unless the controller ends the stream without having said anything more.
    pub async fn ends(&mut self) -> Result<()> {
        let next = timeout(ANSWER, self.incoming.message()).await;
        let next = next.context("the stream stays open")?;
        match next {
            Ok(Some(message)) => bail!("the controller said {message:?}"),
            Ok(None) | Err(_) => Ok(()),
        }
    }

    /// Fails unless the stream is open and the controller has said nothing.
    pub async fn is_quiet(&mut self, during: Duration) -> Result<()> {
        match timeout(during, self.incoming.message()).await {
            Err(_elapsed) => Ok(()),
            Ok(Ok(None)) => bail!("the stream ended"),
            Ok(other) => bail!("the controller said {other:?}"),
        }
    }
}

fn say(sender: &UnboundedSender<FromSidecar>, message: from_sidecar::Message) -> Result<()> {
    let message = FromSidecar { message: Some(message) };
    Ok(sender.unbounded_send(message)?)
}

/// What an honest sidecar signs.
pub fn proof(nonce: &[u8]) -> Vec<u8> {
    [KEY_PROOF_PREFIX, nonce].concat()
}

/// Where sidecars of a team's pods attach.
pub async fn endpoint(team: &Team) -> Result<Endpoint> {
    let services: Api<Service> = Api::namespaced(team.cluster.client.clone(), "berth-system");
    let service = services.get("berth-controller").await?;
    let address = service
        .spec
        .and_then(|spec| spec.cluster_ip)
        .context("the Service has no address")?;
    let authority = team.api::<ConfigMap>().get("berth-ca").await?.data.unwrap_or_default();
    let certificate = authority.values().next().context("berth-ca is empty")?;
    let tls = ClientTlsConfig::new()
        .ca_certificate(Certificate::from_pem(certificate))
        .domain_name("berth-controller.berth-system.svc");
    let endpoint = Endpoint::from_shared(format!("https://{address}:{CONTROL_PORT}"))?.tls_config(tls)?;
    Ok(endpoint.connect_timeout(ANSWER))
}

/// The controller's own limit for a handshake is 10 s.
const ANSWER: Duration = Duration::from_secs(30);

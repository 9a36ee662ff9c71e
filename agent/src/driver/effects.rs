//! The effects of the core, carried out.
//!
//! Owns the translation of each effect into a call of a plane, a task or a record. Main invariant: in the order the
//! core gave them, and nothing after a record before it is on disk. Refuses to decide.

use std::sync::Arc;

use lunar_agent_core::applier::protocol::Task;
use lunar_agent_core::effect::{DocumentVerdict, Effect};
use lunar_agent_core::input::{CallId, Input};
use lunar_common::document::{Kind, SignedDocument};
use lunar_common::message::{Gossip, Request, Response};
use lunar_common::wire::{Signed, SignedMessage};
use lunar_host::exit::{Exit, Failure, OrExit};

use super::{Caller, Driver, unanswered};
use crate::applier_link::Question;
use crate::hooks;
use crate::local_api::LocalResponse;
use crate::probes;

impl Driver {
    /// Carries out every effect the core has, in order.
    pub(super) async fn carry_out(&mut self) -> Result<(), Failure> {
        while let Some(effect) = self.node.poll_effect() {
            match effect {
                Effect::Persist(record) => self.journal.keep(record).await.or_exit(Exit::Environment)?,
                Effect::Log(transition) => tracing::info!(
                    campaign = %transition.campaign,
                    server = %self.node.me().server,
                    attempt = %transition.attempt,
                    from = %transition.from,
                    to = %transition.to,
                    lease = self.node.journal().lease.held.as_ref().map(|held| held.grant.lease.0),
                    "{}", transition.cause
                ),
                Effect::TrustChanged => self.show_trust().await,
                Effect::Spread { call, document } => self.spread(call, &document),
                Effect::AnswerDocument { call, verdict } => self.answer_document(call, verdict),
                Effect::AnswerGrant { call, refused } => {
                    if let Some(Caller::Peer(reply)) = self.calls.waiting.remove(&call) {
                        match refused {
                            None => reply.send(Response::Done),
                            Some(reason) => reply.refuse(reason),
                        }
                    }
                }
                Effect::AnswerGroup { call, answer } => {
                    if let Some(Caller::Peer(reply)) = self.calls.waiting.remove(&call) {
                        match answer {
                            Some(answer) => reply.send(Response::Group(self.sign(&answer))),
                            None => reply.refuse("only members of a redundancy group may ask each other"),
                        }
                    }
                }
                Effect::Claim(claim) => {
                    let nonce = claim.nonce;
                    self.ask_coordinator(Request::Claim(self.sign(&claim)), move |response| {
                        let answer = match response {
                            Some(Response::Claim(answer)) => Some(answer),
                            other => unanswered("claim", other),
                        };
                        Input::ClaimAnswered { nonce, answer }
                    });
                }
                Effect::Release(release) => {
                    let lease = release.lease;
                    self.ask_coordinator(Request::Release(self.sign(&release)), move |response| {
                        let kept = match response {
                            Some(Response::Done) => Some(()),
                            other => unanswered("release", other),
                        };
                        Input::ReleaseAnswered { lease, kept: kept.is_some() }
                    });
                }
                Effect::Report(report) => {
                    let number = report.number;
                    self.ask_coordinator(Request::Report(self.sign(&*report)), move |response| {
                        let answer = match response {
                            Some(Response::Report(answer)) => Some(answer),
                            other => unanswered("report", other),
                        };
                        Input::ReportAnswered { number, answer }
                    });
                }
                Effect::AskGroupMembers { ask } => {
                    self.ask_coordinator(Request::GroupMembers, move |response| {
                        let members = match response {
                            Some(Response::Documents(members)) => Some(members),
                            other => unanswered("question for the group's members", other),
                        };
                        Input::GroupMembers { ask, members }
                    });
                }
                Effect::AskMember { ask, member, question } => {
                    let mesh = self.mesh.clone();
                    self.task(async move {
                        let answer = match mesh.request(member.key, Request::Group(question)).await {
                            Ok(Response::Group(answer)) => Some(answer),
                            Ok(other) => unanswered("question to a member of the group", Some(other)),
                            Err(error) => {
                                tracing::info!(%error, member = %member.server, "a member does not answer");
                                None
                            }
                        };
                        Input::GroupAnswered { ask, member: member.server.clone(), answer }
                    });
                }
                Effect::Applier { ask, plan, attempt, command } => {
                    let task = Task { campaign: plan.campaign.clone(), plan: plan.hash(), attempt };
                    if self.applier.try_send(Question { ask, task, command }).is_err() {
                        self.task(async move { Input::Applier { ask, status: None } });
                    }
                }
                Effect::Want { plan } => self.sources.want(&plan).await,
                Effect::Probe { ask, plan, when } => {
                    let context = self.context.clone();
                    self.task(async move {
                        let outcomes = probes::ask_all(&plan.health.probes, when, &context).await;
                        Input::Probed { ask, outcomes }
                    });
                }
                Effect::RunHook { ask, campaign, plan, hook } => {
                    let context = self.context.clone();
                    self.task(async move {
                        let timeout = std::time::Duration::from_secs(hook.timeout_s.into());
                        let ended = hooks::run(&hook.command, timeout, &context).await;
                        let failure = ended.err().map(|error| error.to_string());
                        if let Some(failure) = &failure {
                            tracing::warn!(%campaign, %plan, %failure, "a hook failed");
                        }
                        Input::HookEnded { ask, failure }
                    });
                }
            }
        }
        Ok(())
    }

    /// The planes see the new state, and cut off whoever is out by it. Of machines that are revoked nothing is
    /// remembered either.
    async fn show_trust(&mut self) {
        let trust = self.node.trust().clone();
        let revoked = trust.revocation().map(|list| list.keys.clone()).unwrap_or_default();
        self.gate.show(trust, (**self.node.me().document()).clone());
        for key in revoked {
            self.mesh.evict(key).await;
            self.sources.revoked(key).await;
        }
    }

    /// What came by gossip goes on by itself once it is accepted; everything else is gossiped here.
    fn spread(&self, call: CallId, document: &Arc<SignedDocument>) {
        if matches!(self.calls.waiting.get(&call), Some(Caller::Gossip(_)))
            || document.kind == Kind::Enrolment
        {
            return;
        }
        let (mesh, document) = (self.mesh.clone(), (**document).clone());
        tokio::spawn(async move {
            if let Err(error) = mesh.publish(Gossip::Document(document)).await {
                tracing::warn!(%error, "a document was not gossiped; machines that connect later ask for it");
            }
        });
    }

    fn answer_document(&mut self, call: CallId, verdict: DocumentVerdict) {
        let caller = self.calls.waiting.remove(&call).unwrap_or(Caller::Nobody);
        if let DocumentVerdict::Refused { reason, .. } = &verdict {
            tracing::debug!(%reason, "a document was refused");
        }
        match (caller, verdict) {
            (Caller::Gossip(receipt), DocumentVerdict::Accepted) => receipt.accept(),
            (Caller::Gossip(receipt), DocumentVerdict::Refused { blames_sender: true, .. }) => {
                receipt.reject()
            }
            (Caller::Gossip(receipt), DocumentVerdict::Known | DocumentVerdict::Refused { .. }) => {
                receipt.ignore();
            }
            (Caller::Peer(reply), DocumentVerdict::Accepted | DocumentVerdict::Known) => {
                reply.send(Response::Done);
            }
            (Caller::Peer(reply), DocumentVerdict::Refused { reason, .. }) => reply.refuse(reason),
            (Caller::Local(reply), verdict) => {
                let response = match verdict {
                    DocumentVerdict::Accepted => LocalResponse::Injected { new: true },
                    DocumentVerdict::Known => LocalResponse::Injected { new: false },
                    DocumentVerdict::Refused { reason, .. } => LocalResponse::Refused { reason },
                };
                // A client that has gone needs no answer.
                let _ = reply.send(response);
            }
            (Caller::Nobody, _) => {}
        }
    }

    fn sign<M: SignedMessage>(&self, message: &M) -> Signed {
        Signed::sign(message, &self.key).expect("the core keeps its messages within their bounds")
    }

    fn ask_coordinator(
        &self,
        request: Request,
        translate: impl FnOnce(Option<Response>) -> Input + Send + 'static,
    ) {
        let uplink = self.uplink.clone();
        self.task(async move { translate(uplink.ask(request).await) });
    }

    /// Does something that takes time; what comes of it goes back to the core.
    fn task(&self, work: impl Future<Output = Input> + Send + 'static) {
        let inputs = self.inputs.clone();
        tokio::spawn(async move {
            let input = work.await;
            // A loop that has ended needs no answers.
            let _ = inputs.send(input).await;
        });
    }
}

/** Sends sequences to backends. If a backend fails, another backend with the same numerics fingerprint continues its sequences. */
import {
  type BatchRequest,
  contractVersion,
  errorFrame,
  type Frame,
  numericsAgree,
} from "../../shared/contracts/inference.ts";
import { type ErrorKind, ServiceError } from "../../shared/errors.ts";
import type { Backend } from "./backend-group.ts";
import { BatchRun } from "./batch-run.ts";
import { asFailure, type CallFailure, divergence, errorOf } from "./call-failure.ts";
import { CallQueue, type QueuedCall, type QueueLimits } from "./call-queue.ts";
import type { OpenBatch } from "./client.ts";
import { type ControlCall, cancellations, probes } from "./control-calls.ts";
import { PendingSequence, type Receiver, sharingOf } from "./pending-sequence.ts";
import { afterLoss, type BackendFailure, Budget, nextStep, withTried } from "./retries.ts";
import type { Routing, RoutingEvent } from "./routing.ts";
import { maxLosses } from "./routing-limits.ts";

export interface DispatcherParts {
  /** The current configuration. Open calls keep an older configuration. */
  routing(): Routing;
  observe(event: RoutingEvent): void;
  now(): number;
  after(ms: number, work: () => void): void;
  keepAlive(work: Promise<void>): void;
  batchSent?(waitsMs: readonly number[]): void;
  limits?: QueueLimits;
  retries?: Budget;
}

type Entry = PendingSequence | ControlCall;

/** The cell refuses the request before any part of it begins or is charged, so another cell may answer. */
export class NotTaken extends ServiceError {
  constructor(kind: ErrorKind, message: string) {
    // After one second a full queue has most likely drained.
    super(kind, message, { retryAfterSeconds: 1 });
  }
}

export class Dispatcher {
  readonly #parts: DispatcherParts;
  readonly #queue: CallQueue<Entry>;
  readonly #retries: Budget;
  #open = 0;

  constructor(parts: DispatcherParts) {
    this.#parts = parts;
    this.#queue = new CallQueue(parts.limits);
    this.#retries = parts.retries ?? new Budget();
  }

  get waiting(): number {
    return this.#queue.waiting;
  }

  get idle(): boolean {
    return this.#open === 0 && this.#queue.idle;
  }

  checkRoom(tenant: string, sequences: number): void {
    const [queued, room] = [this.#queue.waitingOf(tenant), this.#queue.roomOf(tenant)];
    if (queued + sequences <= room) return;
    const message = `${queued} of your completions are waiting here, the maximum is ${room} now; this request has ${sequences}.`;
    throw new NotTaken("overloaded", message);
  }

  /** Queues one tenant's sequences. Returns a function that cancels them. Throws NotTaken if the queue has no room. */
  submit(batch: BatchRequest, receiver: Receiver): () => void {
    const { manifestHash, centroidId, adapterHash } = batch;
    this.checkRoom(batch.sequences[0].tenant, batch.sequences.length);
    this.#addControls(probes(this.#parts.routing(), this.#parts));
    const model = { manifestHash, centroidId, ...(adapterHash && { adapterHash }) };
    const parts = { model, receiver, arrivedMs: this.#parts.now(), sharing: sharingOf(batch) };
    const sequences = batch.sequences.map((sequence) => new PendingSequence(sequence, parts));
    this.#open += sequences.length;
    this.#enqueue(sequences);
    this.#sendReady();
    return () => {
      for (const sequence of sequences) this.#end(sequence);
      this.#sendReady();
    };
  }

  /** All sequences of `group` have the same retry round, numerics and model. If no backend is left, they end in an error. */
  #enqueue(group: readonly PendingSequence[]): void {
    const { now, after, keepAlive, observe, routing } = this.#parts;
    const { router, jurisdiction } = routing();
    const idle = group.filter(({ isIdle }) => isIdle);
    if (idle.length === 0) return;
    const [first] = idle;
    const { round, choice, pauseMs } = nextStep(first.round, (tried) => router.choose(first.route, tried, now()));
    for (const sequence of idle) sequence.round = round;
    if (pauseMs !== null) {
      keepAlive(
        new Promise<void>((resolve) => after(pauseMs, resolve)).then(() => {
          this.#enqueue(idle);
          this.#sendReady();
        }),
      );
      return;
    }
    if (!choice || (round.last && !this.#retries.take())) {
      const failures = round.failures.map(({ failure }) => failure);
      this.#endInError(idle, errorOf(failures, jurisdiction));
      return;
    }
    const notBegun = idle.filter(({ hasTokens }) => !hasTokens).length;
    if (round.last && notBegun > 0) {
      observe({ event: "retried", backend: round.last.backend.id, sequences: notBegun });
    }
    this.#add(idle, choice.backend);
  }

  #add(sequences: readonly PendingSequence[], backend: Backend): void {
    for (const sequence of sequences) sequence.isQueued = true;
    const [{ numerics, sharing }] = sequences;
    this.#queue.add({ key: JSON.stringify([backend.id, sharing, numerics]), backend: backend.id }, sequences);
  }

  #sendReady(): void {
    for (let call = this.#queue.take(); call; call = this.#queue.take()) {
      const sequences = call.entries.filter((entry) => entry instanceof PendingSequence);
      const controls = call.entries.filter((entry) => "send" in entry);
      this.#parts.keepAlive(controls.length > 0 ? this.#sendControl(call, controls) : this.#send(call, sequences));
    }
  }

  async #sendControl(call: QueuedCall<Entry>, controls: readonly ControlCall[]): Promise<void> {
    await controls[0].send(controls.flatMap(({ ids }) => ids));
    this.#release(call);
  }

  #release(call: QueuedCall<Entry>): void {
    this.#queue.release(call);
    this.#sendReady();
  }

  /** Never rejects. */
  async #send(call: QueuedCall<Entry>, queued: readonly PendingSequence[]): Promise<void> {
    const { now, routing } = this.#parts;
    const { router, clients } = routing();
    for (const sequence of queued) sequence.isQueued = false;
    const [first] = queued;
    // The backend is chosen again, because the queued one may have been ejected meanwhile.
    const choose = (tried: ReadonlySet<string>) => router.choose(first.route, tried, now());
    const forAll = choose(new Set(queued.flatMap(({ round }) => [...round.tried])));
    const backend = (forAll?.isFit ? forAll : choose(first.round.tried))?.backend;
    const mayGo = ({ round }: PendingSequence) => backend && !round.tried.has(backend.id);
    this.#enqueueGroups(queued.filter((one) => !mayGo(one)));
    if (!backend) return this.#release(call);
    const sequences = queued.filter(mayGo);
    call.backend = backend.id;
    const client = clients.get(backend.address.url)!;
    const waited = sequences.filter(({ attempts }) => attempts === 0).map(({ arrivedMs }) => now() - arrivedMs);
    if (waited.length > 0) this.#parts.batchSent?.(waited);
    const run: BatchRun = new BatchRun(backend, sequences, now(), {
      cancelled: (ids) => this.#addControls(cancellations(run.backend, client, ids, now())),
      ended: (sequence) => this.#end(sequence),
    });
    const batch: BatchRequest = { version: contractVersion, ...first.model, sequences: run.requests };
    let answer: OpenBatch | null = null;
    const { numerics } = first;
    try {
      answer = await client.openBatch(batch, { signal: run.signal, numerics, process: backend.name });
    } catch (thrown) {
      if (!run.signal.aborted) this.#handleRefusal(run, backend, asFailure(thrown));
    }
    backend.recordAnswered(sequences.length);
    const isAccepted = answer !== null && this.#accept(run, answer, numerics);
    this.#release(call);
    if (answer && isAccepted) await this.#readFrames(run, answer.frames);
  }

  /** Returns false if the backend's numerics fingerprint is not `wanted`. */
  #accept(run: BatchRun, { process, numerics, load }: OpenBatch, wanted: string | null): boolean {
    const { now, observe } = this.#parts;
    const called = run.backend;
    const answering = called.group.recordAnswer(called, process, now());
    answering.load.recordReport(load, now());
    if (!numericsAgree(wanted, numerics)) {
      const cause = new Error(`it has numerics ${numerics}, ${wanted} began`);
      this.#handleRefusal(run, answering, divergence(cause, process));
      return false;
    }
    run.markAccepted(answering, numerics);
    this.#retries.earn();
    for (const sequence of run.sequences) sequence.round = withTried(sequence.round, called, answering);
    const resumed = run.sequences.filter(({ hasTokens, lostBy }) => hasTokens && lostBy);
    for (const [backend, { length }] of Map.groupBy(resumed, ({ lostBy }) => lostBy!.backend.id)) {
      observe({ event: "resumed", backend, sequences: length });
    }
    for (const sequence of run.sequences) {
      if (!sequence.isAccepted) sequence.receiver.accepted();
      sequence.isAccepted = true;
    }
    return true;
  }

  /**
   * Sends refused sequences to another backend. If every backend would refuse, one tenant's sequences may be at fault: a call of several
   * tenants is then split by tenant, and a call of one tenant ends in an error.
   */
  #handleRefusal(run: BatchRun, called: Backend, failure: CallFailure): void {
    const { sequences } = run;
    for (const sequence of sequences) run.cancel(sequence);
    if (sequences.length === 0) return;
    const last = this.#recordFailure(called, failure, sequences[0]);
    const isCertain = !failure.consequence.retryElsewhere;
    for (const sequence of sequences) {
      const round = isCertain ? sequence.round : withTried(sequence.round, called, last.backend);
      sequence.round = { ...round, failures: [...round.failures, last], last };
      if (isCertain) sequence.sharing = JSON.stringify([sequence.tenant, sequence.sharing]);
    }
    if (isCertain && new Set(run.requests.map(({ tenant }) => tenant)).size === 1) {
      this.#endInError(sequences, failure.error);
    } else this.#enqueueGroups(sequences);
  }

  async #readFrames(run: BatchRun, groups: AsyncIterable<Frame[]>): Promise<void> {
    let failure: CallFailure;
    try {
      for await (const frames of groups) {
        this.#receive(run, frames);
        if (run.isOver) return;
      }
      throw new Error("the stream of frames ended early");
    } catch (thrown) {
      failure = asFailure(thrown);
    }
    if (!run.signal.aborted) this.#handleLoss(run, run.sequences, failure);
  }

  #receive(run: BatchRun, frames: readonly Frame[]): void {
    const failed = run.receive(frames);
    for (const group of Map.groupBy(failed, ([, { kind }]) => kind).values()) {
      const sequences = group.map(([sequence]) => sequence);
      this.#handleLoss(run, sequences, group[0][1]);
    }
    this.#sendReady();
  }

  /** Resends sequences that a backend accepted before it failed. */
  #handleLoss(run: BatchRun, sequences: readonly PendingSequence[], failure: CallFailure): void {
    if (sequences.length === 0) return;
    const last = this.#recordFailure(run.backend, failure, sequences[0]);
    const isBegun = sequences.some(({ hasTokens }) => hasTokens);
    for (const sequence of sequences) {
      run.remove(sequence);
      sequence.losses++;
      sequence.lostBy = last;
      sequence.round = afterLoss(sequence.round, last, isBegun);
    }
    const message = `${maxLosses} backends accepted this completion, and none finished it.`;
    const exhausted = sequences.filter(({ losses }) => losses >= maxLosses);
    this.#endInError(exhausted, new ServiceError("backend_unavailable", message));
    this.#enqueueGroups(sequences);
    this.#sendReady();
  }

  #enqueueGroups(sequences: readonly PendingSequence[]): void {
    const keyOf = ({ sharing, numerics, round }: PendingSequence) =>
      JSON.stringify([sharing, numerics, [...round.tried].sort(), round.isSecondRound, round.pausesMs.length]);
    for (const group of Map.groupBy(sequences, keyOf).values()) this.#enqueue(group);
  }

  #endInError(sequences: readonly PendingSequence[], error: ServiceError): void {
    const idle = sequences.filter(({ isIdle }) => isIdle);
    if (idle.length === 0) return;
    if (error.kind === "numerics_mismatch") {
      const backend = (idle[0].lostBy ?? idle[0].round.last)!.backend.id;
      this.#parts.observe({ event: "not_resumed", backend, sequences: idle.length });
    }
    for (const sequence of idle) this.#end(sequence);
    for (const [receiver, ended] of Map.groupBy(idle, (sequence) => sequence.receiver)) {
      receiver.receive(ended.map(({ id }) => errorFrame(id, error)));
    }
  }

  /** Records a failure of the process that answered, or of `called` if the answer names no process. */
  #recordFailure(called: Backend, failure: CallFailure, { model, numerics }: PendingSequence): BackendFailure {
    const { observe, now } = this.#parts;
    const { kind, consequence } = failure;
    const backend = called.group.recordAnswer(called, failure.process, now());
    observe({ event: "call_failed", backend: backend.id, failure });
    if (kind === "misdirected") backend.group.forget(backend);
    if (kind === "mismatched") backend.health.recordMismatch(model.manifestHash, now());
    if (kind === "diverging" && numerics) backend.health.recordMismatch(numerics, now());
    const { health } = consequence;
    if (health !== "fit" && backend.health.recordFailure(health === "unfit", now())) {
      observe({ event: "ejected", backend: backend.id });
    }
    return { backend, failure };
  }

  #end(sequence: PendingSequence): void {
    if (sequence.isEnded) return;
    sequence.isEnded = true;
    this.#open--;
    if (sequence.isQueued) this.#queue.remove((entry) => entry === sequence);
    sequence.isQueued = false;
    sequence.run?.cancel(sequence);
  }

  #addControls(calls: readonly ControlCall[]): void {
    for (const call of calls) this.#queue.add(call.group, [call]);
  }
}

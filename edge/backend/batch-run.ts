/**
 * Runs one micro-batch over the backends until each of its sequences has had its last frame. When a backend fails a
 * sequence, the run sends it to another one together with the tokens that its client already has, so the client sees one
 * unbroken series. Only a backend with the same numerics fingerprint may continue it, because another one computes other
 * bits. A sequence whose first frame is late is hedged: a second backend gets it too, and the first to answer keeps it.
 * Not here: which backend to use (router.ts), how to call it (client.ts), and what a client already has (delivery.ts).
 */
import {
  type BatchRequest,
  contractVersion,
  errorFrame,
  type Frame,
  isLast,
  numericsAgree,
} from "../../shared/contracts/inference.ts";
import { ServiceError, toServiceError } from "../../shared/errors.ts";
import type { Backend } from "./backend-group.ts";
import { asFailure, type CallFailure, contractViolation, divergence, errorOf, failureOf } from "./call-failure.ts";
import type { BatchCall } from "./client.ts";
import { Attempt, Delivery } from "./delivery.ts";
import { FrameQueue } from "./frame-queue.ts";
import { type BackendFailure, firstRound, laterRound, type RetryRound, secondRound, withTried } from "./retry-round.ts";
import type { RoutingContext } from "./routing-context.ts";
import { mostLosses, roundPausesMs } from "./routing-limits.ts";

/** How sequences are sent until a backend accepts them. */
interface Sending {
  round: RetryRound;
  /** The failure for which they are sent again; null the first time. */
  previous: BackendFailure | null;
  /** Between rounds, in which a backend may come back; none for sequences that no backend had accepted. */
  pausesMs: readonly number[];
  /** Whether no other batch may be in the call. */
  isAlone: boolean;
}

export class BatchRun {
  readonly #context: RoutingContext;
  /** What the backend is to serve. */
  readonly #model: Pick<BatchRequest, "manifestHash" | "centroidId" | "adapterHash">;
  readonly #startedMs: number;
  /** The sequences that have not ended, by the client's id. */
  readonly #open = new Map<string, Delivery>();
  readonly #frames = new FrameQueue();

  constructor(batch: BatchRequest, context: RoutingContext) {
    this.#context = context;
    const { manifestHash, centroidId, adapterHash } = batch;
    this.#model = { manifestHash, centroidId, ...(adapterHash && { adapterHash }) };
    this.#startedMs = context.now();
    for (const sequence of batch.sequences) this.#open.set(sequence.id, new Delivery(sequence));
  }

  /** Resolves when a backend has accepted the batch, or a tenant's part of it. Rejects with the ServiceError to refuse all with. */
  async begin(): Promise<void> {
    const sending = { round: firstRound, previous: null, pausesMs: [], isAlone: false };
    await this.#sendUntilAccepted([...this.#open.values()], sending);
  }

  /** The frames of each sequence in order, up to its last. Leaving the loop cancels what is open; then `ended` is called. */
  async *frames(ended: () => void = () => {}): AsyncGenerator<Frame[]> {
    try {
      yield* this.#frames;
    } finally {
      this.stop();
      ended();
    }
  }

  /** Cancels the open sequences of `ids`. They get no further frame. */
  cancel(ids: readonly string[]): void {
    for (const id of ids) {
      const delivery = this.#open.get(id);
      if (!delivery) continue;
      this.#open.delete(id);
      for (const attempt of delivery.calls) attempt.cancel(delivery);
    }
    if (this.#open.size === 0) this.#frames.end();
  }

  stop(): void {
    this.cancel([...this.#open.keys()]);
  }

  /**
   * Sends `group`, whose numerics are equal, to one backend after the other until one accepts. Throws the ServiceError to end
   * the group with.
   */
  async #sendUntilAccepted(group: readonly Delivery[], sending: Sending): Promise<void> {
    const { router, retries, observe, jurisdiction, now } = this.#context;
    const { previous } = sending;
    let last = previous;
    /** In this round. */
    let failures = last ? [last] : [];
    let { round } = sending;
    const pausesMs = [...sending.pausesMs];
    for (;;) {
      const waiting = this.#takeWaiting(group);
      if (waiting.length === 0) return;
      const route = { ...this.#model, numerics: waiting[0].numerics };
      let choice = router.choose(route, round.tried, now());
      if (!choice && !round.isSecondRound) {
        round = secondRound(failures);
        choice = router.choose(route, round.tried, now());
      }
      if (!choice && failures.some(({ failure }) => failure.consequence.passes)) {
        const pauseMs = pausesMs.shift();
        if (pauseMs !== undefined) {
          await this.#pause(pauseMs);
          round = laterRound;
          failures = [];
          continue;
        }
      }
      if (!choice || (last && retries.take(1) === 0)) {
        const reasons = failures.map(({ failure }) => failure);
        throw errorOf(reasons, jurisdiction);
      }
      const begun = waiting.filter(({ hasTokens }) => hasTokens).length;
      if (last && begun < waiting.length) {
        observe({ event: "retried", backend: last.backend.id, sequences: waiting.length - begun });
      }
      last = await this.#send(choice.backend, waiting, round, { isRepeated: last !== null, isAlone: sending.isAlone });
      if (!last) {
        if (previous && begun > 0) observe({ event: "resumed", backend: previous.backend.id, sequences: begun });
        return;
      }
      if (!last.failure.consequence.elsewhere) {
        // What a backend had accepted goes on because that one failed.
        const again = { round, previous: previous ?? last, pausesMs, isAlone: true };
        return await this.#sendByTenant(waiting, again, last.failure);
      }
      round = withTried(round, choice.backend, last.backend);
      failures.push(last);
    }
  }

  /**
   * Sends sequences of a refused call once more, each tenant's in a call of its own, as only one tenant's may be at fault. Throws
   * the ServiceError to end all with if there is nobody else in the call, or no part is accepted.
   */
  async #sendByTenant(
    group: readonly Delivery[],
    sending: Sending & { previous: BackendFailure },
    failure: CallFailure,
  ): Promise<void> {
    const parts = [...Map.groupBy(group, ({ sequence }) => sequence.tenant).values()];
    if (parts.length === 1 && !failure.wasShared) throw failure.error;
    const errors: ServiceError[] = [];
    const accepted = parts.map(async (part) => {
      try {
        await this.#sendUntilAccepted(part, sending);
      } catch (thrown) {
        const error = toServiceError(thrown);
        errors.push(error);
        this.#endInError(part, error, sending.previous);
      }
      // Of one that failed, or whose clients have left, nothing is open.
      if (!part.some((delivery) => this.#isOpen(delivery))) throw new Error("not accepted");
      return true;
    });
    this.#context.keepAlive(Promise.allSettled(accepted).then(() => undefined));
    const isAccepted = await Promise.any(accepted).catch(() => false);
    const error = errors.find(({ retryAfterSeconds }) => retryAfterSeconds !== null) ?? errors[0];
    if (!isAccepted && error) throw error;
  }

  #pause(ms: number): Promise<void> {
    return new Promise((resolve) => void this.#context.after(ms, resolve));
  }

  /** Returns the open sequences of `group`, after it ended those that failed too often. */
  #takeWaiting(group: readonly Delivery[]): Delivery[] {
    const message = `${mostLosses} backends took this completion in, and none finished it.`;
    for (const delivery of group.filter(({ losses }) => losses >= mostLosses)) {
      this.#finish(delivery, errorFrame(delivery.id, new ServiceError("backend_unavailable", message)));
    }
    return group.filter((delivery) => this.#isOpen(delivery));
  }

  /** Calls one backend. Returns its failure; null if it accepted, or if all sequences were cancelled meanwhile. */
  async #send(
    backend: Backend,
    group: readonly Delivery[],
    round: RetryRound,
    how: Pick<BatchCall, "isRepeated" | "isAlone">,
  ): Promise<BackendFailure | null> {
    const { clients, retries, now, keepAlive } = this.#context;
    const client = clients.get(backend.address.url)!;
    const wanted = group[0].numerics;
    const nowMs = now();
    const attempt = new Attempt(backend, round, group, {
      nowMs,
      elapsedMs: nowMs - this.#startedMs,
      // A cancellation that fails leaves sequences running to their end, which costs only time.
      cancel: (ids) => keepAlive(client.cancel(ids, attempt.backend.name).catch(() => undefined)),
    });
    backend.recordSent(group.length);
    try {
      const batch = { version: contractVersion, ...this.#model, sequences: attempt.requests } as const;
      const opening = client.openBatch(batch, {
        signal: attempt.signal,
        numerics: wanted,
        process: backend.name,
        // A retry must not reach the process that failed.
        isOnlyProcess: round.tried.size > 0,
        ...how,
      });
      const answer = await opening.finally(() => {
        backend.recordAnswered(group.length);
      });
      const { process, isMisdirected, numerics, load, frames, isRecorded } = answer;
      const answering = backend.group.recordAnswer(backend, process, now(), isRecorded);
      attempt.moveTo(answering, withTried(round, backend, answering));
      attempt.backend.load.recordReport(load, now());
      if (isMisdirected) backend.group.recordMisdirected(backend, false, now());
      if (!numericsAgree(wanted, numerics)) {
        for (const delivery of attempt.sequences) attempt.cancel(delivery);
        const cause = new Error(`it has numerics ${numerics}, ${wanted} began`);
        return this.#recordFailure(attempt.backend, divergence(cause), wanted);
      }
      attempt.markAccepted(numerics);
      retries.earn(1);
      keepAlive(this.#readFrames(attempt, frames));
      return null;
    } catch (thrown) {
      if (attempt.signal.aborted) return null;
      for (const delivery of attempt.sequences) attempt.remove(delivery);
      return this.#recordFailure(backend, asFailure(thrown), wanted);
    }
  }

  /** Reads the frames of an accepted call until it ends or fails. */
  async #readFrames(attempt: Attempt, groups: AsyncIterable<Frame[]>): Promise<void> {
    const { clients, firstFrames, after } = this.#context;
    // A hedge goes to another address or another process; where there is none, no call needs its timer.
    const hasOthers = clients.size > 1 || attempt.backend.group.processes.length > 1;
    const cancelHedge = hasOthers ? after(firstFrames.lateMs, () => this.#hedge(attempt)) : () => {};
    let failure: CallFailure;
    try {
      for await (const frames of groups) {
        this.#receive(attempt, frames);
        if (attempt.sequences.length === 0) return;
      }
      throw new Error("the stream of frames ended early");
    } catch (thrown) {
      failure = asFailure(thrown);
    } finally {
      cancelHedge();
    }
    if (attempt.signal.aborted) return;
    this.#handleLoss(attempt, attempt.sequences, failure);
  }

  /** Throws an Error for a frame of an unknown sequence. A frame that breaks its own sequence's series fails that alone. */
  #receive(attempt: Attempt, frames: readonly Frame[]): void {
    const failed = new Map<Delivery, CallFailure>();
    for (const frame of frames) {
      const delivery = attempt.find(frame.id);
      if (!delivery) continue;
      const failure = frame.type === "error" ? failureOf(frame) : null;
      if (failure) {
        failed.set(delivery, failure);
        continue;
      }
      try {
        this.#deliver(attempt, delivery, frame);
      } catch (cause) {
        // The backend may go on computing it.
        attempt.cancel(delivery);
        failed.set(delivery, contractViolation(cause));
      }
    }
    // Sequences that a backend gives up at the same time are sent on together.
    for (const group of Map.groupBy(failed, ([, { kind }]) => kind).values()) {
      const [[, failure]] = group;
      this.#handleLoss(
        attempt,
        group.map(([delivery]) => delivery),
        failure,
      );
    }
  }

  #deliver(attempt: Attempt, delivery: Delivery, frame: Frame): void {
    const { firstFrames, hedges, now } = this.#context;
    const others = [...delivery.calls].filter((one) => one !== attempt);
    if (frame.type === "error" && others.length > 0) {
      // The other call of a hedged sequence may still succeed.
      attempt.remove(delivery);
      return;
    }
    const isFirst = !delivery.hasBegun && frame.type !== "error";
    const delivered = delivery.deliver(frame, attempt.numerics);
    if (isFirst) {
      firstFrames.record(now() - attempt.sentAtMs);
      hedges.earn(1);
      for (const other of others) other.cancel(delivery);
    }
    if (frame.type === "done") attempt.backend.recordSuccess();
    if (isLast(frame)) this.#finish(delivery, delivered);
    else this.#frames.push(delivered);
  }

  /** Handles the failure of sequences whose call a backend had accepted. */
  #handleLoss(attempt: Attempt, deliveries: readonly Delivery[], failure: CallFailure): void {
    for (const delivery of deliveries) {
      delivery.losses++;
      attempt.remove(delivery);
    }
    this.#resend(this.#recordFailure(attempt.backend, failure), deliveries, attempt.round);
  }

  /** Sends sequences that a backend failed to another one, but for those that another call already has. */
  #resend(failure: BackendFailure, deliveries: readonly Delivery[], round: RetryRound): void {
    const group = deliveries.filter((delivery) => this.#isOpen(delivery) && delivery.calls.size === 0);
    if (group.length === 0) return;
    // Once a sequence has progressed, backends that failed before may succeed.
    const isBegun = group.some(({ hasTokens }) => hasTokens);
    const from = isBegun ? withTried(firstRound, failure.backend) : round;
    // Sequences without tokens may go to any backend, so they do not wait for those with tokens.
    for (const alike of Map.groupBy(group, ({ numerics }) => numerics).values()) {
      const sending = { round: from, previous: failure, pausesMs: roundPausesMs, isAlone: false };
      const sent = this.#sendUntilAccepted(alike, sending).catch((thrown) =>
        this.#endInError(alike, toServiceError(thrown), failure),
      );
      this.#context.keepAlive(sent);
    }
  }

  /** Ends sequences that no backend accepts, but for those that another call has. */
  #endInError(group: readonly Delivery[], error: ServiceError, { backend }: BackendFailure): void {
    const left = group.filter((delivery) => this.#isOpen(delivery) && delivery.calls.size === 0);
    if (left.length === 0) return;
    if (error.kind === "numerics_mismatch") {
      this.#context.observe({ event: "not_resumed", backend: backend.id, sequences: left.length });
    }
    for (const delivery of left) this.#finish(delivery, errorFrame(delivery.id, error));
  }

  /** Sends sequences without a first frame to a second backend too, if one is fit and has less load. */
  #hedge(attempt: Attempt): void {
    const { router, hedges, observe, now, keepAlive } = this.#context;
    const late = attempt.sequences.filter((one) => !one.hasBegun && one.attempts === 1);
    if (late.length === 0) return;
    const choice = router.choose(this.#model, attempt.round.tried, now());
    const isMoreLoaded = (one: Backend) => router.shareOf(one, now()) >= router.shareOf(attempt.backend, now());
    // Any process of the same address may be the same process.
    const mayBeSame = (one: Backend) => one.name === null && one.address === attempt.backend.address;
    if (!choice?.isFit || mayBeSame(choice.backend) || isMoreLoaded(choice.backend)) return;
    const group = late.slice(0, hedges.take(late.length));
    if (group.length === 0) return;
    const { backend } = choice;
    observe({ event: "hedged", backend: backend.id, sequences: group.length });
    const how = { isRepeated: true, isAlone: false };
    const sending = this.#send(backend, group, attempt.round, how).then((failed) => {
      // Their first call may have failed meanwhile, so that only this one had them.
      if (failed) this.#resend(failed, group, withTried(attempt.round, backend, failed.backend));
    });
    keepAlive(sending);
  }

  /** Records the failure of a call to `asked`, for the process that answered. `numerics` are those that it was to continue. */
  #recordFailure(asked: Backend, failure: CallFailure, numerics: string | null = null): BackendFailure {
    const { observe, now } = this.#context;
    const { kind, consequence } = failure;
    const backend = asked.group.recordAnswer(asked, failure.process, now(), failure.isRecorded);
    if (failure.isRecorded) return { backend, failure };
    failure.isRecorded = true;
    observe({ event: "call_failed", backend: backend.id, failure });
    if (kind === "misdirected") backend.group.recordMisdirected(backend, true, now());
    if (kind === "mismatched") backend.health.recordMismatch(this.#model.manifestHash, now());
    if (kind === "diverging" && numerics) backend.health.recordMismatch(numerics, now());
    const { health } = consequence;
    if (health !== "fit" && backend.health.recordFailure(health === "unfit", now())) {
      observe({ event: "ejected", backend: backend.id });
    }
    return { backend, failure };
  }

  /** Ends a sequence with this frame. */
  #finish(delivery: Delivery, frame: Frame): void {
    if (!this.#open.delete(delivery.id)) return;
    for (const attempt of delivery.calls) attempt.remove(delivery);
    this.#frames.push(frame);
    if (this.#open.size === 0) this.#frames.end();
  }

  #isOpen(delivery: Delivery): boolean {
    return this.#open.has(delivery.id);
  }
}

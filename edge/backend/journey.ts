/**
 * The way of one micro-batch through the backends, to the last frame of each of its sequences. Whoever is failed by a
 * backend is sent to another, with the tokens that its client has, so that the client sees one unbroken series (only to
 * one that computes the same bits, as its numerics fingerprint tells, or the series would change under way); whoever
 * waits too long for a first frame is sent to a second one beside, and the first to say something keeps it.
 * Which backend is the router's decision, how to call it the client's; what a client has, Delivery knows.
 */
import {
  type BatchRequest,
  contractVersion,
  errorFrame,
  type Frame,
  numericsAgree,
} from "../../shared/contracts/inference.ts";
import { ServiceError, toServiceError } from "../../shared/errors.ts";
import { Attempt, type Turns } from "./attempt.ts";
import type { Budget } from "./budget.ts";
import { asFailure, type CallFailure, contractViolation, divergence, errorOf, failureOf } from "./call-failure.ts";
import type { BackendCalls } from "./client.ts";
import { Delivery } from "./delivery.ts";
import { isLast } from "./dispatch.ts";
import type { FirstFrameTimes } from "./first-frame-times.ts";
import type { Route, Router } from "./router.ts";
import { mostLosses, roundPausesMs } from "./routing-limits.ts";
import type { RoutingObserver } from "./routing-observer.ts";

/** What journeys have in common. */
export interface Roads {
  router: Router;
  /** By name. */
  clients: ReadonlyMap<string, BackendCalls>;
  retries: Budget;
  hedges: Budget;
  firstFrames: FirstFrameTimes;
  observer: RoutingObserver;
  /** A clock in milliseconds. */
  now(): number;
  /** Runs `work` once, after `ms`; the returned function calls it off. */
  after(ms: number, work: () => void): () => void;
  /** Holds a promise that nobody awaits. */
  keepAlive(work: Promise<void>): void;
}

const nobodyTried: Turns = { tried: new Set(), isSecondRound: false };
/** After a pause: everybody once, and not twice. */
const anotherRound: Turns = { tried: new Set(), isSecondRound: true };

/** Who failed a sequence, and how. */
interface Lost {
  backend: string;
  failure: CallFailure;
}

export class Journey {
  readonly #roads: Roads;
  readonly #route: Route;
  readonly #startedMs: number;
  /** The sequences that have not ended, by the client's id. */
  readonly #open = new Map<string, Delivery>();
  /** The calls that carry each of them; two while it is hedged. */
  readonly #carriers = new Map<Delivery, Set<Attempt>>();
  /** Frames that nobody has taken yet: one turn's, as whoever iterates waits for nothing else. */
  readonly #frames: Frame[] = [];
  #wake = () => {};

  constructor(batch: BatchRequest, roads: Roads) {
    this.#roads = roads;
    const { manifestHash, centroidId, adapterHash } = batch;
    this.#route = { manifestHash, centroidId, ...(adapterHash && { adapterHash }) };
    this.#startedMs = roads.now();
    for (const sequence of batch.sequences) {
      const delivery = new Delivery(sequence);
      this.#open.set(sequence.id, delivery);
      this.#carriers.set(delivery, new Set());
    }
  }

  /** Resolves when a backend has accepted. Rejects with the ServiceError to refuse the whole batch with. */
  async begin(signal: AbortSignal): Promise<void> {
    if (signal.aborted) this.stop();
    signal.addEventListener("abort", () => this.stop());
    await this.#send([...this.#open.values()], nobodyTried, null);
  }

  /** Of each sequence its frames in order, to its last. Leaving the loop calls everything off; then `ended` is told. */
  async *frames(ended: () => void = () => {}): AsyncGenerator<Frame[]> {
    try {
      for (;;) {
        while (this.#frames.length > 0) yield this.#frames.splice(0);
        if (this.#open.size === 0) return;
        await new Promise<void>((resolve) => {
          this.#wake = resolve;
        });
      }
    } finally {
      this.stop();
      ended();
    }
  }

  /** Drops what is open of `ids`, without a frame. */
  cancel(ids: readonly string[]): void {
    for (const id of ids) {
      const delivery = this.#open.get(id);
      if (!delivery) continue;
      this.#open.delete(id);
      for (const attempt of this.#carriersOf(delivery)) this.#leave(attempt, delivery);
    }
    this.#wake();
  }

  stop(): void {
    this.cancel([...this.#open.keys()]);
  }

  /**
   * Sends `group`, whose numerics are equal, to one backend after the other until one accepts; `lost` is what brought it
   * here, if one had accepted it already: then it waits for better times, too. Throws the ServiceError to end it with.
   */
  async #send(group: readonly Delivery[], from: Turns, lost: Lost | null): Promise<void> {
    const { router, retries, now } = this.#roads;
    let last = lost;
    /** Of this round. */
    let losses = lost ? [lost] : [];
    let turns = from;
    const pausesMs = (lost ? roundPausesMs : []).values();
    for (;;) {
      const waiting = this.#stillWaiting(group);
      if (waiting.length === 0) return;
      const route = { ...this.#route, numerics: waiting[0].numerics };
      let choice = router.choose(route, turns.tried, now());
      if (!choice && !turns.isSecondRound) {
        turns = secondRound(losses);
        choice = router.choose(route, turns.tried, now());
      }
      if (!choice && losses.some(({ failure }) => failure.consequence.passes)) {
        const { done, value: pauseMs } = pausesMs.next();
        if (!done) {
          await this.#pause(pauseMs);
          turns = anotherRound;
          losses = [];
          continue;
        }
      }
      // Without a loss there is no call to repeat, and somebody to ask.
      if (!choice || (last && retries.take(1) === 0)) throw errorOf(losses.map(({ failure }) => failure));
      if (last) this.#tellRetry(last.backend, waiting);
      const { backend } = choice;
      turns = withTurn(turns, backend);
      const failure = await this.#board(backend, waiting, turns);
      if (!failure) return;
      last = { backend, failure };
      losses.push(last);
      if (!failure.consequence.elsewhere) throw failure.error;
    }
  }

  #pause(ms: number): Promise<void> {
    return new Promise((resolve) => void this.#roads.after(ms, resolve));
  }

  /** Who of `group` still is to be sent; ends those whose time or attempts are used up. */
  #stillWaiting(group: readonly Delivery[]): Delivery[] {
    const elapsedMs = this.#roads.now() - this.#startedMs;
    return group.filter((delivery) => {
      if (!this.#isOpen(delivery)) return false;
      const timeLeftMs = delivery.timeLeftMs(elapsedMs);
      if (timeLeftMs !== null && timeLeftMs <= 0) {
        const message = `The deadline was ${delivery.sequence.deadlineMs} ms; no backend started in time.`;
        this.#finish(delivery, errorFrame(delivery.id, new ServiceError("deadline_exceeded", message)));
      } else if (delivery.losses >= mostLosses) {
        const message = `${mostLosses} backends took this completion in, and none finished it.`;
        this.#finish(delivery, errorFrame(delivery.id, new ServiceError("backend_unavailable", message)));
      }
      return this.#isOpen(delivery);
    });
  }

  /** Calls one backend. Returns its failure; null where it has accepted, or nobody waits any more. */
  async #board(backend: string, group: readonly Delivery[], turns: Turns): Promise<CallFailure | null> {
    const { router, clients, retries, now, keepAlive } = this.#roads;
    const client = clients.get(backend)!;
    const wanted = group[0].numerics;
    const nowMs = now();
    const attempt = new Attempt(backend, turns, group, {
      nowMs,
      elapsedMs: nowMs - this.#startedMs,
      // Where it fails the sequences run to their end for nobody, which costs only time.
      cancel: (ids) => keepAlive(client.cancel(ids).catch(() => undefined)),
    });
    for (const delivery of group) this.#carriersOf(delivery).add(attempt);
    router.loaded(backend, group.length);
    try {
      const batch = { version: contractVersion, ...this.#route, sequences: attempt.sequences } as const;
      const { numerics, frames } = await client.openBatch(batch, attempt.signal, wanted);
      if (!numericsAgree(wanted, numerics)) {
        for (const delivery of attempt.aboard) this.#leave(attempt, delivery);
        return this.#note(backend, divergence(new Error(`it has numerics ${numerics}, ${wanted} began`)), wanted);
      }
      attempt.accepted(numerics);
      retries.earn(1);
      keepAlive(this.#follow(attempt, frames));
      return null;
    } catch (thrown) {
      if (attempt.signal.aborted) return null;
      for (const delivery of attempt.aboard) this.#ended(attempt, delivery);
      return this.#note(backend, asFailure(thrown), wanted);
    }
  }

  /** Takes an accepted call's frames to its end, good or bad. */
  async #follow(attempt: Attempt, groups: AsyncIterable<Frame[]>): Promise<void> {
    const { firstFrames, after } = this.#roads;
    const callOff = after(firstFrames.lateMs, () => this.#hedge(attempt));
    let failure: CallFailure;
    try {
      for await (const frames of groups) {
        this.#receive(attempt, frames);
        if (attempt.aboard.length === 0) return;
      }
      throw new Error("the stream of frames ended early");
    } catch (thrown) {
      failure = asFailure(thrown);
    } finally {
      callOff();
    }
    if (attempt.signal.aborted) return;
    this.#lose(attempt, attempt.aboard, failure);
  }

  /** Throws an Error for a frame of an unknown sequence. A frame that breaks its own sequence's series fails that alone. */
  #receive(attempt: Attempt, frames: readonly Frame[]): void {
    const givenUp = new Map<Delivery, CallFailure>();
    for (const frame of frames) {
      const delivery = attempt.find(frame.id);
      if (!delivery) continue;
      const failure = frame.type === "error" ? failureOf(frame) : null;
      if (failure) {
        givenUp.set(delivery, failure);
        continue;
      }
      try {
        this.#take(attempt, delivery, frame);
      } catch (cause) {
        // The backend may go on computing it.
        attempt.leave(delivery);
        givenUp.set(delivery, contractViolation(cause));
      }
    }
    // Those that a dying backend gives up in one breath travel on together.
    for (const group of Map.groupBy(givenUp, ([, { kind }]) => kind).values()) {
      const [[, failure]] = group;
      this.#lose(
        attempt,
        group.map(([delivery]) => delivery),
        failure,
      );
    }
  }

  #take(attempt: Attempt, delivery: Delivery, frame: Frame): void {
    const { router, firstFrames, hedges, now } = this.#roads;
    const others = [...this.#carriersOf(delivery)].filter((one) => one !== attempt);
    if (frame.type === "error" && others.length > 0) {
      // Its twin may still get through.
      this.#ended(attempt, delivery);
      return;
    }
    const isFirst = !delivery.hasBegun && frame.type !== "error";
    const delivered = delivery.deliver(frame, attempt.numerics);
    if (isFirst) {
      firstFrames.note(now() - attempt.departedMs);
      hedges.earn(1);
      for (const other of others) this.#leave(other, delivery);
    }
    if (frame.type === "done") router.succeeded(attempt.backend);
    if (isLast(frame)) this.#finish(delivery, delivered);
    else this.#push(delivered);
  }

  /** A backend has failed sequences of a call that it had accepted. */
  #lose(attempt: Attempt, deliveries: readonly Delivery[], failure: CallFailure): void {
    for (const delivery of deliveries) {
      delivery.lost();
      this.#ended(attempt, delivery);
    }
    this.#note(attempt.backend, failure);
    this.#moveOn({ backend: attempt.backend, failure }, deliveries, attempt.turns);
  }

  /** Sends sequences that a backend has failed to another, if no other carries them already. */
  #moveOn(lost: Lost, deliveries: readonly Delivery[], turns: Turns): void {
    const group = deliveries.filter((delivery) => this.#isOpen(delivery) && this.#carriersOf(delivery).size === 0);
    if (group.length === 0) return;
    // Where one has tokens, what failed before that may do better now.
    const isBegun = group.some(({ hasTokens }) => hasTokens);
    const from = isBegun ? withTurn(nobodyTried, lost.backend) : turns;
    // Who has no token yet may go anywhere, and is not held back by who has.
    for (const alike of Map.groupBy(group, ({ numerics }) => numerics).values()) {
      const sending = this.#send(alike, from, lost).catch((thrown) =>
        this.#giveUp(alike, toServiceError(thrown), lost),
      );
      this.#roads.keepAlive(sending);
    }
  }

  /** Ends sequences that no backend takes, but for those that another call carries. */
  #giveUp(group: readonly Delivery[], error: ServiceError, { backend }: Lost): void {
    const left = group.filter((delivery) => this.#isOpen(delivery) && this.#carriersOf(delivery).size === 0);
    if (error.kind === "numerics_mismatch") this.#roads.observer.notResumed(backend, left.length);
    for (const delivery of left) this.#finish(delivery, errorFrame(delivery.id, error));
  }

  /** Sends those that still wait for their first frame to a second backend that is fit and less loaded. */
  #hedge(attempt: Attempt): void {
    const { router, hedges, observer, now, keepAlive } = this.#roads;
    const late = attempt.aboard.filter((one) => !one.hasBegun && one.attempts === 1);
    if (late.length === 0) return;
    const choice = router.choose(this.#route, attempt.turns.tried, now());
    if (!choice?.isFit || router.loadOf(choice.backend) >= router.loadOf(attempt.backend)) return;
    const group = late.slice(0, hedges.take(late.length));
    if (group.length === 0) return;
    const { backend } = choice;
    const turns = withTurn(attempt.turns, backend);
    observer.hedged(backend, group.length);
    const boarding = this.#board(backend, group, turns).then((failure) => {
      // Their first call may have failed meanwhile, and left them to this one.
      if (failure) this.#moveOn({ backend, failure }, group, turns);
    });
    keepAlive(boarding);
  }

  #tellRetry(backend: string, group: readonly Delivery[]): void {
    const { observer } = this.#roads;
    const begun = group.filter(({ hasTokens }) => hasTokens).length;
    if (begun > 0) observer.resumed(backend, begun);
    if (begun < group.length) observer.retried(backend, group.length - begun);
  }

  /** `numerics` are those that the call was to go on with. */
  #note(backend: string, failure: CallFailure, numerics: string | null = null): CallFailure {
    const { router, observer, now } = this.#roads;
    const { health } = failure.consequence;
    observer.failed(backend, failure);
    if (failure.kind === "mismatched") router.mismatched(backend, this.#route.manifestHash, now());
    if (failure.kind === "diverging" && numerics) router.mismatched(backend, numerics, now());
    if (health !== "fit" && router.failed(backend, health === "unfit", now())) observer.ejected(backend);
    return failure;
  }

  /** Gives a sequence its last frame. */
  #finish(delivery: Delivery, frame: Frame): void {
    if (!this.#open.delete(delivery.id)) return;
    for (const attempt of this.#carriersOf(delivery)) this.#ended(attempt, delivery);
    this.#push(frame);
  }

  #push(frame: Frame): void {
    this.#frames.push(frame);
    this.#wake();
  }

  #ended(attempt: Attempt, delivery: Delivery): void {
    if (this.#carriersOf(delivery).delete(attempt)) this.#roads.router.loaded(attempt.backend, -1);
    attempt.ended(delivery);
  }

  #leave(attempt: Attempt, delivery: Delivery): void {
    attempt.leave(delivery);
    this.#ended(attempt, delivery);
  }

  #isOpen(delivery: Delivery): boolean {
    return this.#open.has(delivery.id);
  }

  #carriersOf(delivery: Delivery): Set<Attempt> {
    return this.#carriers.get(delivery)!;
  }
}

/** Everybody once more but those that would say the same. */
function secondRound(losses: readonly Lost[]): Turns {
  const certain = losses.filter(({ failure }, i) => {
    const { again } = failure.consequence;
    return again === "never" || (again === "after another" && i === losses.length - 1);
  });
  return { tried: new Set(certain.map(({ backend }) => backend)), isSecondRound: true };
}

function withTurn({ tried, isSecondRound }: Turns, backend: string): Turns {
  return { tried: new Set([...tried, backend]), isSecondRound };
}

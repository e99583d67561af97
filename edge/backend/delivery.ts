/**
 * A delivery is one sequence across all backends that work on it, an attempt one call of some sequences to one backend. Pure.
 */
import type { DoneFrame, Frame, SequenceRequest, TokenFrame } from "../../shared/contracts/inference.ts";
import type { Backend } from "./backend-group.ts";
import type { RetryRound } from "./retry-round.ts";

/**
 * What its client has received, and what is left to request. Frames of all attempts go in; one unbroken series of frames
 * under the client's id comes out.
 */
export class Delivery {
  readonly sequence: SequenceRequest;
  /** The calls under way for it; two while it is hedged. */
  readonly calls = new Set<Attempt>();
  /** How often it was sent to a backend. */
  attempts = 0;
  /** How often a backend accepted it and then failed. */
  losses = 0;
  /** Numerics fingerprint of the backend that computed its tokens; null if it has no token, or the backend sent none. */
  numerics: string | null = null;
  readonly #tokenIds: number[];
  #isPromptSent = false;

  constructor(sequence: SequenceRequest) {
    this.sequence = sequence;
    this.#tokenIds = [...sequence.continuedIds];
  }

  get id(): string {
    return this.sequence.id;
  }

  /** Whether its client has received a token. */
  get hasTokens(): boolean {
    return this.#tokenIds.length > this.sequence.continuedIds.length;
  }

  /** Whether its client has received any frame. */
  get hasBegun(): boolean {
    return this.#isPromptSent || this.hasTokens;
  }

  /** The request for the rest of it, `elapsedMs` after the batch began. Each attempt has an id of its own, because an earlier one may still run. */
  nextRequest(elapsedMs: number): SequenceRequest {
    const { id, promptLogprobs, deadlineMs, ...rest } = this.sequence;
    const attempt = this.attempts++;
    return {
      ...rest,
      id: attempt === 0 ? id : `${id}_${attempt}`,
      continuedIds: [...this.#tokenIds],
      promptLogprobs: promptLogprobs && !this.#isPromptSent,
      // A sequence with tokens has met its deadline. completion-writer.ts ends a request whose deadline has passed.
      ...(deadlineMs && !this.hasTokens && { deadlineMs: Math.max(1, Math.ceil(deadlineMs - elapsedMs)) }),
    };
  }

  /**
   * Accepts the next frame of an attempt with these numerics and returns it under the client's id. Throws an Error for a
   * frame that breaks the series: tokens out of order or beyond `maxTokens`, or a `done` frame with wrong counts.
   */
  deliver(frame: Frame, numerics: string | null = null): Frame {
    if (frame.type === "prompt") this.#deliverPrompt();
    else if (frame.type === "token") {
      this.#deliverToken(frame);
      this.numerics = numerics ?? this.numerics;
    } else if (frame.type === "done") this.#checkCounts(frame);
    return { ...frame, id: this.id };
  }

  #deliverPrompt(): void {
    if (this.hasBegun || !this.sequence.promptLogprobs) throw new Error("a prompt frame out of place");
    this.#isPromptSent = true;
  }

  #deliverToken({ index, tokenId }: TokenFrame): void {
    const expected = this.#tokenIds.length;
    const { maxTokens } = this.sequence;
    if (index !== expected) throw new Error(`a token of index ${index}, ${expected} is next`);
    if (index >= maxTokens) throw new Error(`a token of index ${index}, the maximum is ${maxTokens} tokens`);
    this.#tokenIds.push(tokenId);
  }

  /** Usage is counted from a `done` frame, so its counts must equal what the backend sent. */
  #checkCounts({ completionTokens, reusedTokens = 0 }: DoneFrame): void {
    const delivered = this.#tokenIds.length;
    if (completionTokens !== delivered) {
      throw new Error(`a done frame that counts ${completionTokens} tokens, ${delivered} were delivered`);
    }
    const computed = this.sequence.promptIds.length + delivered;
    if (reusedTokens < 0 || reusedTokens > computed) {
      throw new Error(`a done frame with ${reusedTokens} reused tokens, there are ${computed}`);
    }
  }
}

/** One call, and which of its sequences still belong to it. */
export class Attempt {
  /** From its acceptance on the process that accepted it. */
  backend: Backend;
  /** From its acceptance on its `tried` includes `backend`. */
  round: RetryRound;
  readonly requests: SequenceRequest[] = [];
  readonly sentAtMs: number;
  /** The backend's numerics fingerprint; null before it accepts, and if it sends none. */
  numerics: string | null = null;
  readonly #abort = new AbortController();
  /** By the id that the backend knows. */
  readonly #deliveries = new Map<string, Delivery>();
  /** The sequences that have neither ended here nor been cancelled, with the id that the backend knows. */
  readonly #open = new Map<Delivery, string>();
  readonly #cancel: (ids: string[]) => void;
  /** Ids that were cancelled before the backend accepted; null once it has. */
  #cancelledEarly: string[] | null = [];

  /** `elapsedMs` is the age of the batch; `cancel` tells the backend to drop some sequences of an accepted call. */
  constructor(
    backend: Backend,
    round: RetryRound,
    deliveries: readonly Delivery[],
    { nowMs, elapsedMs, cancel }: { nowMs: number; elapsedMs: number; cancel(ids: string[]): void },
  ) {
    this.backend = backend;
    this.round = round;
    this.sentAtMs = nowMs;
    this.#cancel = cancel;
    for (const delivery of deliveries) {
      const request = delivery.nextRequest(elapsedMs);
      this.requests.push(request);
      this.#deliveries.set(request.id, delivery);
      this.#open.set(delivery, request.id);
      delivery.calls.add(this);
    }
  }

  get signal(): AbortSignal {
    return this.#abort.signal;
  }

  /** The sequences that have neither ended here nor been cancelled. */
  get sequences(): Delivery[] {
    return [...this.#open.keys()];
  }

  /** The sequence that a frame is for; null if it has ended here. Throws an Error for an id that was not sent. */
  find(id: string): Delivery | null {
    const delivery = this.#deliveries.get(id);
    if (!delivery) throw new Error(`a frame of ${id}, which is not of this call`);
    return this.#open.has(delivery) ? delivery : null;
  }

  markAccepted(numerics: string | null): void {
    const cancelled = this.#cancelledEarly ?? [];
    this.#cancelledEarly = null;
    this.numerics = numerics;
    if (cancelled.length > 0 && this.#open.size > 0) this.#cancel(cancelled);
  }

  /** An address led the call to this process: its load moves there. */
  moveTo(process: Backend, round: RetryRound): void {
    this.backend.load.own -= this.#open.size;
    process.load.own += this.#open.size;
    this.backend = process;
    this.round = round;
  }

  /** Removes a sequence that got its last frame, or whose call failed. */
  remove(delivery: Delivery): void {
    if (!this.#open.delete(delivery)) return;
    delivery.calls.delete(this);
    this.backend.load.own--;
  }

  /** Removes a sequence and tells the backend to drop it. Without any sequence left, the call is aborted. */
  cancel(delivery: Delivery): void {
    const id = this.#open.get(delivery);
    if (id === undefined) return;
    this.remove(delivery);
    if (this.#open.size === 0) this.#abort.abort();
    else if (this.#cancelledEarly) this.#cancelledEarly.push(id);
    else this.#cancel([id]);
  }
}

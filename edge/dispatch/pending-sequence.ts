/**
 * One sequence of a client, from its arrival to its last frame. Frames of all its backend calls go in; one unbroken series of frames
 * under the client's id comes out. Pure.
 */
import {
  type BatchRequest,
  type DoneFrame,
  type Frame,
  memoriesOf,
  ownAdaptersOf,
  type SequenceRequest,
  type TokenFrame,
} from "../../shared/contracts/inference.ts";
import { type BackendFailure, firstRound, type RetryRound } from "./retries.ts";
import type { Route } from "./router.ts";

/** The request that receives the frames of its sequences. */
export interface Receiver {
  /** A backend has accepted one of them; called at most once for each. */
  accepted(): void;
  /** Frames that came together, of each of its sequences in order. */
  receive(frames: Frame[]): void;
}

/** A call to a backend that a sequence is in. */
export interface SequenceCall {
  cancel(sequence: PendingSequence): void;
}

export type Model = Pick<BatchRequest, "manifestHash" | "centroidId" | "adapterHash">;

/** Orders a sequence without a deadline among its tenant's, as the backend does, in milliseconds. */
const defaultDeadlineMs = 60_000;

export class PendingSequence {
  readonly sequence: SequenceRequest;
  readonly model: Model;
  readonly receiver: Receiver;
  readonly arrivedMs: number;
  /** Sequences for a backend may share a call if this is equal. */
  sharing: string;
  isQueued = false;
  isAccepted = false;
  isEnded = false;
  /** The call under way for it. */
  run: SequenceCall | null = null;
  /** When it was sent to a backend for the first time. */
  sentAtMs: number | null = null;
  /** How often it was sent to a backend. */
  attempts = 0;
  /** How often a backend accepted it and then failed, and the latest such failure. */
  losses = 0;
  lostBy: BackendFailure | null = null;
  round: RetryRound = firstRound;
  /** Numerics fingerprint of the backend that computed its tokens; null if it has no token, or the backend sent none. */
  numerics: string | null = null;
  readonly #tokenIds: number[];
  #isPromptSent = false;

  constructor(
    sequence: SequenceRequest,
    { model, receiver, arrivedMs, sharing }: Pick<PendingSequence, "model" | "receiver" | "arrivedMs" | "sharing">,
  ) {
    this.sequence = sequence;
    this.model = model;
    this.receiver = receiver;
    this.arrivedMs = arrivedMs;
    this.sharing = sharing;
    this.#tokenIds = [...sequence.continuedIds];
  }

  get id(): string {
    return this.sequence.id;
  }

  get tenant(): string {
    return this.sequence.tenant;
  }

  get route(): Route {
    const [memory] = this.sequence.memories ?? [];
    const ofMemory = memory && "hash" in memory ? { memoryHash: memory.hash } : {};
    return { ...this.model, ...ofMemory, numerics: this.numerics };
  }

  get dueMs(): number {
    return this.arrivedMs + (this.sequence.deadlineMs ?? defaultDeadlineMs);
  }

  /** Whether its client has received a token. */
  get hasTokens(): boolean {
    return this.#tokenIds.length > this.sequence.continuedIds.length;
  }

  /** Whether its client has received any frame. */
  get hasBegun(): boolean {
    return this.#isPromptSent || this.hasTokens;
  }

  /** It has not ended, and nothing is under way for it. */
  get isIdle(): boolean {
    return !this.isEnded && !this.isQueued && this.run === null;
  }

  /** The request for the rest of the sequence, under a new id for each call, because an earlier one may still run. */
  nextRequest(nowMs: number): SequenceRequest {
    const { id, promptLogprobs, deadlineMs, ...rest } = this.sequence;
    const attempt = this.attempts++;
    this.sentAtMs ??= nowMs;
    return {
      ...rest,
      id: attempt === 0 ? id : `${id}_${attempt}`,
      continuedIds: [...this.#tokenIds],
      promptLogprobs: promptLogprobs && !this.#isPromptSent,
      // A sequence with tokens has met its deadline. completion-writer.ts ends a request whose deadline has passed.
      ...(deadlineMs && !this.hasTokens && { deadlineMs: Math.max(1, Math.ceil(this.arrivedMs + deadlineMs - nowMs)) }),
    };
  }

  /**
   * Accepts the next frame of a call to a backend with these numerics and returns it under the client's id. Throws an Error for
   * a frame that breaks the series: tokens out of order or beyond `maxTokens`, or a `done` frame with wrong counts.
   */
  deliver(frame: Frame, numerics: string | null = null): Frame {
    const { id } = this;
    if (frame.type === "prompt") this.#deliverPrompt();
    else if (frame.type === "token") {
      this.#deliverToken(frame);
      this.numerics = numerics ?? this.numerics;
    } else if (frame.type === "done") {
      this.#checkCounts(frame);
      // The reported queue time is the sum of the edge's and the backend's.
      const queueMs = frame.timings.queueMs + (this.sentAtMs ?? this.arrivedMs) - this.arrivedMs;
      return { ...frame, id, timings: { ...frame.timings, queueMs } };
    }
    return frame.id === id ? frame : { ...frame, id };
  }

  #deliverPrompt(): void {
    if (this.hasBegun || !this.sequence.promptLogprobs) throw new Error("a prompt frame out of place");
    this.#isPromptSent = true;
  }

  #deliverToken({ index, tokenId, retrievedTokens = 0 }: TokenFrame): void {
    this.#checkPassages(retrievedTokens);
    const expected = this.#tokenIds.length;
    const { maxTokens } = this.sequence;
    if (index !== expected) throw new Error(`a token of index ${index}, ${expected} is next`);
    if (index >= maxTokens) throw new Error(`a token of index ${index}, the maximum is ${maxTokens} tokens`);
    this.#tokenIds.push(tokenId);
  }

  /** Usage is counted from a `done` frame, so its counts must equal what the backend sent. */
  #checkCounts({ completionTokens, promptTokens, reusedTokens = 0 }: DoneFrame): void {
    const delivered = this.#tokenIds.length;
    const { promptIds, retrieval } = this.sequence;
    const retrieved = retrieval ? promptTokens - promptIds.length : 0;
    this.#checkPassages(retrieved);
    if (completionTokens !== delivered) {
      throw new Error(`a done frame that counts ${completionTokens} tokens, ${delivered} were delivered`);
    }
    const computed = promptIds.length + retrieved + delivered;
    if (reusedTokens < 0 || reusedTokens > computed) {
      throw new Error(`a done frame with ${reusedTokens} reused tokens, there are ${computed}`);
    }
  }

  #checkPassages(tokens: number): void {
    const { tokens: most } = this.sequence.retrieval ?? { tokens: 0 };
    if (tokens < 0 || tokens > most) throw new Error(`passages of ${tokens} tokens, there is room for ${most}`);
  }
}

/**
 * Equal for sequences that may share a call: mixtures of one manifest, which name their adapters themselves, and others with the same
 * adapter. Sequences with own adapters or memories share a call only within their tenant.
 */
export function sharingOf(batch: BatchRequest): string {
  const { manifestHash, centroidId, adapterHash, sequences } = batch;
  if (ownAdaptersOf(batch).length + memoriesOf(batch).length > 0) {
    return JSON.stringify([manifestHash, centroidId, adapterHash ?? null, sequences[0].tenant]);
  }
  return JSON.stringify(sequences.every(({ mixture }) => mixture) ? [manifestHash] : [manifestHash, centroidId]);
}

/** Adds a frame to those that its request receives together. */
export function addFrame(byReceiver: Map<Receiver, Frame[]>, { receiver }: PendingSequence, frame: Frame): void {
  const frames = byReceiver.get(receiver);
  if (frames) frames.push(frame);
  else byReceiver.set(receiver, [frame]);
}

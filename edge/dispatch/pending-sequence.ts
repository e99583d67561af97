/** One sequence over all its calls. The frames of all calls become one series under the sequence's id. Pure. */
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

export interface Receiver {
  /** Called at most once for each sequence, when a backend has accepted it. */
  accepted(): void;
  receive(frames: Frame[]): void;
}

export interface SequenceCall {
  cancel(sequence: PendingSequence): void;
}

export type Model = Pick<BatchRequest, "manifestHash" | "centroidId" | "adapterHash">;

/** A sequence without a deadline is due this long after its arrival. The backend assumes the same. */
const defaultDeadlineMs = 60_000;

export class PendingSequence {
  readonly sequence: SequenceRequest;
  readonly model: Model;
  readonly receiver: Receiver;
  readonly arrivedMs: number;
  sharing: string;
  isQueued = false;
  isAccepted = false;
  isEnded = false;
  run: SequenceCall | null = null;
  sentAtMs: number | null = null;
  attempts = 0;
  /** Number of backends that failed after they had accepted the sequence. */
  losses = 0;
  lostBy: BackendFailure | null = null;
  round: RetryRound = firstRound;
  /** Numerics fingerprint of the backend that computed the sequence's tokens; null if unknown. */
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
    const [memoryHash] = memoriesOf({ sequences: [this.sequence] });
    return { ...this.model, memoryHash, numerics: this.numerics };
  }

  get dueMs(): number {
    return this.arrivedMs + (this.sequence.deadlineMs ?? defaultDeadlineMs);
  }

  get hasTokens(): boolean {
    return this.#tokenIds.length > this.sequence.continuedIds.length;
  }

  get isIdle(): boolean {
    return !this.isEnded && !this.isQueued && this.run === null;
  }

  /** The request for the remaining tokens. Each call has a new id, because an earlier call may still run. */
  nextRequest(nowMs: number): SequenceRequest {
    const { id, promptLogprobs, deadlineMs, ...rest } = this.sequence;
    const attempt = this.attempts++;
    this.sentAtMs ??= nowMs;
    return {
      ...rest,
      id: attempt === 0 ? id : `${id}_${attempt}`,
      continuedIds: [...this.#tokenIds],
      promptLogprobs: promptLogprobs && !this.#isPromptSent,
      // A sequence with tokens has met its deadline. completion-writer.ts ends a sequence that misses its deadline.
      ...(deadlineMs && !this.hasTokens && { deadlineMs: Math.max(1, Math.ceil(this.arrivedMs + deadlineMs - nowMs)) }),
    };
  }

  /** Checks a call's frame and returns it with the sequence's id. Throws an Error for a frame that is out of place. */
  deliver(frame: Frame, numerics: string | null = null): Frame {
    const { id } = this;
    if (frame.type === "prompt") this.#deliverPrompt();
    else if (frame.type === "token") {
      this.#deliverToken(frame);
      this.numerics = numerics ?? this.numerics;
    } else if (frame.type === "done") {
      this.#checkCounts(frame);
      // The frame has the backend's queue time, to which the edge's queue time is added.
      const queueMs = frame.timings.queueMs + (this.sentAtMs ?? this.arrivedMs) - this.arrivedMs;
      return { ...frame, id, timings: { ...frame.timings, queueMs } };
    }
    return frame.id === id ? frame : { ...frame, id };
  }

  #deliverPrompt(): void {
    if (this.#isPromptSent || this.hasTokens || !this.sequence.promptLogprobs)
      throw new Error("a prompt frame out of place");
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

  /** Throws an Error unless the counts match the earlier frames, because usage is charged by these counts. */
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
 * Key of the sequences that may share a call. Sequences with own adapters or memories share calls only within their tenant. Mixtures share
 * calls by manifest, because a mixture names its adapters itself.
 */
export function sharingOf(batch: BatchRequest): string {
  const { manifestHash, centroidId, adapterHash, sequences } = batch;
  if (ownAdaptersOf(batch).length + memoriesOf(batch).length > 0) {
    return JSON.stringify([manifestHash, centroidId, adapterHash ?? null, sequences[0].tenant]);
  }
  return JSON.stringify(sequences.every(({ mixture }) => mixture) ? [manifestHash] : [manifestHash, centroidId]);
}

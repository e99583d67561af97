/**
 * Tracks one sequence across all backends that work on it: what its client has received, and what is left to request.
 * Pure. Frames of all attempts go in; one unbroken series of frames under the client's id comes out.
 */
import type { DoneFrame, Frame, SequenceRequest, TokenFrame } from "../../shared/contracts/inference.ts";

export class Delivery {
  readonly sequence: SequenceRequest;
  readonly #tokenIds: number[];
  #isPromptSent = false;
  #attempts = 0;
  #losses = 0;
  #numerics: string | null = null;

  constructor(sequence: SequenceRequest) {
    this.sequence = sequence;
    this.#tokenIds = [...sequence.continuedIds];
  }

  get id(): string {
    return this.sequence.id;
  }

  /** How often it was sent to a backend. */
  get attempts(): number {
    return this.#attempts;
  }

  /** How often a backend accepted it and then failed. */
  get losses(): number {
    return this.#losses;
  }

  recordLoss(): void {
    this.#losses++;
  }

  /** Numerics fingerprint of the backend that computed its tokens; null if it has no token, or the backend sent none. */
  get numerics(): string | null {
    return this.#numerics;
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
    const { id, promptLogprobs, assignment, deadlineMs, ...rest } = this.sequence;
    const attempt = this.#attempts++;
    return {
      ...rest,
      id: attempt === 0 ? id : `${id}_${attempt}`,
      continuedIds: [...this.#tokenIds],
      promptLogprobs: promptLogprobs && !this.#isPromptSent,
      ...(attempt === 0 && assignment && { assignment }),
      // One that has tokens has met its deadline. The request ends when it is over (completion-writer.ts).
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
      this.#numerics = numerics ?? this.#numerics;
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

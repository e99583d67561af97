/**
 * One sequence as its client sees it, however many backends work on it: what was delivered, and what is left to ask for.
 * Pure. Frames of all attempts go in, one unbroken series of frames under the client's id comes out.
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

  /** How often a backend had taken it in and failed on it. */
  get losses(): number {
    return this.#losses;
  }

  lost(): void {
    this.#losses++;
  }

  /** Fingerprint of the numerics that its tokens were computed with; null where it has none, or where that is unknown. */
  get numerics(): string | null {
    return this.#numerics;
  }

  /** The client has a token of it. */
  get hasTokens(): boolean {
    return this.#tokenIds.length > this.sequence.continuedIds.length;
  }

  /** The client has something of it. */
  get hasBegun(): boolean {
    return this.#isPromptSent || this.hasTokens;
  }

  /** Milliseconds left to start in, `elapsedMs` after it came; null where it has no deadline or has started. */
  timeLeftMs(elapsedMs: number): number | null {
    const { deadlineMs } = this.sequence;
    return deadlineMs === undefined || this.hasTokens ? null : deadlineMs - elapsedMs;
  }

  /** What to ask the next backend for: the rest. Each attempt has an id of its own, as an earlier one may still run. */
  nextRequest(elapsedMs: number): SequenceRequest {
    const { id, promptLogprobs, assignment, deadlineMs: _, ...rest } = this.sequence;
    const timeLeftMs = this.timeLeftMs(elapsedMs);
    const attempt = this.#attempts++;
    return {
      ...rest,
      id: attempt === 0 ? id : `${id}_${attempt}`,
      continuedIds: [...this.#tokenIds],
      promptLogprobs: promptLogprobs && !this.#isPromptSent,
      ...(attempt === 0 && assignment && { assignment }),
      ...(timeLeftMs !== null && { deadlineMs: Math.max(1, Math.ceil(timeLeftMs)) }),
    };
  }

  /**
   * Takes the next frame of an attempt with these numerics and returns it as the client gets it. Throws an Error for a frame that breaks the series:
   * tokens out of order or beyond `maxTokens`, or a `done` frame whose counts differ from what was delivered.
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

  /** Usage is counted from these, so a backend cannot state anything but what it sent. */
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

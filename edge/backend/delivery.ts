/**
 * One sequence as its client sees it, however many backends work on it: what was delivered, and what is left to ask for.
 * Pure. Frames of all attempts go in, one unbroken series of frames under the client's id comes out.
 */
import type { Frame, SequenceRequest } from "../../shared/contracts/inference.ts";

export class Delivery {
  readonly sequence: SequenceRequest;
  readonly #tokenIds: number[];
  #isPromptSent = false;
  #attempts = 0;
  #losses = 0;

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

  /** Takes an attempt's next frame; returns it as the client gets it. Throws an Error where it would break the series. */
  deliver(frame: Frame): Frame {
    if (frame.type === "prompt") {
      if (this.hasBegun || !this.sequence.promptLogprobs) throw new Error("a prompt frame out of place");
      this.#isPromptSent = true;
    } else if (frame.type === "token") {
      const expected = this.#tokenIds.length;
      if (frame.index !== expected) throw new Error(`a token of index ${frame.index}, ${expected} is next`);
      this.#tokenIds.push(frame.tokenId);
    }
    return { ...frame, id: this.id };
  }
}

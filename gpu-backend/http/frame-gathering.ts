/** Lets tokens wait for those that follow where their callers can, since each write costs the sender and the reader more. */
import type { Frame, SequenceRequest } from "../../shared/contracts/inference.ts";

export class FrameGathering {
  readonly #send: (frames: Frame[]) => void;
  /** Milliseconds that tokens of a sequence may wait; none is kept that may not. */
  readonly #gatherMs: ReadonlyMap<string, number>;
  /** Sequences that had a token. */
  readonly #begun = new Set<string>();
  #waiting: Frame[] = [];
  /** By how long the frame that set one may wait; the first to run off sends all. */
  readonly #timers = new Map<number, ReturnType<typeof setTimeout>>();

  /** `send` gets every frame once, in order, those together that travel together. */
  constructor(sequences: readonly SequenceRequest[], send: (frames: Frame[]) => void) {
    this.#send = send;
    this.#gatherMs = new Map(sequences.flatMap(({ id, gatherMs }) => (gatherMs === undefined ? [] : [[id, gatherMs]])));
  }

  push(frames: readonly Frame[]): void {
    this.#waiting.push(...frames);
    const waitMs = Math.min(...frames.map((frame) => this.#waitMs(frame)));
    if (waitMs === 0) this.#flush();
    else if (!this.#timers.has(waitMs)) this.#arm(waitMs);
  }

  /** Forgets what waits: nobody reads it any more. */
  stop(): void {
    this.#waiting = [];
    this.#disarm();
  }

  #waitMs({ type, id }: Frame): number {
    if (type !== "token") return 0;
    if (this.#begun.has(id)) return this.#gatherMs.get(id) ?? 0;
    this.#begun.add(id);
    return 0;
  }

  #arm(waitMs: number): void {
    const timer = setTimeout(() => this.#flush(), waitMs);
    this.#timers.set(waitMs, timer);
  }

  #flush(): void {
    this.#disarm();
    this.#send(this.#waiting.splice(0));
  }

  #disarm(): void {
    for (const timer of this.#timers.values()) clearTimeout(timer);
    this.#timers.clear();
  }
}

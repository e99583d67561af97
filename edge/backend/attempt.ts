/** One call of some sequences to one backend: who is still aboard, and how they leave. */
import type { SequenceRequest } from "../../shared/contracts/inference.ts";
import type { Delivery } from "./delivery.ts";

/** Which backends have had their turn with some sequences since they last got on, and whether it is their second. */
export interface Turns {
  tried: ReadonlySet<string>;
  isSecondRound: boolean;
}

export class Attempt {
  readonly backend: string;
  /** `backend`'s turn is one of them. */
  readonly turns: Turns;
  readonly sequences: SequenceRequest[] = [];
  readonly departedMs: number;
  readonly #abort = new AbortController();
  /** By the id that the backend knows. */
  readonly #deliveries = new Map<string, Delivery>();
  readonly #aboard = new Map<Delivery, string>();
  readonly #cancel: (ids: string[]) => void;
  #isAccepted = false;
  #numerics: string | null = null;
  #leftEarly: string[] = [];

  /** `elapsedMs` since the sequences came; `cancel` tells the backend to drop some of an accepted call. */
  constructor(
    backend: string,
    turns: Turns,
    deliveries: readonly Delivery[],
    { nowMs, elapsedMs, cancel }: { nowMs: number; elapsedMs: number; cancel(ids: string[]): void },
  ) {
    this.backend = backend;
    this.turns = turns;
    this.departedMs = nowMs;
    this.#cancel = cancel;
    for (const delivery of deliveries) {
      const sequence = delivery.nextRequest(elapsedMs);
      this.sequences.push(sequence);
      this.#deliveries.set(sequence.id, delivery);
      this.#aboard.set(delivery, sequence.id);
    }
  }

  get signal(): AbortSignal {
    return this.#abort.signal;
  }

  get aboard(): Delivery[] {
    return [...this.#aboard.keys()];
  }

  /** Whom a frame is for; null for one who has left. Throws an Error for an id that never was aboard. */
  find(id: string): Delivery | null {
    const delivery = this.#deliveries.get(id);
    if (!delivery) throw new Error(`a frame of ${id}, which is not of this call`);
    return this.#aboard.has(delivery) ? delivery : null;
  }

  /** The backend's numerics fingerprint; null before it accepts, and where it tells none. */
  get numerics(): string | null {
    return this.#numerics;
  }

  accepted(numerics: string | null): void {
    this.#isAccepted = true;
    this.#numerics = numerics;
    if (this.#leftEarly.length > 0 && this.#aboard.size > 0) this.#cancel(this.#leftEarly);
  }

  /** It has had its last frame. */
  ended(delivery: Delivery): void {
    this.#aboard.delete(delivery);
  }

  /** It is not wanted here any more: the backend may drop it. */
  leave(delivery: Delivery): void {
    const id = this.#aboard.get(delivery);
    if (id === undefined) return;
    this.#aboard.delete(delivery);
    if (this.#aboard.size === 0) this.#abort.abort();
    else if (this.#isAccepted) this.#cancel([id]);
    else this.#leftEarly.push(id);
  }
}

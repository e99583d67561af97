/** One call of some sequences to one backend, and which of them still belong to it. */
import type { SequenceRequest } from "../../shared/contracts/inference.ts";
import type { Backend } from "./backend-group.ts";
import type { Delivery } from "./delivery.ts";
import type { RetryRound } from "./retry-round.ts";

export class Attempt {
  /** From its acceptance on the process that accepted it. */
  backend: Backend;
  /** From its acceptance on its `tried` includes `backend`. */
  round: RetryRound;
  readonly requests: SequenceRequest[] = [];
  readonly sentAtMs: number;
  readonly #abort = new AbortController();
  /** By the id that the backend knows. */
  readonly #deliveries = new Map<string, Delivery>();
  /** The sequences that have neither ended here nor been cancelled, with the id that the backend knows. */
  readonly #open = new Map<Delivery, string>();
  readonly #cancel: (ids: string[]) => void;
  #isAccepted = false;
  #numerics: string | null = null;
  /** Ids that were cancelled before the backend accepted. */
  #cancelledEarly: string[] = [];

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

  /** The backend's numerics fingerprint; null before it accepts, and if it sends none. */
  get numerics(): string | null {
    return this.#numerics;
  }

  markAccepted(numerics: string | null): void {
    this.#isAccepted = true;
    this.#numerics = numerics;
    if (this.#cancelledEarly.length > 0 && this.#open.size > 0) this.#cancel(this.#cancelledEarly);
  }

  /** Removes a sequence that got its last frame, or whose call failed. */
  remove(delivery: Delivery): void {
    this.#open.delete(delivery);
  }

  /** Tells the backend to drop a sequence. Without any sequence left, the call is aborted. */
  cancel(delivery: Delivery): void {
    const id = this.#open.get(delivery);
    if (id === undefined) return;
    this.#open.delete(delivery);
    if (this.#open.size === 0) this.#abort.abort();
    else if (this.#isAccepted) this.#cancel([id]);
    else this.#cancelledEarly.push(id);
  }
}

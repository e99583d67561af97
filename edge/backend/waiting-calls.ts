/**
 * Calls that wait for one of an object's connections. When one is free, the first call goes, and with it, up to a bound, all
 * others of the same key: those to the same backend that may share a call. So after the loss of a backend or a region, whose
 * sequences are sent again in as many calls as they were in, these take few connections for a round trip each. Pure.
 */

export interface WaitingCall {
  /** Calls with the same key may go together; null: only alone. */
  key: string | null;
  sequences: number;
}

export class WaitingCalls<T extends WaitingCall> {
  readonly #mostSequences: number;
  #free: number;
  #waiting: T[] = [];

  constructor(connections: number, mostSequences: number) {
    this.#free = connections;
    this.#mostSequences = mostSequences;
  }

  /** Adds a call. Returns those to open now, together; none if no connection is free. Call `release` when they are answered. */
  add(call: T): T[] {
    this.#waiting.push(call);
    if (this.#free === 0) return [];
    this.#free--;
    return this.#take();
  }

  /** A connection is free again. Returns the calls to open on it now, together; none if none wait. */
  release(): T[] {
    const taken = this.#take();
    if (taken.length === 0) this.#free++;
    return taken;
  }

  #take(): T[] {
    const [first, ...others] = this.#waiting;
    if (!first) return [];
    const taken = [first];
    let room = this.#mostSequences - first.sequences;
    this.#waiting = others.filter((one) => {
      if (first.key === null || one.key !== first.key || one.sequences > room) return true;
      room -= one.sequences;
      taken.push(one);
      return false;
    });
    return taken;
  }
}

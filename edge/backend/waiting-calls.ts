/**
 * Calls that wait for one of an object's connections. After the loss of a backend or a region many are made again at once, so
 * when a connection is free, the first call goes, and with it, up to a bound, all others of the same key: those to the same
 * backend that may share a call. First and repeated calls take turns, so that new requests wait for few others. Pure.
 */

export interface WaitingCall {
  /** Calls with the same key may go together; null: only alone. */
  key: string | null;
  /** Whether its sequences were sent before. Calls with the same key agree in it. */
  isRepeated: boolean;
  sequences: number;
}

export class WaitingCalls<T extends WaitingCall> {
  readonly #mostSequences: number;
  #free: number;
  #waiting: T[] = [];
  #isRepeatedNext = false;

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
    const first = this.#waiting.find(({ isRepeated }) => isRepeated === this.#isRepeatedNext) ?? this.#waiting[0];
    if (!first) return [];
    this.#isRepeatedNext = !first.isRepeated;
    const taken: T[] = [];
    let room = this.#mostSequences;
    this.#waiting = this.#waiting.filter((one) => {
      const goes = one === first || (first.key !== null && one.key === first.key && one.sequences <= room);
      if (!goes) return true;
      room -= one.sequences;
      taken.push(one);
      return false;
    });
    return taken;
  }
}

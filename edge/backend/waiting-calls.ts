/**
 * Calls that wait for one of an object's connections. After the loss of a backend or a region many are made again at once, so
 * when a connection is free, the first call goes, and with it, up to a bound, all others of the same key: those to the same
 * backend that may share a call. First and repeated calls take turns, so that new requests wait for few others, and repeated
 * ones never have all connections: one may take long to reach a process that its address leads to at random. Pure.
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
  /** Connections that repeated calls may take now. */
  #freeToRepeated: number;
  #waiting: T[] = [];
  #isRepeatedNext = false;

  constructor(connections: number, mostSequences: number) {
    this.#free = connections;
    this.#freeToRepeated = Math.max(1, connections - 1);
    this.#mostSequences = mostSequences;
  }

  /** Adds a call. Returns those to open now, together; none if no connection is free. Call `release` when they are answered. */
  add(call: T): T[] {
    this.#waiting.push(call);
    return this.#take();
  }

  /** The connection of these calls, which were opened together, is free again. Returns those to open on it now, together. */
  release([{ isRepeated }]: readonly T[]): T[] {
    this.#free++;
    if (isRepeated) this.#freeToRepeated++;
    return this.#take();
  }

  #take(): T[] {
    if (this.#free === 0) return [];
    const ready = this.#waiting.filter(({ isRepeated }) => !isRepeated || this.#freeToRepeated > 0);
    const first = ready.find(({ isRepeated }) => isRepeated === this.#isRepeatedNext) ?? ready[0];
    if (!first) return [];
    this.#isRepeatedNext = !first.isRepeated;
    this.#free--;
    if (first.isRepeated) this.#freeToRepeated--;
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

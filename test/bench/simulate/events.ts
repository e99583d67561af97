/** The clock of a simulation: events in the order of their times, those of one time in the order in which they were added. */

interface Event {
  atMs: number;
  order: number;
  run: () => void;
}

export class EventQueue {
  /** A binary heap. */
  readonly #heap: Event[] = [];
  #added = 0;
  #nowMs = 0;

  get nowMs(): number {
    return this.#nowMs;
  }

  /** Runs `run` after a delay in milliseconds of at least 0. */
  after(delayMs: number, run: () => void): void {
    const heap = this.#heap;
    const event = { atMs: this.#nowMs + Math.max(0, delayMs), order: this.#added++, run };
    let at = heap.push(event) - 1;
    while (at > 0) {
      const parent = (at - 1) >> 1;
      if (isBefore(heap[parent], event)) break;
      heap[at] = heap[parent];
      at = parent;
    }
    heap[at] = event;
  }

  /** Runs everything that is due by `untilMs`. Returns the number of events. */
  runUntil(untilMs: number): number {
    let events = 0;
    for (let next = this.#heap[0]; next && next.atMs <= untilMs; next = this.#heap[0]) {
      this.#removeFirst();
      this.#nowMs = next.atMs;
      next.run();
      events++;
    }
    this.#nowMs = untilMs;
    return events;
  }

  #removeFirst(): void {
    const heap = this.#heap;
    const last = heap.pop()!;
    if (heap.length === 0) return;
    let at = 0;
    for (;;) {
      let child = 2 * at + 1;
      if (child >= heap.length) break;
      if (child + 1 < heap.length && isBefore(heap[child + 1], heap[child])) child++;
      if (isBefore(last, heap[child])) break;
      heap[at] = heap[child];
      at = child;
    }
    heap[at] = last;
  }
}

function isBefore(a: Event, b: Event): boolean {
  return a.atMs < b.atMs || (a.atMs === b.atMs && a.order < b.order);
}

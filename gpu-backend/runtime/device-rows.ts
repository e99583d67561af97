/**
 * Assigns rows of the device's past to rows of the host's, by name. Pure bookkeeping. A name stands for one sequence's row, which
 * only grows: a position that was written never changes.
 */
export class DeviceRows {
  readonly capacity: number;
  readonly #held = new Map<number, { row: number; positions: number }>();

  constructor(capacity: number) {
    this.capacity = capacity;
  }

  /**
   * A row for each name of `fed`, whose past has `lengths` positions. `missing` are the indices of those whose past the
   * device does not hold in full. Forgets every name that is neither in `fed` nor in `kept`.
   * Throws an Error where there are more names than rows.
   */
  place(
    fed: readonly number[],
    lengths: ArrayLike<number>,
    kept: readonly number[],
  ): { rows: number[]; missing: number[] } {
    const alive = new Set([...kept, ...fed]);
    if (alive.size > this.capacity) throw new Error(`${alive.size} rows do not fit the device's ${this.capacity}`);
    for (const name of this.#held.keys()) if (!alive.has(name)) this.#held.delete(name);
    const taken = new Set([...this.#held.values()].map(({ row }) => row));
    const missing: number[] = [];
    let next = 0;
    const rows = fed.map((name, s) => {
      let place = this.#held.get(name);
      if (!place) {
        while (taken.has(next)) next++;
        taken.add(next);
        place = { row: next, positions: 0 };
        this.#held.set(name, place);
      }
      if (place.positions < lengths[s]) missing.push(s);
      return place.row;
    });
    return { rows, missing };
  }

  /** Notes that the row of `name` now holds its first `positions` positions. */
  hold(name: number, positions: number): void {
    const place = this.#held.get(name);
    if (!place) throw new Error(`there is no row of name ${name}`);
    place.positions = positions;
  }
}

/**
 * What a phase costs by its size (rows of a decode phase, tokens of a prefill pass, padding counted), learned from those that
 * ran: on a processor the time grows with the size, on a GPU hardly. Pure; it is told times, it takes none.
 * A line through the recent mean of each size, sizes near each other taken as one.
 */

interface Point {
  size: number;
  ms: number;
}

/** Weight of what was measured last. */
const newestShare = 1 / 8;
/** A pause of the process is not the phase's: no measurement counts as more than so many times the mean. */
const mostTimes = 3;
/** Sizes of one point: all in a quarter of an octave. */
const pointsPerOctave = 4;

export class PhaseCost {
  readonly #points: Point[] = [];

  /** A phase of `size` took `ms`. */
  ran(size: number, ms: number): void {
    const place = Math.round(pointsPerOctave * Math.log2(size));
    const point = this.#points[place];
    if (!point) {
      this.#points[place] = { size, ms };
      return;
    }
    point.size += newestShare * (size - point.size);
    point.ms += newestShare * (Math.min(ms, mostTimes * point.ms) - point.ms);
  }

  /** Milliseconds of a phase of `size`; 0 for none, and while nothing ran. */
  msOf(size: number): number {
    const points = this.#points.filter((point) => point !== undefined);
    if (size === 0 || points.length === 0) return 0;
    const [first, last] = [points[0], points[points.length - 1]];
    // In proportion where too little is known: too strict rather than too lax, and soon known better.
    if (points.length === 1) return (first.ms * size) / first.size;
    const after = points.findIndex((point) => point.size >= size);
    if (after > 0) {
      const [from, to] = [points[after - 1], points[after]];
      return from.ms + ((to.ms - from.ms) / (to.size - from.size)) * (size - from.size);
    }
    const slope = Math.max(0, (last.ms - first.ms) / (last.size - first.size));
    if (after < 0) return last.ms + slope * (size - last.size);
    return Math.max(first.ms - slope * (first.size - size), (first.ms * size) / first.size);
  }
}

/** Asks models and memories for the next token at given positions. */
import { openSession, type Session, tensor } from "../../../runtime/session.ts";
import type { Bank } from "../../../runtime/step.ts";
import { buildReadingGraph, buildSearchGraph, type Head } from "./graphs.ts";
import { cosineScale, type Known } from "./known.ts";
import type { ModelReading } from "./readings.ts";
import { normalised } from "./states.ts";

/** Numbers of one run's largest tensor. */
const maxNumbers = 2 ** 24;

/** The keys nearest to each query, best first, [N, K]. */
export interface Found {
  cosines: Float32Array;
  nextIds: Int32Array;
}

export class Reader {
  readonly #search: Session;
  readonly #reading: Session;
  readonly #head: Head;
  readonly #neighbours: number;

  private constructor(search: Session, reading: Session, head: Head, neighbours: number) {
    this.#search = search;
    this.#reading = reading;
    this.#head = head;
    this.#neighbours = neighbours;
  }

  static async open(
    head: Head,
    bank: Bank,
    { neighbours, threads }: { neighbours: number; threads: number },
  ): Promise<Reader> {
    const search = await openSession(buildSearchGraph(head.hiddenSize), { threads });
    return new Reader(search, await openSession(buildReadingGraph(head, bank), { threads }), head, neighbours);
  }

  /** `states` [N, D]. */
  async search(states: Float32Array, { keys, nextIds }: Known): Promise<Found> {
    const D = this.#head.hiddenSize;
    const N = states.length / D;
    const K = Math.min(this.#neighbours, nextIds.length);
    const found = { cosines: new Float32Array(N * K), nextIds: new Int32Array(N * K) };
    const perRun = Math.max(1, Math.floor(maxNumbers / nextIds.length));
    for (let from = 0; from < N; from += perRun) {
      const rows = Math.min(perRun, N - from);
      const own = new Float32Array(rows * D);
      for (let n = 0; n < rows; n++) {
        own.set(normalised(states.subarray((from + n) * D, (from + n + 1) * D)), n * D);
      }
      const { cosines, indexes } = await this.#search.run({
        queries: tensor(own, [rows, D]),
        keys: tensor(keys, [nextIds.length, D]),
        scale: tensor(Float32Array.of(cosineScale), []),
        count: tensor(BigInt64Array.of(BigInt(K)), [1]),
      });
      found.cosines.set(cosines.data as Float32Array, from * K);
      found.nextIds.set(
        (indexes.data as Int32Array).map((index) => nextIds[index]),
        from * K,
      );
    }
    return found;
  }

  /**
   * What the model says: of `targets` [N], and of what each memory found.
   * @param hidden [N, D]
   * @param gates [N, Q]
   */
  async read(
    hidden: Float32Array,
    gates: Float32Array,
    targets: Int32Array,
    memories: Record<string, Found>,
  ): Promise<ModelReading> {
    const { hiddenSize: D, vocabularySize: V } = this.#head;
    const N = targets.length;
    const Q = gates.length / N;
    const widths = Object.values(memories).map(({ nextIds }) => nextIds.length / N);
    const K = widths.reduce((sum, width) => sum + width, 1);
    const result: ModelReading = {
      ...{ logprobs: new Float32Array(N), topIds: new Int32Array(N), topLogprobs: new Float32Array(N) },
      memories: Object.fromEntries(
        Object.entries(memories).map(([name, found]) => [
          name,
          { ...found, logprobs: new Float32Array(found.nextIds.length) },
        ]),
      ),
    };
    const perRun = Math.max(1, Math.floor(maxNumbers / V));
    for (let from = 0; from < N; from += perRun) {
      const rows = Math.min(perRun, N - from);
      const ids = new Int32Array(rows * K);
      for (let n = 0; n < rows; n++) {
        ids[n * K] = targets[from + n];
        let at = n * K + 1;
        for (const [m, { nextIds }] of Object.values(memories).entries()) {
          ids.set(nextIds.subarray((from + n) * widths[m], (from + n + 1) * widths[m]), at);
          at += widths[m];
        }
      }
      const output = await this.#reading.run({
        hidden: tensor(hidden.subarray(from * D, (from + rows) * D), [rows, D]),
        gates: tensor(gates.subarray(from * Q, (from + rows) * Q), [rows, Q]),
        ids: tensor(ids, [rows, K]),
      });
      const logprobs = output.logprobs.data as Float32Array;
      result.topIds.set(output.top_ids.data as Int32Array, from);
      result.topLogprobs.set(output.top_logprobs.data as Float32Array, from);
      for (let n = 0; n < rows; n++) {
        result.logprobs[from + n] = logprobs[n * K];
        let at = n * K + 1;
        for (const [m, memory] of Object.values(result.memories).entries()) {
          memory.logprobs.set(logprobs.subarray(at, at + widths[m]), (from + n) * widths[m]);
          at += widths[m];
        }
      }
    }
    return result;
  }

  async release(): Promise<void> {
    await this.#search.release();
    await this.#reading.release();
  }
}

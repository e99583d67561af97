/** Finds the keys of a memory that are nearest to states. Shapes: N states, D hidden, K neighbours. */
import { keyScale } from "../../../memory/keys.ts";
import { GraphBuilder } from "../../../runtime/graph.ts";
import { openSession, type Session, tensor } from "../../../runtime/session.ts";
import type { Found } from "../reader.ts";
import type { Known } from "./known.ts";

/** Cosines of one run, in numbers. */
const maxCosines = 2 ** 24;

export class MemorySearch {
  readonly #session: Session;
  readonly #neighbours: number;

  private constructor(session: Session, neighbours: number) {
    this.#session = session;
    this.#neighbours = neighbours;
  }

  static async open(hiddenSize: number, neighbours: number, threads: number): Promise<MemorySearch> {
    return new MemorySearch(await openSession(buildSearchGraph(hiddenSize), { threads }), neighbours);
  }

  /** `states` [N, D], each of length 1. */
  async search(states: Float32Array, { keys, nextIds }: Known): Promise<Found> {
    const D = keys.length / nextIds.length;
    const N = states.length / D;
    const K = Math.min(this.#neighbours, nextIds.length);
    const found = { cosines: new Float32Array(N * K), nextIds: new Int32Array(N * K) };
    const perRun = Math.max(1, Math.floor(maxCosines / nextIds.length));
    for (let from = 0; from < N; from += perRun) {
      const rows = Math.min(perRun, N - from);
      const { cosines, indexes } = await this.#session.run({
        queries: tensor(states.subarray(from * D, (from + rows) * D), [rows, D]),
        keys: tensor(keys, [nextIds.length, D]),
        count: tensor(BigInt64Array.of(BigInt(K)), [1]),
      });
      found.cosines.set(cosines.data as Float32Array, from * K);
      const following = (indexes.data as Int32Array).map((index) => nextIds[index]);
      found.nextIds.set(following, from * K);
    }
    return found;
  }

  release(): Promise<void> {
    return this.#session.release();
  }
}

/** queries [N, D], keys [M, D] int8 and count [1] → cosines and indexes [N, count] of the nearest keys, best first. */
function buildSearchGraph(hiddenSize: number): Uint8Array {
  const g = new GraphBuilder("search");
  const queries = g.input("queries", "float32", ["N", hiddenSize]);
  const keys = g.node("Cast", [g.input("keys", "int8", ["M", hiddenSize])], { to: 1 });
  const products = g.node("Gemm", [queries, keys], { transB: 1 });
  // An int8 key over the scale is of length 1.
  const cosines = g.node("Mul", [products, g.scalar(1 / keyScale)]);
  const [best, indexes] = g.nodes("TopK", [cosines, g.input("count", "int64", [1])], 2, { axis: 1 });
  g.output("cosines", best, "float32", ["N", "K"]);
  g.output("indexes", g.node("Cast", [indexes], { to: 6 }), "int32", ["N", "K"]);
  return g.bytes();
}

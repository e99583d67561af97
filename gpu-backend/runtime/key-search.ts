/**
 * Dot products of int8 queries with the int8 keys of a block, and the largest of them: a session in which the keys are a constant. As an
 * input they would be packed again at every run, six times slower. Products are integers, summed exactly, so that what a query gets
 * does not depend on its mates, on threads or on the processor.
 * Shapes: S queries, D hidden, N keys of the block, K best.
 */
import { GraphBuilder } from "./graph.ts";
import { openSession, tensor } from "./session.ts";

/** Most keys of a block: one opens in some 70 ms, during which its thread does nothing else. */
export const blockKeys = 16_384;

/**
 * Queries are 1..127 around this zero point. Without VNNI the x64 kernel adds pairs of products in 16 bits that saturate: with
 * queries of 127 and keys of ±127 at most they never do.
 */
const zeroPoint = 64;
const steps = 63;

export interface KeyBlock {
  /** The K largest dot products of each query with a key, best first, equals by rising index. */
  search(queries: Uint8Array): Promise<{ dots: Float32Array; indices: Int32Array; best: number }>; // [S, K], [S, K]
  release(): Promise<void>;
}

/** Writes a state [D] as a query [D]. */
export function writeQuery(state: Float32Array, query: Uint8Array): void {
  let largest = 0;
  for (let d = 0; d < state.length; d++) largest = Math.max(largest, Math.abs(state[d]));
  const factor = largest > 0 ? steps / largest : 0;
  for (let d = 0; d < state.length; d++) query[d] = zeroPoint + Math.round(state[d] * factor);
}

/** Opens a block over keys [N, D], which are copied; `best` is K, or N where that is smaller. */
export async function openKeyBlock(
  keys: Int8Array,
  { hiddenSize: D, best, threads }: { hiddenSize: number; best: number; threads: number },
): Promise<KeyBlock> {
  const N = keys.length / D;
  const K = Math.min(best, N);
  const session = await openSession(buildSearchGraph(keys, { D, N, K }), { threads });
  return {
    async search(queries) {
      const results = await session.run({ queries: tensor(queries, [queries.length / D, D]) });
      return { dots: results.dots.data as Float32Array, indices: results.indices.data as Int32Array, best: K };
    },
    release: () => session.release(),
  };
}

function buildSearchGraph(keys: Int8Array, { D, N, K }: Record<"D" | "N" | "K", number>): Uint8Array {
  const g = new GraphBuilder("search");
  const columns = new Int8Array(keys.length); // [D, N]
  for (let n = 0; n < N; n++) for (let d = 0; d < D; d++) columns[d * N + n] = keys[n * D + d];
  const kernel = [g.constant(columns, [D, N]), g.scalar(1), g.scalar(1), g.constant(Uint8Array.of(zeroPoint), [])];
  // Below 2^24, and so exact in float32.
  const dots = g.node("com.microsoft:MatMulIntegerToFloat", [g.input("queries", "uint8", ["S", D]), ...kernel]);
  const [top, indices] = g.nodes("TopK", [dots, g.integers(K)], 2, { axis: -1, largest: 1, sorted: 1 });
  g.output("dots", top, "float32", ["S", K]);
  g.output("indices", g.node("Cast", [indices], { to: 6 }), "int32", ["S", K]);
  return g.bytes();
}

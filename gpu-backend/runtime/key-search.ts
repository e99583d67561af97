/**
 * Keys are a constant of the session, because ONNX Runtime would pack an input again at every run, which is six times slower. Integer
 * sums are exact, so a query's results do not depend on other queries, on threads or on the processor.
 * Shapes: S queries, D hidden, N keys of the block, K best.
 */
import { GraphBuilder } from "./graph.ts";
import { openSession, tensor } from "./session.ts";
import { transpose } from "./transpose.ts";

/** Maximum keys of a block. Opening a full block occupies its thread for some 70 ms. */
export const blockKeys = 16_384;

/**
 * Queries are 1 to 127 with this zero point. Without VNNI, the x64 kernel adds two products in 16 bits with saturation. No sum saturates
 * if queries are at most 127 and keys within ±127.
 */
const zeroPoint = 64;
const steps = 63;

export type KeyBlock = Awaited<ReturnType<typeof openKeyBlock>>;

/** Quantises a state [D] to a query [D]. */
export function writeQuery(state: Float32Array, query: Uint8Array): void {
  let largest = 0;
  for (let d = 0; d < state.length; d++) largest = Math.max(largest, Math.abs(state[d]));
  const factor = largest > 0 ? steps / largest : 0;
  for (let d = 0; d < state.length; d++) query[d] = zeroPoint + Math.round(state[d] * factor);
}

/** The block has a copy of `keys` [N, D]. K is `best`, or N if N is smaller. */
export async function openKeyBlock(
  keys: Int8Array,
  { hiddenSize: D, best, threads }: { hiddenSize: number; best: number; threads: number },
) {
  const N = keys.length / D;
  const K = Math.min(best, N);
  const session = await openSession(buildSearchGraph(keys, { D, N, K }), { threads });
  return {
    /** Returns dot products and indexes, both [S, K], by falling product, then by rising index. */
    async search(queries: Uint8Array) {
      const results = await session.run({ queries: tensor(queries, [queries.length / D, D]) });
      return { dots: results.dots.data as Float32Array, indices: results.indices.data as Int32Array, best: K };
    },
    release: () => session.release(),
  };
}

function buildSearchGraph(keys: Int8Array, { D, N, K }: Record<"D" | "N" | "K", number>): Uint8Array {
  const g = new GraphBuilder("search");
  const kernel = [
    g.constant(transpose(keys, N, D), [D, N]),
    g.scalar(1),
    g.scalar(1),
    g.constant(Uint8Array.of(zeroPoint), []),
  ];
  // Exact in float32, because the dot products are below 2^24.
  const dots = g.node("com.microsoft:MatMulIntegerToFloat", [g.input("queries", "uint8", ["S", D]), ...kernel]);
  const [top, indices] = g.nodes("TopK", [dots, g.integers(K)], 2, { axis: -1, largest: 1, sorted: 1 });
  g.output("dots", top, "float32", ["S", K]);
  g.output("indices", g.node("Cast", [indices], { to: 6 }), "int32", ["S", K]);
  return g.bytes();
}

/** Asks a model for the next token at given positions. Shapes: N positions, D hidden, V vocabulary, Q gates, K neighbours. */
import { GraphBuilder } from "../../runtime/graph.ts";
import { openSession, type Session, tensor } from "../../runtime/session.ts";
import type { Bank } from "../../runtime/step.ts";
import { addAdapter, constantBank } from "../../training/bank/training-graph.ts";

/** The base's head: adds logits [N, V] of adapted states [N, D]. */
export interface Head {
  hiddenSize: number; // D
  vocabularySize: number; // V
  addLogits(g: GraphBuilder, adapted: string): string;
}

/** The keys of a memory that are nearest to each position's, best first, [N, K]. */
export interface Found {
  cosines: Float32Array;
  nextIds: Int32Array;
}

/** What one memory says beside one model; with the log-likelihoods of `nextIds` under the model. */
export interface MemoryReading extends Found {
  logprobs: Float32Array;
}

export interface ModelReading {
  /** Of the tokens that came, [N]. */
  logprobs: Float32Array;
  /** The likeliest token, [N]. */
  topIds: Int32Array;
  topLogprobs: Float32Array;
  memories: Record<string, MemoryReading>;
}

/** Logits of one run, in numbers. */
const maxLogits = 2 ** 24;

export class Reader {
  readonly #session: Session;
  readonly #head: Head;

  private constructor(session: Session, head: Head) {
    this.#session = session;
    this.#head = head;
  }

  static async open(head: Head, bank: Bank, threads: number): Promise<Reader> {
    return new Reader(await openSession(buildReadingGraph(head, bank), { threads }), head);
  }

  /**
   * What the model says: of `targets` [N], and of what each memory found.
   * @param hidden [N, D]
   * @param gates [N, Q]
   * @param change of own adapters, [N, D], added to the adapted states; null adds nothing
   */
  async read(
    hidden: Float32Array,
    gates: Float32Array,
    targets: Int32Array,
    memories: Record<string, Found> = {},
    change: Float32Array | null = null,
  ): Promise<ModelReading> {
    const { hiddenSize: D, vocabularySize: V } = this.#head;
    const N = targets.length;
    const Q = gates.length / N;
    const asked = [targets, ...Object.values(memories).map(({ nextIds }) => nextIds)].map((ids) => ({
      ids,
      width: ids.length / N,
      logprobs: new Float32Array(ids.length),
    }));
    const columns = asked.reduce((sum, { width }) => sum + width, 0);
    const [topIds, topLogprobs] = [new Int32Array(N), new Float32Array(N)];
    const perRun = Math.max(1, Math.floor(maxLogits / V));
    for (let from = 0; from < N; from += perRun) {
      const rows = Math.min(perRun, N - from);
      const ids = new Int32Array(rows * columns);
      for (let n = 0, at = 0; n < rows; n++) {
        for (const one of asked) {
          ids.set(one.ids.subarray((from + n) * one.width, (from + n + 1) * one.width), at);
          at += one.width;
        }
      }
      const output = await this.#session.run({
        hidden: tensor(hidden.subarray(from * D, (from + rows) * D), [rows, D]),
        gates: tensor(gates.subarray(from * Q, (from + rows) * Q), [rows, Q]),
        change: change
          ? tensor(change.subarray(from * D, (from + rows) * D), [rows, D])
          : tensor(new Float32Array(D), [1, D]),
        ids: tensor(ids, [rows, columns]),
      });
      topIds.set(output.top_ids.data as Int32Array, from);
      topLogprobs.set(output.top_logprobs.data as Float32Array, from);
      const logprobs = output.logprobs.data as Float32Array;
      for (let n = 0, at = 0; n < rows; n++) {
        for (const one of asked) {
          one.logprobs.set(logprobs.subarray(at, at + one.width), (from + n) * one.width);
          at += one.width;
        }
      }
    }
    const [own, ...others] = asked;
    const read = Object.entries(memories).map(([name, found], m) => [name, { ...found, logprobs: others[m].logprobs }]);
    return { logprobs: own.logprobs, topIds, topLogprobs, memories: Object.fromEntries(read) };
  }

  release(): Promise<void> {
    return this.#session.release();
  }
}

/** hidden [N, D], gates [N, Q], change [N or 1, D], ids [N, K] → logprobs [N, K] of these ids, top_ids and top_logprobs [N, 1] of the likeliest token. */
function buildReadingGraph({ hiddenSize: D, addLogits }: Head, bank: Bank): Uint8Array {
  const g = new GraphBuilder("reading");
  const hidden = g.input("hidden", "float32", ["N", D]);
  const gates = g.input("gates", "float32", ["N", bank.gates]);
  const changed = g.node("Add", [hidden, g.input("change", "float32", ["M", D])]);
  const { adapted } = addAdapter(g, hidden, constantBank(g, bank, D), gates, changed);
  const logprobs = g.node("LogSoftmax", [addLogits(g, adapted)], { axis: 1 });
  const ids = g.input("ids", "int32", ["N", "K"]);
  g.output("logprobs", g.node("GatherElements", [logprobs, ids], { axis: 1 }), "float32", ["N", "K"]);
  const [top, topIds] = g.nodes("TopK", [logprobs, g.integers(1)], 2, { axis: 1 });
  g.output("top_logprobs", top, "float32", ["N", 1]);
  g.output("top_ids", g.node("Cast", [topIds], { to: 6 }), "int32", ["N", 1]);
  return g.bytes();
}

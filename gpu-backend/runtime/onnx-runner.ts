/** Executes steps on ONNX Runtime: one session over the serving graph. */
import type { TensorFile } from "../../shared/artifacts/tensor-file.ts";
import { buildServingGraph, names, type PoolShape, type WeightFormat } from "./gpt2-graph.ts";
import { type Device, openSession, type Session, type Tensor, tensor } from "./session.ts";
import type { AdapterPool, Bank, Gpt2Config, StepInput, StepOutput, StepRunner } from "./step.ts";
import { createWebgpuPast, type PastFeed, type WebgpuPast } from "./webgpu-past.ts";

/** Added to the score of a position that must not be seen; finite, so that a row without any past stays finite. */
const hiddenScore = -1e9;
const keptCausalMasks = 256;
const yes = tensor(Uint8Array.of(1), [], "bool");
const no = tensor(Uint8Array.of(0), [], "bool");
const zeroBias = { indices: Int32Array.of(0, 0), values: Float32Array.of(0) };

/** Builds the graph and opens the session. Memory: about twice the fp32 weights. */
export async function createStepRunner(options: {
  config: Gpt2Config;
  weights: TensorFile;
  bank: Bank;
  threads: number;
  format?: WeightFormat;
  pool?: PoolShape | null;
  device?: Device;
}): Promise<StepRunner> {
  const { config, weights, bank, threads, format = "fp32", pool = null, device = "cpu" } = options;
  const graph = buildServingGraph(config, weights, bank, { format, pool, device });
  const onDevice = device === "webgpu" ? Array.from({ length: 2 * config.layers }, (_, i) => names.grown(i)) : [];
  const session = await openSession(graph, { threads, device, onDevice });
  const past = device === "webgpu" ? await createWebgpuPast(config) : null;
  return new OnnxRunner(config, bank.gates, session, { pool: pool && new PoolTensors(config, pool), past });
}

class OnnxRunner implements StepRunner {
  readonly config: Gpt2Config;
  readonly gates: number;
  readonly pool: PoolTensors | null;
  readonly #session: Session;
  /** Where the past stays on the device. */
  readonly #past: WebgpuPast | null;
  readonly #causalMasks = new Map<string, Tensor>();

  constructor(
    config: Gpt2Config,
    gates: number,
    session: Session,
    options: { pool: PoolTensors | null; past: WebgpuPast | null },
  ) {
    this.config = config;
    this.gates = gates;
    this.pool = options.pool;
    this.#past = options.past;
    this.#session = session;
  }

  async run(input: StepInput): Promise<StepOutput> {
    const fetches: string[] = [names.present, names.topLogits, names.topIds, names.topProbability, names.targetLogits];
    const isScaled = input.inverseTemperatures.some((inverse) => inverse !== 1);
    if (isScaled) fetches.push(names.scaledTopProbability);
    if (input.want.logits) fetches.push(names.logits);
    if (input.want.hidden) fetches.push(names.hidden);
    const N = input.headRows.length;
    const fed = withEnoughHeadRows(input, this.gates);
    const past = this.#past ? await this.#past.feed(fed) : hostPast(this.config, fed);
    const feeds = {
      ...this.#feeds(fed, past.positions),
      ...past.feeds,
      [names.wantsHead]: N > 0 ? yes : no,
      [names.wantsScaled]: isScaled ? yes : no,
    };
    const results = await this.#session.run(feeds, this.#past ? this.#session.outputNames : fetches);
    past.take(results);
    const rowsOf = <T extends Float32Array | Int32Array>(name: string) => {
      const data = results[name].data as T;
      return data.subarray(0, (data.length / fed.headRows.length) * N) as T;
    };
    const topCount = results[names.topIds].dims[1];
    const topLogits = rowsOf<Float32Array>(names.topLogits);
    // log Σ exp, by way of the likeliest token: the graph's softmax is many times faster than its ReduceLogSumExp, and
    // its Log would round one row in another way than many.
    const logSumExp = (name: string, inverseTemperatures: Float32Array | null) =>
      rowsOf<Float32Array>(name).map((p, n) => topLogits[n * topCount] * (inverseTemperatures?.[n] ?? 1) - Math.log(p));
    const plain = logSumExp(names.topProbability, null);
    return {
      present: results[names.present].data as Float32Array,
      topCount,
      topLogits,
      topIds: rowsOf<Int32Array>(names.topIds),
      logSumExp: plain,
      scaledLogSumExp: isScaled ? logSumExp(names.scaledTopProbability, input.inverseTemperatures) : plain,
      targetLogits: rowsOf<Float32Array>(names.targetLogits),
      logits: input.want.logits ? rowsOf<Float32Array>(names.logits) : null,
      hidden: input.want.hidden ? rowsOf<Float32Array>(names.hidden) : null,
    };
  }

  async release(): Promise<void> {
    await this.#past?.release();
    await this.#session.release();
  }

  /** All but the past, of which P positions are fed. */
  #feeds(input: StepInput, P: number): Record<string, Tensor> {
    const { sequences: S, tokens: T, begunTokens: G = 0 } = input;
    const { heads: H, hiddenSize: D, layers } = this.config;
    const N = input.headRows.length;
    const bias = input.bias.values.length > 0 ? { indices: pairs(input.bias), values: input.bias.values } : zeroBias;
    const feeds: Record<string, Tensor> = {
      [names.tokenIds]: tensor(input.tokenIds, [S, T]),
      [names.positions]: tensor(input.positions, [S, T]),
      [names.pastMask]: tensor(pastMask(input.pastLengths, P, G), [S, 1, 1, P]),
      [names.causalMask]: this.#causalMask(T, G),
      [names.begun]: tensor(begunChunks(input, H, D / H), [2 * layers * S, H, G, D / H]),
      [names.headRows]: tensor(input.headRows, [N]),
      [names.gates]: tensor(input.gates, [N, this.gates]),
      [names.inverseTemperatures]: tensor(input.inverseTemperatures, [N]),
      [names.targetIds]: tensor(input.targetIds, [N]),
      [names.biasIndices]: tensor(bias.indices, [bias.values.length, 2]),
      [names.biasValues]: tensor(bias.values, [bias.values.length]),
    };
    if (this.pool) {
      feeds[names.poolA] = this.pool.a;
      feeds[names.poolB] = this.pool.b;
      feeds[names.poolMask] = this.pool.mask(input.poolSlots, N);
    }
    return feeds;
  }

  #causalMask(T: number, G: number): Tensor {
    const key = `${T} ${G}`;
    let mask = this.#causalMasks.get(key);
    if (!mask) {
      mask = causalMask(T, G);
      // They are small, but there may be thousands.
      if (this.#causalMasks.size >= keptCausalMasks) this.#causalMasks.clear();
      this.#causalMasks.set(key, mask);
    }
    return mask;
  }
}

/** The past as it lies in the host's memory. */
function hostPast(config: Gpt2Config, input: StepInput): PastFeed {
  const { sequences: S, pastTokens: P } = input;
  const { layers, heads: H, hiddenSize: D } = config;
  const feeds: Record<string, Tensor> = {};
  for (let l = 0; l < layers; l++) {
    feeds[names.pastKey(l)] = tensor(input.past[2 * l], [S, H, P, D / H]);
    feeds[names.pastValue(l)] = tensor(input.past[2 * l + 1], [S, H, P, D / H]);
  }
  return { feeds, positions: P, take: () => {} };
}

/**
 * The graph wants a head row, though nobody may read it. And a lone row that wears something of the pool goes twice: its
 * product with a matrix that is an input would be summed in another order than two rows' are.
 */
function withEnoughHeadRows(input: StepInput, gates: number): StepInput {
  const N = input.headRows.length;
  if (N === 0) {
    return {
      ...input,
      headRows: Int32Array.of(0),
      gates: new Float32Array(gates),
      inverseTemperatures: Float32Array.of(1),
      targetIds: Int32Array.of(0),
    };
  }
  return N === 1 && input.poolSlots ? withHeadRowTwice(input) : input;
}

/** The input of one head row with that row repeated; the row bias stays with the first. */
function withHeadRowTwice(input: StepInput): StepInput {
  const twice = <T extends Float32Array | Int32Array>(row: T): T => {
    const both = new (row.constructor as new (length: number) => T)(2 * row.length);
    both.set(row);
    both.set(row, row.length);
    return both;
  };
  return {
    ...input,
    headRows: twice(input.headRows),
    gates: twice(input.gates),
    poolSlots: input.poolSlots && twice(input.poolSlots),
    inverseTemperatures: twice(input.inverseTemperatures),
    targetIds: twice(input.targetIds),
  };
}

/** The pool's two tensors, read in place by every run. */
class PoolTensors implements AdapterPool {
  readonly slots: number;
  readonly rank: number;
  readonly a: Tensor;
  readonly b: Tensor;
  readonly #aRows: Float32Array; // [slots × rank, D]
  readonly #bRows: Float32Array; // [slots × rank, V]

  constructor(config: Gpt2Config, { slots, rank }: PoolShape) {
    this.slots = slots;
    this.rank = rank;
    this.#aRows = new Float32Array(slots * rank * config.hiddenSize);
    this.#bRows = new Float32Array(slots * rank * config.vocabularySize);
    this.a = tensor(this.#aRows, [slots * rank, config.hiddenSize]);
    this.b = tensor(this.#bRows, [slots * rank, config.vocabularySize]);
  }

  write(slot: number, a: Float32Array, b: Float32Array): void {
    if (slot < 0 || slot >= this.slots) throw new Error(`pool slot ${slot} of ${this.slots}`);
    for (const [rows, values] of [
      [this.#aRows, a],
      [this.#bRows, b],
    ]) {
      const room = rows.length / this.slots;
      if (values.length !== room) throw new Error(`a pool slot holds ${room} values, got ${values.length}`);
      rows.set(values, slot * room);
    }
  }

  /** [N, slots × rank]: 1 in the columns of each row's slot. */
  mask(poolSlots: Int32Array | undefined, N: number): Tensor {
    const width = this.slots * this.rank;
    const mask = new Float32Array(N * width);
    poolSlots?.forEach((slot, n) => {
      if (slot >= 0) mask.fill(1, n * width + slot * this.rank, n * width + (slot + 1) * this.rank);
    });
    return tensor(mask, [N, width]);
  }
}

/** [1, 1, T, G + T]: 0 where a column is not after its row; the first G columns are before all rows. */
export function causalMask(T: number, G = 0): Tensor {
  const mask = new Float32Array(T * (G + T));
  for (let row = 0; row < T; row++) mask.fill(hiddenScore, row * (G + T) + G + row + 1, (row + 1) * (G + T));
  return tensor(mask, [1, 1, T, G + T]);
}

/** What has begun of a chunk is seen beside the new tokens, not in the past. */
function pastMask(pastLengths: Int32Array, P: number, G: number): Float32Array {
  const mask = new Float32Array(pastLengths.length * P);
  pastLengths.forEach((length, row) => {
    mask.fill(hiddenScore, row * P + length - G, (row + 1) * P);
  });
  return mask;
}

/** Keys and values of the last G positions of each row's past, [2L, S, H, G, d]. */
function begunChunks(input: StepInput, H: number, d: number): Float32Array {
  const { sequences: S, pastTokens: P, pastLengths, begunTokens: G = 0 } = input;
  const chunks = new Float32Array(input.past.length * S * H * G * d);
  if (G === 0) return chunks;
  input.past.forEach((array, i) => {
    for (let head = 0; head < S * H; head++) {
      const end = head * P + pastLengths[Math.floor(head / H)];
      chunks.set(array.subarray((end - G) * d, end * d), (i * S * H + head) * G * d);
    }
  });
  return chunks;
}

function pairs(bias: StepInput["bias"]): Int32Array {
  const flat = new Int32Array(2 * bias.rows.length);
  for (let i = 0; i < bias.rows.length; i++) {
    flat[2 * i] = bias.rows[i];
    flat[2 * i + 1] = bias.ids[i];
  }
  return flat;
}

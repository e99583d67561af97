/**
 * A runner whose weights, keys, values and states stay on a WebGPU device. Hidden states and logits stay there, too, unless a pass wants
 * them.
 * Shapes: S rows of a run, T tokens, M positions that the head is computed at, N rows of the head, K candidates, V vocabulary, D hidden.
 */
import { buildDeviceHead, buildDeviceTrunk, isEmbeddingFed } from "../runtime/device-graph.ts";
import { type DeviceBuffer, DeviceMemory, view } from "../runtime/device-memory.ts";
import { names } from "../runtime/graph-names.ts";
import type { ModelConfig } from "../runtime/model-config.ts";
import { floatsOf, type ModelWeights, weightOf } from "../runtime/model-weights.ts";
import { kvFormatFor, steadyRows, type WeightFormat } from "../runtime/products.ts";
import { biasFeeds, noRows, readRows } from "../runtime/row-feeds.ts";
import { type Session, type Tensor, tensor } from "../runtime/session.ts";
import type { Bank, HeadInput, ModelShape, RowOutput } from "../runtime/step.ts";
import { DeviceKv } from "./device-kv.ts";
import { DeviceOwn } from "./device-own.ts";
import type { Pass, PassOutput, Runner } from "./runner.ts";

/** Maximum tokens of a row in a run. For more, ONNX Runtime 1.30 has a kernel that is wrong if a subgroup has 8 lanes. */
export const safeRunTokens = 31;

export interface DeviceModel {
  config: ModelConfig;
  weights: ModelWeights;
  bank: Bank;
  /** Absent: fp32. */
  format?: WeightFormat;
}

interface DeviceLimits {
  maxSequences: number;
  /** Maximum bytes of running and parked rows. */
  kvBytes: number;
  /** Maximum tokens of a row in a run. Default: `safeRunTokens`. */
  runTokens?: number;
  threads: number;
}

interface Sessions {
  trunk: Session;
  head: Session;
  /** Used if a row has a tenant's own adapter. */
  mixedHead: Session;
}

/** Rejects if there is no WebGPU device, if the device lacks a kernel, or if memory is too small. */
export async function openDeviceRunner(
  { config, weights, bank, format = "fp32" }: DeviceModel,
  limits: DeviceLimits,
): Promise<DeviceRunner> {
  const memory = await DeviceMemory.open(limits.threads);
  try {
    const sessions = {
      trunk: await memory.session(buildDeviceTrunk(config, weights, format)),
      head: await memory.session(buildDeviceHead(config, weights, { bank, format, hasOwn: false })),
      mixedHead: await memory.session(buildDeviceHead(config, weights, { bank, format, hasOwn: true })),
    };
    const isFed = isEmbeddingFed(weights, format);
    const tokens = isFed ? floatsOf(weightOf(weights, "model.embed_tokens.weight")) : null;
    const embedding = tokens && (await memory.allocate(tokens.length, tokens));
    const kv = await DeviceKv.open(config, memory, {
      ...{ maximumRows: limits.maxSequences, maximumBytes: limits.kvBytes },
      ...{ format: kvFormatFor(format), leastRows: steadyRows(format) },
    });
    // Softmax sums a single row in another order than each of several.
    const leastHeadRows = Math.max(2, steadyRows(format));
    const own = await DeviceOwn.open(config, memory);
    const { runTokens = safeRunTokens } = limits;
    return new DeviceRunner({
      config,
      gates: bank.gates,
      runTokens,
      memory,
      sessions,
      embedding,
      kv,
      own,
      leastHeadRows,
    });
  } catch (error) {
    await memory.release();
    throw error;
  }
}

interface Parts {
  config: ModelConfig;
  gates: number;
  runTokens: number;
  memory: DeviceMemory;
  sessions: Sessions;
  embedding: DeviceBuffer | null;
  kv: DeviceKv;
  own: DeviceOwn;
  leastHeadRows: number;
}

export class DeviceRunner implements Runner {
  readonly config: ModelShape;
  readonly gates: number; // Q
  readonly kv: DeviceKv;
  readonly draftCost = Number.POSITIVE_INFINITY;
  readonly #parts: Parts;
  /** Empty if the sessions have the embedding. */
  readonly #embedding: Record<string, Tensor>;
  readonly #hasLearnedPositions: boolean;
  /** Kept on the device, because most decode passes have the same gates as the pass before. */
  #gates: { values: Float32Array; buffer: DeviceBuffer } | null = null;

  constructor(parts: Parts) {
    const { config, gates, kv, embedding } = parts;
    [this.config, this.gates, this.kv] = [config, gates, kv];
    this.#parts = parts;
    const { vocabularySize: V, hiddenSize: D } = config;
    this.#embedding = embedding ? { [names.embedding]: view(embedding, V, D) } : {};
    this.#hasLearnedPositions = config.positions === "learned";
  }

  get traffic(): DeviceMemory["traffic"] {
    return this.#parts.memory.traffic;
  }

  /** Buffers and bytes on the device, without the weights of sessions. */
  get allocated(): { buffers: number; bytes: number } {
    const { buffers, bytes } = this.#parts.memory;
    return { buffers, bytes };
  }

  async run({ phase, rows, states, head }: Pass): Promise<PassOutput> {
    await this.kv.settled();
    const finite = phase === "prefill" ? await this.#prefill(rows) : await this.#decode(rows);
    return { ...(await this.#head(states, head)), finite };
  }

  async release(): Promise<void> {
    await this.kv.settled().catch(() => undefined);
    await this.#parts.memory.release();
  }

  async #prefill(rows: Pass["rows"]): Promise<Uint8Array> {
    const finite = new Uint8Array(rows.length).fill(1);
    for (const [s, { kv, tokens }] of rows.entries()) {
      const arrays = await this.kv.stage(kv);
      const place = this.kv.placeOf(kv);
      for (let start = 0; start < tokens.length && finite[s]; start += this.#parts.runTokens) {
        const ids = tokens.slice(start, start + this.#parts.runTokens);
        const [isValid] = await this.#trunk(arrays, [{ place, position: kv.positions + start, ids }]);
        finite[s] = Number(isValid);
      }
      if (!finite[s]) continue;
      this.kv.advance(kv, tokens.length);
      await this.kv.unstage();
    }
    return finite;
  }

  async #decode(rows: Pass["rows"]): Promise<Uint8Array> {
    if (rows.length === 0) return new Uint8Array(0);
    const { arrays, positions } = this.kv.first(this.kv.placesFor(rows.map(({ kv }) => kv)));
    const runs: RowTokens[] = positions.map((position, place) => ({ place, position, ids: [0] }));
    for (const { kv, tokens } of rows) runs[this.kv.placeOf(kv)].ids = tokens;
    const areFinite = await this.#trunk(arrays, runs);
    return Uint8Array.from(rows, ({ kv }) => {
      const isValid = areFinite[this.kv.placeOf(kv)];
      if (isValid) this.kv.advance(kv, 1);
      return Number(isValid);
    });
  }

  /** All rows must have the same number of tokens. Returns whether the states of each row are finite. */
  async #trunk(arrays: readonly Tensor[], rows: readonly RowTokens[]): Promise<boolean[]> {
    const { heads, kvHeads, headWidth, contextTokens } = this.config;
    const [S, T] = [rows.length, rows[0].ids.length];
    const positions = rows.flatMap(({ position, ids }) => ids.map((_, t) => position + t));
    const places = rows.flatMap(({ place, ids }) => ids.map(() => place));
    const last = rows.map(({ position }) => position + T - 1);
    const feeds: Record<string, Tensor> = {
      ...this.#embedding,
      [names.tokenIds]: tensor(Int32Array.from(rows.flatMap(({ ids }) => ids)), [S, T]),
      [names.packedShape]: tensor(BigInt64Array.of(...[S, T, (heads + 2 * kvHeads) * headWidth].map(BigInt)), [3]),
      [names.lastPositions]: tensor(Int32Array.from(last), [S]),
      [names.longest]: tensor(Int32Array.of(Math.max(...last) + 1), [1]),
      [names.keptStates]: this.kv.allStates,
      [names.statesAt]: tensor(
        BigInt64Array.from(positions, (position, i) => BigInt(this.kv.stateIndex(places[i], position))),
        [S * T, 1],
      ),
    };
    if (this.#hasLearnedPositions) {
      // A full row that is not in the pass runs at a position past the context, for which no embedding exists.
      const known = positions.map((position) => Math.min(position, contextTokens - 1));
      feeds[names.positions] = tensor(Int32Array.from(known), [S, T]);
    }
    const written: Record<string, Tensor> = { [names.grownStates]: feeds[names.keptStates] };
    arrays.forEach((array, i) => {
      feeds[names.kept(i)] = array;
      written[names.grown(i)] = array;
    });
    const { memory, sessions } = this.#parts;
    const results = await memory.run(sessions.trunk, feeds, [names.magnitudes], written);
    const magnitudes = results[names.magnitudes].data as Float32Array;
    return rows.map((_, s) => magnitudes.subarray(s * T, (s + 1) * T).every(Number.isFinite));
  }

  async #head(states: Pass["states"], head: HeadInput): Promise<RowOutput & { hidden: Float32Array | null }> {
    const { want } = head;
    const rows = head.rows ?? Int32Array.from(states.keys());
    if (rows.length === 0 && !want.hidden) return { ...noRows(want.scores), hidden: null };
    const { memory, sessions, own, config, leastHeadRows } = this.#parts;
    const [M, N] = [states, rows].map(({ length }) => Math.max(length, leastHeadRows));
    const indexes = states.map(({ kv, position }) => this.kv.stateIndex(this.kv.placeOf(kv), position));
    const at = padded(Int32Array.from(indexes), M);
    const feeds: Record<string, Tensor> = {
      [names.keptStates]: this.kv.allStates,
      [names.statesAt]: tensor(at, [M]),
      ...(config.tiedHead ? this.#embedding : {}),
      ...(await this.#rowFeeds({ ...head, rows }, N)),
      ...(head.own ? await own.feeds(head.own, N) : {}),
    };
    const fetched = [
      ...(rows.length > 0 ? ranking : []),
      ...(want.scores ? [names.scores] : []),
      ...(want.hidden ? [names.hidden] : []),
    ];
    const results = await memory.run(head.own ? sessions.mixedHead : sessions.head, feeds, fetched);
    const D = config.hiddenSize;
    const hidden = want.hidden ? (results[names.hidden].data as Float32Array).subarray(0, states.length * D) : null;
    if (rows.length === 0) return { ...noRows(want.scores), hidden };
    return { ...readRows(results, rows.length, head), hidden };
  }

  /** Feeds of N rows. Those after the pass's own rows have zeros, and their results are not read. */
  async #rowFeeds({ rows, bias, ...head }: HeadInput & { rows: Int32Array }, N: number) {
    const feeds: Record<string, Tensor> = {
      [names.rows]: tensor(padded(rows, N), [N]),
      [names.inverseTemperatures]: tensor(padded(head.inverseTemperatures, N), [N, 1]),
      [names.targetIds]: tensor(padded(head.targetIds, N), [N, 1]),
      ...biasFeeds(bias, (pairs) => BigInt64Array.from(pairs, BigInt)),
    };
    if (this.gates === 0) return feeds;
    const gates = padded(head.gates, N * this.gates);
    const { memory } = this.#parts;
    const held = this.#gates?.values;
    if (held?.length !== gates.length || !gates.every((gate, i) => gate === held[i])) {
      if (this.#gates) memory.free(this.#gates.buffer);
      this.#gates = { values: gates, buffer: await memory.allocate(gates.length, gates) };
    }
    return { ...feeds, [names.gates]: view(this.#gates!.buffer, N, this.gates) };
  }
}

/** Appends zeros up to this length. */
function padded<T extends Int32Array | Float32Array>(values: T, length: number): T {
  if (values.length === length) return values;
  const all = values instanceof Int32Array ? new Int32Array(length) : new Float32Array(length);
  all.set(values);
  return all as T;
}

/** Tokens of the row at `place`. The first token is at `position`. */
interface RowTokens {
  place: number;
  position: number;
  ids: readonly number[];
}

const ranking = [
  ...[names.topScores, names.topIds, names.topProbability, names.scaledTopProbability, names.targetScores],
];

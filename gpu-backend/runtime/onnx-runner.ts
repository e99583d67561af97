import { hasChunkOperator } from "./attention-graph.ts";
import { names } from "./graph-names.ts";
import type { ModelConfig } from "./model-config.ts";
import { bool, noRows, oneRow, ownFeeds, readRows, rowFeeds, rowFetches } from "./row-feeds.ts";
import { openSession, type Session, type Tensor, tensor } from "./session.ts";
import {
  type Bank,
  type KvFormat,
  type ModelShape,
  minPrefillTokens,
  type StepInput,
  type StepOutput,
  type StepRunner,
} from "./step.ts";

/** Score of a masked position. Finite, because the softmax of a row with only masked positions must not be NaN. */
const hiddenScore = -1e9;
const maxCachedCausalMasks = 256;
/** `longPast` costs a layer some 40 µs, in which attention reads about this many bytes at 45 GB/s. */
const layerClassBytes = 2 ** 21;

/** By format of the keys, measured on a Xeon at 2.8 GHz. Further rows add less to products in int8 than to those of other formats. */
const draftCosts = { int8: 0.13, fp32: 0.35, fp16: Number.POSITIVE_INFINITY };

/** float32 elements of the widest vector register. */
const vectorElements = 16;

const nothing = new Float32Array(0);
const noBytes = new Int8Array(0);
const noPresent = { present: nothing, states: nothing };
const noLongPast = { sequences: 0, pastTokens: 0, past: [] };

export interface RunnerOptions {
  config: ModelConfig;
  bank: Bank;
  threads: number;
  kv?: KvFormat;
}

/** `graph` comes from `buildServingGraph` with the same options, as bytes or as path. */
export async function openStepRunner(graph: Uint8Array | string, options: RunnerOptions): Promise<StepRunner> {
  return new OnnxRunner(await openSession(graph, options), options);
}

class OnnxRunner implements StepRunner {
  readonly config: ModelShape;
  readonly gates: number;
  readonly classBytes: number;
  readonly kvFormat: KvFormat;
  readonly draftCost: number;
  readonly #session: Session;
  readonly #causalMasks = new Map<string, Tensor>();

  constructor(session: Session, { config, bank, kv = "fp32" }: RunnerOptions) {
    this.config = config;
    this.gates = bank.gates;
    this.classBytes = layerClassBytes * config.layers;
    this.kvFormat = kv;
    // Otherwise drafts would change bits. With one head of keys, one product has the queries of all rows. And drafts give the past room (P)
    // for more positions; the greatest P is the context, and a sum over a P that does not fill whole vector registers has another order.
    const isSteady = config.kvHeads > 1 && config.contextTokens % vectorElements === 0;
    this.draftCost = isSteady ? draftCosts[kv] : Number.POSITIVE_INFINITY;
    this.#session = session;
  }

  async run(input: StepInput): Promise<StepOutput> {
    const rows = input.rows?.length ?? input.headRows.length;
    const fed = withEnoughRows(input, this.gates);
    const fetches = [
      ...(input.sequences > 0 ? [names.present, names.states] : []),
      ...(rows > 0 ? rowFetches(input) : []),
      ...(input.want.hidden ? [names.hidden] : []),
    ];
    const results = await this.#session.run({ ...this.#feeds(fed, rows > 0), ...this.#past(fed) }, fetches);
    const floats = (name: string) => results[name].data as Float32Array<ArrayBuffer>;
    return {
      ...(rows > 0 ? readRows(results, rows, input) : noRows(input.want.scores)),
      ...(input.sequences > 0 ? { present: floats(names.present), states: floats(names.states) } : noPresent),
      hidden: input.want.hidden ? hiddenOf(input, floats(names.hidden), this.config) : null,
    };
  }

  async release(): Promise<void> {
    await this.#session.release();
  }

  #feeds(input: StepInput, isRead: boolean): Record<string, Tensor> {
    const { sequences: S, tokens: T, begunTokens = 0, fedStates = new Float32Array(0) } = input;
    // The attention operator of a chunk reads neither masks nor `begun`, so these are as small as possible.
    const [maskT, P, G] = this.#isChunk(input) ? [1, 0, 0] : [T, input.pastTokens, begunTokens];
    const { kvHeads: H, headWidth: d, hiddenSize: D, layers } = this.config;
    const first = S - (input.longPast?.sequences ?? 0);
    const rows = input.rows ?? Int32Array.from(input.headRows.keys());
    const N = rows.length;
    return {
      [names.tokenIds]: tensor(input.tokenIds, [S, T]),
      [names.positions]: tensor(input.positions, [S, T]),
      [names.past.mask]: tensor(pastMask(input.pastLengths.subarray(0, first), P, G), [first, 1, 1, P]),
      [names.causalMask]: this.#causalMask(maskT, G),
      [names.begun]: tensor(begunChunks({ ...input, begunTokens: G }, this.config), [2 * layers * S, H, G, d]),
      [names.headRows]: tensor(input.headRows, [input.headRows.length]),
      [names.fedStates]: tensor(fedStates, [fedStates.length / D, D]),
      [names.wantsHidden]: bool(isRead || input.want.hidden),
      [names.wantsTrunk]: bool(S > 0),
      [names.rows]: tensor(rows, [N]),
      [names.gates]: tensor(input.gates, [N, this.gates]),
      ...ownFeeds(input.own, D),
      [names.targetIds]: tensor(input.targetIds, [N]),
      ...rowFeeds(input, isRead),
    };
  }

  #past(input: StepInput): Record<string, Tensor> {
    const { sequences: S, pastTokens, past, pastLengths } = input;
    const long = input.longPast ?? noLongPast;
    const { sequences: longS, pastTokens: longP } = long;
    const mask = pastMask(pastLengths.subarray(pastLengths.length - longS), longP, 0);
    return {
      ...this.#pastRows(names.past, { sequences: input.drafts ? 1 : S - longS, pastTokens, past }),
      ...this.#pastRows(names.long, long),
      [names.hasLong]: bool(longS > 0),
      [names.isDrafts]: bool(input.drafts ?? false),
      [names.draftsAt]: draftsAt(input, this.config),
      [names.isChunk]: bool(this.#isChunk(input)),
      [names.positionCount]: tensor(Int32Array.of(this.#isChunk(input) ? pastLengths[0] + input.tokens : 0), []),
      [names.long.mask]: tensor(mask, [longS, 1, 1, longP]),
    };
  }

  #pastRows(
    named: typeof names.past,
    { sequences: S, pastTokens: P, past }: NonNullable<StepInput["longPast"]>,
  ): Record<string, Tensor> {
    const { layers, kvHeads: K, headWidth: d } = this.config;
    const isInt8 = this.kvFormat === "int8";
    const feeds: Record<string, Tensor> = {};
    for (let l = 0; l < layers; l++) {
      for (const part of [0, 1]) {
        const [i, key] = [2 * l + part, part === 0 ? "key" : "value"] as const;
        feeds[named[`${key}s`](l)] = tensor(S > 0 ? past[i] : isInt8 ? noBytes : nothing, [S, K, P, d]);
        if (isInt8) feeds[named[`${key}Scales`](l)] = tensor(S > 0 ? past[2 * layers + i] : nothing, [S, K, 1, P]);
      }
    }
    return feeds;
  }

  /** Whether attention-graph.ts has its own operator for the step, a chunk of one prompt. */
  #isChunk({ sequences, tokens, longPast }: StepInput): boolean {
    const isOne = sequences === 1 && tokens >= minPrefillTokens && !longPast;
    return isOne && hasChunkOperator(this.config);
  }

  #causalMask(T: number, G: number): Tensor {
    const key = `${T} ${G}`;
    let mask = this.#causalMasks.get(key);
    if (!mask) {
      mask = causalMask(T, G);
      // Bounded, because there may be thousands of combinations of T and G.
      if (this.#causalMasks.size >= maxCachedCausalMasks) this.#causalMasks.clear();
      this.#causalMasks.set(key, mask);
    }
    return mask;
  }
}

function hiddenOf({ headRows, fedStates }: StepInput, hidden: Float32Array, { hiddenSize }: ModelShape): Float32Array {
  return hidden.subarray(0, headRows.length * hiddenSize + (fedStates?.length ?? 0));
}

/** Adds a position of the head and a row if the step has none, because the graph requires them. Their results are not read. */
function withEnoughRows(input: StepInput, gates: number): StepInput {
  const { fedStates, sequences } = input;
  const hasRows = input.headRows.length > 0 || (fedStates?.length ?? 0) > 0;
  const headRows = hasRows || sequences === 0 ? input.headRows : Int32Array.of(0);
  const rows = input.rows ?? Int32Array.from(input.headRows.keys());
  if (rows.length > 0) return { ...input, headRows };
  return { ...input, headRows, ...oneRow(gates) };
}

/** Returns [1, 1, T, G + T]: token t sees the G positions before the step, and the step's tokens 0 to t. */
export function causalMask(T: number, G = 0): Tensor {
  const mask = new Float32Array(T * (G + T));
  for (let row = 0; row < T; row++) mask.fill(hiddenScore, row * (G + T) + G + row + 1, (row + 1) * (G + T));
  return tensor(mask, [1, 1, T, G + T]);
}

/** Also masks the last G positions, because attention reads these as `begun`. */
function pastMask(pastLengths: Int32Array, P: number, G: number): Float32Array {
  const mask = new Float32Array(pastLengths.length * P);
  pastLengths.forEach((length, row) => {
    mask.fill(hiddenScore, row * P + length - G, (row + 1) * P);
  });
  return mask;
}

/** Where the past gets the keys and values of each head, then draft: (0, head, position), [K, S, 3]. */
function draftsAt({ drafts, pastLengths }: StepInput, { kvHeads: K }: ModelShape): Tensor {
  const heads = Array.from({ length: K }, (_, head) => head);
  const lengths = drafts ? [...pastLengths] : [];
  const at = heads.flatMap((head) => lengths.flatMap((position) => [0, head, position]));
  return tensor(Int32Array.from(at), [K, lengths.length, 3]);
}

/** Keys and values of each row's last G positions, [2L, S, H, G, d]. */
function begunChunks(input: StepInput, { layers, kvHeads: H, headWidth: d }: ModelShape): Float32Array {
  const { sequences: S, pastTokens: P, pastLengths, begunTokens: G = 0 } = input;
  const chunks = new Float32Array(2 * layers * S * H * G * d);
  if (G === 0) return chunks;
  if (input.past[0] instanceof Int8Array) throw new Error("a chunk does not continue from int8 keys and values");
  input.past.slice(0, 2 * layers).forEach((array, i) => {
    for (let head = 0; head < S * H; head++) {
      const end = head * P + pastLengths[Math.floor(head / H)];
      chunks.set(array.subarray((end - G) * d, end * d), (i * S * H + head) * G * d);
    }
  });
  return chunks;
}

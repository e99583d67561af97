/**
 * A step runner without a model. A row's logits are a hash of its tokens, gates and bias. Keys carry (token id, position), and every step
 * checks each row's past. So a misplaced copy in the KV arena is an error.
 */
import type { HeadResult } from "../../gpu-backend/engine/sampler.ts";
import {
  type ModelShape,
  type StepInput,
  type StepOutput,
  type StepRunner,
  topCandidates,
} from "../../gpu-backend/runtime/step.ts";

const heads = 2;
const headWidth = 2;
/** Padded columns have this value, which must never be read back. */
const poison = -1e9;

export const fakeConfig: ModelShape = {
  vocabularySize: 100,
  hiddenSize: heads * headWidth,
  layers: 2,
  heads,
  kvHeads: heads,
  headWidth,
  contextTokens: 512,
  stopIds: [99],
};

export const neverEnds = { logit_bias: [[fakeConfig.stopIds[0], -100]] as [number, number][] };

/** Each `salt` gives other ids. */
export const promptOf = (length: number, salt = 0) => Array.from({ length }, (_, i) => (i * 7 + salt * 13 + 1) % 90);

export interface FakeRunner extends StepRunner {
  readonly steps: { sequences: number; tokens: number; readPositions: number; isSplit: boolean; headRows: number }[];
}

/**
 * `topCount`: number of ranked candidates K. `seen`: number of last tokens that logits depend on. `before` may delay a step or make it
 * fail.
 */
export function createFakeRunner(
  options: {
    config?: Partial<ModelShape>;
    classBytes?: number;
    topCount?: number;
    seen?: number;
    draftCost?: number;
    before?: (input: StepInput) => Promise<void>;
  } = {},
): FakeRunner {
  const config = { ...fakeConfig, ...options.config };
  const steps: FakeRunner["steps"] = [];
  return {
    config,
    gates: 2,
    classBytes: options.classBytes ?? 0,
    draftCost: options.draftCost ?? Number.POSITIVE_INFINITY,
    steps,
    async run(input) {
      await options.before?.(input);
      const { sequences, tokens, pastTokens, longPast = { sequences: 0, pastTokens: 0 } } = input;
      const readPositions = (sequences - longPast.sequences) * pastTokens + longPast.sequences * longPast.pastTokens;
      steps.push({
        sequences,
        tokens,
        readPositions,
        isSplit: longPast.sequences > 0,
        headRows: input.headRows.length,
      });
      const K = Math.min(options.topCount ?? topCandidates, config.vocabularySize);
      return fakeStep(config, { K, seen: options.seen ?? config.contextTokens }, input);
    },
    async release() {},
  };
}

/** Logits [V] after a history, from which tests compute what they expect. */
export function fakeLogits(V: number, history: readonly number[], gates: ArrayLike<number> = [0, 0]): Float32Array {
  const seed = history.reduce((hash, id) => mix(hash ^ (id + 1)), 0x9e3779b9);
  return Float32Array.from({ length: V }, (_, v) => {
    const own = (mix(seed ^ Math.imul(v + 1, 0x85ebca6b)) / 2 ** 32) * 8 - 4;
    return own + gates[0] * Math.sin(v) * 4 + gates[1] * Math.cos(v) * 4;
  });
}

function fakeStep(config: ModelShape, { K, seen }: { K: number; seen: number }, input: StepInput): StepOutput {
  const { sequences: S, tokens: T } = input;
  const { vocabularySize: V } = config;
  const arrays = 2 * config.layers;
  const flatRows = Int32Array.from(input.rows ?? input.headRows.keys(), (at) => input.headRows[at]);
  const N = flatRows.length;
  const present = new Float32Array(arrays * S * heads * T * headWidth).fill(poison);
  for (let s = 0; s < S; s++) {
    for (let t = 0; t < T; t++) {
      const isPadding = t > 0 && input.positions[s * T + t] === 0;
      if (isPadding) continue;
      for (let i = 0; i < arrays; i++) {
        for (let h = 0; h < heads; h++) {
          const at = (((i * S + s) * heads + h) * T + t) * headWidth;
          present[at] = input.tokenIds[s * T + t];
          present[at + 1] = input.positions[s * T + t] + i / 16 + h / 4;
        }
      }
    }
  }
  const states = Float32Array.from({ length: S * T * config.hiddenSize }, (_, i) => {
    const [at, e] = [Math.floor(i / config.hiddenSize), i % config.hiddenSize];
    return e % 2 ? input.positions[at] + e / 16 : input.tokenIds[at];
  });
  const histories = Array.from({ length: S }, (_, s) => pastOf(input, s));
  const logits = new Float32Array(N * V);
  const output: StepOutput = {
    present,
    states,
    topCount: K,
    topScores: new Float32Array(N * K),
    topIds: new Int32Array(N * K),
    logSumExp: new Float32Array(N),
    scaledLogSumExp: new Float32Array(N),
    targetScores: new Float32Array(N),
    scores: input.want.scores ? logits : null,
    hidden: null,
  };
  for (let n = 0; n < N; n++) {
    const s = Math.floor(flatRows[n] / T);
    const own = [];
    for (let t = 0; t <= flatRows[n] % T; t++) {
      own.push(input.tokenIds[s * T + t]);
      const position = input.pastLengths[s] + t;
      if (input.positions[s * T + t] !== position)
        throw new Error(`row ${s}: token at position ${position} is elsewhere`);
    }
    const gates = [input.gates[2 * n], input.gates[2 * n + 1]];
    const row = fakeLogits(V, [...histories[s], ...own].slice(-seen), gates);
    for (let b = 0; b < input.bias.rows.length; b++) {
      if (input.bias.rows[b] !== n) continue;
      const id = input.bias.ids[b];
      const logit = row[id];
      const penalty = input.bias.penalties?.[b] ?? 1;
      row[id] = (logit > 0 ? logit / penalty : logit * penalty) + input.bias.values[b];
    }
    logits.set(row, n * V);
    const head = headRowOf(row, 1 / input.inverseTemperatures[n], K, input.targetIds[n]);
    output.topIds.set(head.topIds, n * K);
    output.topScores.set(head.topScores, n * K);
    output.logSumExp[n] = head.logSumExp;
    output.scaledLogSumExp[n] = head.scaledLogSumExp;
    output.targetScores[n] = head.targetScore;
  }
  return output;
}

/** Ids of a row's past. Throws an Error if a layer or head holds other ids. */
function pastOf(input: StepInput, s: number): number[] {
  if (input.drafts && s > 0) {
    if (input.pastTokens <= input.pastLengths[s]) throw new Error(`the past has no room for row ${s}`);
    return [...pastOf(input, 0), ...input.tokenIds.subarray(0, s)];
  }
  const first = input.sequences - (input.longPast?.sequences ?? 0);
  const { past, pastTokens: P } = s < first ? input : input.longPast!;
  const row = s < first ? s : s - first;
  const ids: number[] = [];
  const pairs = past.slice(0, -1);
  const states = past[pairs.length];
  const D = heads * headWidth;
  for (let position = 0; position < input.pastLengths[s]; position++) {
    const state = states.subarray((row * P + position) * D, (row * P + position + 1) * D);
    if (state.some((x, e) => x !== (e % 2 ? position + e / 16 : state[0]))) {
      throw new Error(`row ${s}: the state at position ${position} is not what was computed`);
    }
    for (let i = 0; i < pairs.length; i++) {
      for (let h = 0; h < heads; h++) {
        const at = ((row * heads + h) * P + position) * headWidth;
        const id = past[i][at];
        if (i === 0 && h === 0) ids.push(id);
        if (id !== ids[position] || id !== state[0] || past[i][at + 1] !== position + i / 16 + h / 4) {
          throw new Error(
            `row ${s}: the past at position ${position} (array ${i}, head ${h}) is not what was computed`,
          );
        }
      }
    }
  }
  return ids;
}

export function headRowOf(logits: Float32Array, temperature = 1, K = topCandidates, targetId = 0): HeadResult {
  const topIds = Int32Array.from(rankedIds(logits).slice(0, K));
  return {
    topIds,
    topScores: Float32Array.from(topIds, (id) => logits[id]),
    logSumExp: logSumExp(logits),
    scaledLogSumExp: logSumExp(logits, 1 / temperature),
    targetScore: logits[targetId],
    scores: logits.slice(),
  };
}

/** Ids by falling logit; of equal logits the lower id first. */
export function rankedIds(logits: Float32Array): number[] {
  return Array.from(logits.keys()).sort((a, b) => logits[b] - logits[a] || a - b);
}

export function logSumExp(logits: Float32Array, scale = 1): number {
  const highest = logits.reduce((a, b) => Math.max(a, b)) * scale;
  return highest + Math.log(logits.reduce((sum, logit) => sum + Math.exp(logit * scale - highest), 0));
}

/** MurmurHash3's finaliser. */
function mix(word: number): number {
  let x = word >>> 0;
  x = Math.imul(x ^ (x >>> 16), 0x85ebca6b);
  x = Math.imul(x ^ (x >>> 13), 0xc2b2ae35);
  return (x ^ (x >>> 16)) >>> 0;
}

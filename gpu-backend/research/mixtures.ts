/** Computes offline the mixture that the model `auto` serves for a prompt. */
import { isAutoOff } from "../../shared/artifacts/manifest.ts";
import { limits } from "../../shared/contracts/limits.ts";
import { promptEmbedding, rankCentroids } from "../../shared/math/assignment.ts";
import { defaultCalibration, positionsOfEvidence, priorsOf, weigh } from "../../shared/math/evidence.ts";
import { type MemoryRule, memoryWeight, mixedBeforeBrakes, type Neighbours } from "../../shared/math/memory.ts";
import { changeOf } from "../adapters/own/fit.ts";
import type { Delta } from "../runtime/fit-session.ts";
import { gatesAt } from "../training/bank/measure.ts";
import type { Reader } from "../training/bank/reader.ts";
import type { ServedBank } from "../training/bank/served-bank.ts";
import { observationAt } from "../training/memory-scores.ts";

export interface OwnAdapter {
  delta: Delta;
  /** Mean prompt embedding of the adapter's text, scaled to length 1, [P]. */
  centroid: Float32Array;
}

export interface Mixed {
  /** `gates` are those of the generated adapters, [Q]. `own` is the weight of the own adapter. */
  gates: Float32Array;
  own: number;
}

interface HiddenText {
  ids: readonly number[]; // [T]
  /** Hidden states after the last layer norm, [T, D]. */
  hidden: Float32Array;
}

/** A memory that is mixed into every expert's predictions before the experts are weighed. */
interface EvidentMemory {
  /** The nearest keys at each evidence position of the prompt. */
  found: readonly Neighbours[];
  rule: MemoryRule;
}

/** Experts: base, static adapter, own adapter if given, and the adapters of the nearest centroids that are not off. */
export function expertsOf(
  promptIds: readonly number[],
  { manifest, table, adapters, scales }: ServedBank,
  own: OwnAdapter | null = null,
) {
  const calibration = manifest.evidence ?? defaultCalibration;
  const { staticGates } = adapters.network;
  const embedding = promptEmbedding(promptIds.slice(0, manifest.embedding.prefixTokens), table);
  const near = rankCentroids(embedding, adapters.centroids)
    .slice(0, own ? Math.min(calibration.adapters, limits.mixtureAdapters - 2) : calibration.adapters)
    .map(({ index, similarity }) => ({
      ...{ similarity, index },
      isOff: isAutoOff(manifest.centroids[index]),
      ...{ gates: gatesAt(adapters, index, scales[index]), own: 0, ownHash: null as string | null },
    }));
  const nearest = { index: near[0].index, gates: near[0].gates };
  if (own) {
    const similarity = embedding.reduce((sum, value, p) => sum + value * own.centroid[p], 0);
    near.unshift({ similarity, index: -1, isOff: false, gates: staticGates, own: 1, ownHash: "own" });
  }
  const priors = priorsOf(near, true, calibration);
  const all: Mixed[] = [
    { gates: new Float32Array(staticGates.length), own: 0 },
    { gates: staticGates, own: 0 },
    ...near.filter(({ isOff }) => !isOff),
  ];
  return { all, priors: [priors.base, priors.fixed, ...priors.adapters], nearest, calibration };
}

/** The prompt is the first `promptTokens` of the text. `nearest` is the nearest centroid. */
export async function mixtureOf(
  reader: Pick<Reader, "read">,
  served: ServedBank,
  text: HiddenText,
  promptTokens: number,
  own: OwnAdapter | null = null,
  memory: EvidentMemory | null = null,
): Promise<Mixed & { nearest: { index: number; gates: Float32Array } }> {
  const { all, priors, nearest, calibration } = expertsOf(text.ids.slice(0, promptTokens), served, own);
  const evidence = positionsOfEvidence(promptTokens);
  const logprobs = await logprobsUnder(all, own, reader, text, evidence, memory);
  const ofTokens = evidence.map((_, n) => logprobs.map((ofExpert) => ofExpert[n]));
  const { base, adapters } = weigh(priors, calibration, ofTokens).weights;
  const weights = [base, ...adapters];
  return {
    nearest,
    gates: all[0].gates.map((_, q) => all.reduce((sum, { gates }, e) => sum + weights[e] * gates[q], 0)),
    own: all.reduce((sum, { own: share }, e) => sum + weights[e] * share, 0),
  };
}

/** Log-likelihoods of the tokens after `positions`, [experts][positions]. */
export async function logprobsUnder(
  experts: readonly Mixed[],
  own: OwnAdapter | null,
  reader: Pick<Reader, "read">,
  { ids, hidden }: HiddenText,
  positions: readonly number[],
  memory: EvidentMemory | null = null,
): Promise<Float32Array[]> {
  const D = hidden.length / ids.length;
  const [N, Q] = [positions.length, experts[0].gates.length];
  const states = new Float32Array(experts.length * N * D);
  const gates = new Float32Array(experts.length * N * Q);
  const changes = new Float32Array(states.length);
  const targets = new Int32Array(experts.length * N);
  for (const [e, expert] of experts.entries()) {
    for (const [n, t] of positions.entries()) {
      const row = e * N + n;
      const state = hidden.subarray(t * D, (t + 1) * D);
      states.set(state, row * D);
      gates.set(expert.gates, row * Q);
      changes.set(ownChange(expert.own, own, state), row * D);
      targets[row] = ids[t + 1];
    }
  }
  const reading = await reader.read(states, gates, targets, { change: changes });
  const logprobs = reading.logprobs.map((logprob, row) => {
    if (!memory) return logprob;
    const { found, rule } = memory;
    const observed = observationAt(reading, row, found[row % N], targets[row], rule);
    const says = { weight: memoryWeight(rule, observed), probability: observed.ofMemory };
    return Math.log(mixedBeforeBrakes(rule, observed.ofModel, [says]));
  });
  return experts.map((_, e) => logprobs.slice(e * N, (e + 1) * N));
}

/** Change of states [N, D] by an own adapter of weight `share`. */
export function ownChange(share: number, own: OwnAdapter | null, states: Float32Array): Float32Array {
  return own && share > 0 ? changeOf(own.delta, states).map((x) => x * share) : new Float32Array(states.length);
}

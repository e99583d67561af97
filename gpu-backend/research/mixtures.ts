/** How the prompt of a text decides what answers it, as the edge plans it and the engine weighs it. */
import { isAutoOff } from "../../shared/artifacts/manifest.ts";
import { limits } from "../../shared/contracts/limits.ts";
import { promptEmbedding, rankCentroids } from "../../shared/math/assignment.ts";
import { defaultCalibration, positionsOfEvidence, priorsOf, weigh } from "../../shared/math/evidence.ts";
import {
  type MemoryMatch,
  type MemoryRule,
  memoryProbabilities,
  memoryWeight,
  mixedBeforeBrakes,
  type Neighbours,
} from "../../shared/math/memory.ts";
import { changeOf } from "../adapters/own/fit.ts";
import type { Delta } from "../runtime/fit-session.ts";
import { gatesAt } from "../training/bank/measure.ts";
import type { Reader, Reading } from "../training/bank/reader.ts";
import type { ServedBank } from "../training/bank/served-bank.ts";

/** An adapter of a tenant's own, and the mean prompt embedding of its text. */
export interface OwnAdapter {
  delta: Delta;
  centroid: Float32Array;
}

/** A change of hidden states: generated adapters by their gates, [Q], and a share of an own adapter's. */
export interface Mixed {
  gates: Float32Array;
  own: number;
}

/** A text and its hidden states, [T, D]. */
export interface HiddenText {
  ids: readonly number[];
  hidden: Float32Array;
}

/** A memory of the tenant's: the keys nearest to each position of a prompt that is evidence, and how they count. */
export interface EvidentMemory {
  found: readonly Neighbours[];
  rule: MemoryRule;
}

/** The base first, then the static adapter, the tenant's own, and the nearest centroids' adapters that are on. */
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
      similarity,
      isOff: isAutoOff(manifest.centroids[index]),
      ...{ gates: gatesAt(adapters, index, scales[index]), own: 0, ownHash: null as string | null },
    }));
  const nearest = near[0].gates;
  if (own) {
    const similarity = embedding.reduce((sum, value, p) => sum + value * own.centroid[p], 0);
    near.unshift({ similarity, isOff: false, gates: staticGates, own: 1, ownHash: "own" });
  }
  const priors = priorsOf(near, true, calibration);
  const all: Mixed[] = [
    { gates: new Float32Array(staticGates.length), own: 0 },
    { gates: staticGates, own: 0 },
    ...near.filter(({ isOff }) => !isOff),
  ];
  // `priors` [E] add up to 1; `nearest` has the gates of the nearest centroid's adapter.
  return { all, priors: [priors.base, priors.fixed, ...priors.adapters], nearest, calibration };
}

/** What `auto` answers the prompt of a text with, an adapter of the tenant's own among the experts. */
export async function mixtureOf(
  reader: Pick<Reader, "read">,
  served: ServedBank,
  text: HiddenText,
  promptTokens: number,
  own: OwnAdapter | null = null,
  memory: EvidentMemory | null = null,
): Promise<Mixed & { nearest: Float32Array }> {
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

/** Log-likelihoods of the tokens after some positions of a text, [experts][positions]. */
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
    const { ofModel, ofMemory, ...match } = observationAt(
      reading,
      row,
      memory.found[row % N],
      targets[row],
      memory.rule,
    );
    const says = { weight: memoryWeight(memory.rule, match), probability: ofMemory };
    return Math.log(mixedBeforeBrakes(memory.rule, ofModel, [says]));
  });
  return experts.map((_, e) => logprobs.slice(e * N, (e + 1) * N));
}

/** What λ is computed from, and what it is worth: one position of one text. */
export interface Observation extends MemoryMatch {
  /** Of the token that came: under the memory and under the model. */
  ofMemory: number;
  ofModel: number;
}

/** At position `at` of a reading, with the keys that are nearest to it. */
export function observationAt(
  reading: Pick<Reading, "logprobs" | "topLogprobs">,
  at: number,
  found: Neighbours,
  target: number,
  rule: MemoryRule,
): Observation {
  const probabilities = memoryProbabilities(found, rule);
  return {
    cosine: found.cosines[0],
    memory: Math.max(...probabilities.values()),
    model: Math.exp(reading.topLogprobs[at]),
    ofMemory: probabilities.get(target) ?? 0,
    ofModel: Math.exp(reading.logprobs[at]),
  };
}

/** What a share of an own adapter changes in each of the states [N, D]. */
export function ownChange(share: number, own: OwnAdapter | null, states: Float32Array): Float32Array {
  return own && share > 0 ? changeOf(own.delta, states).map((x) => x * share) : new Float32Array(states.length);
}

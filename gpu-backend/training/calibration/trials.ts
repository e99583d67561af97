/**
 * Collects what experts say of texts. A text is cut where a prompt would end; the base, the adapters that the prompt would be
 * served by and the pointer each give the probability of the prompt's tokens that are evidence, and of the tokens after it.
 * A mixture's gain depends on these numbers alone, so calibrations are compared without the model.
 * Shapes: T tokens of a text, D hidden size, Q gates, N rows of a run.
 */
import { promptEmbedding, rankCentroids } from "../../../shared/math/assignment.ts";
import {
  calibratedPointer,
  defaultCalibration,
  type NearCentroid,
  pointerMass,
  positionsOfEvidence,
  type TokenEvidence,
} from "../../../shared/math/evidence.ts";
import type { TrunkRunner } from "../../runtime/trunk-runner.ts";
import { maximumLogits } from "../bank/batches.ts";
import type { LossMeter } from "../bank/loss.ts";
import type { Adapters } from "../bank/measure.ts";
import type { ServedBank } from "../bank/served-bank.ts";
import { documentKey, prefixOf, prefixTokens, type Window } from "../corpus/windows.ts";

/** Lengths of the prompts that each text is cut into, in tokens. */
export const promptLengths = [8, 16, 32, 64, 128] as const;
const longestPrompt = promptLengths[promptLengths.length - 1];
/** At most and at least so many tokens after a prompt are scored. */
const continuationTokens = 64;
const fewestTokens = 32;
/** At most so many tokens of a text are used. */
const textTokens = longestPrompt + continuationTokens;
/** A text that is long enough for every prompt. */
export const longEnough = longestPrompt + fewestTokens;

/** A text, cut after `promptTokens`. */
export interface Trial {
  document: string;
  /** Index of its corpus. */
  corpus: number;
  promptTokens: number;
  /** The nearest centroids, the nearest first; the adapters of those that are on are among the experts, in this order. */
  nearest: NearCentroid[];
  /** At `positionsOfEvidence` of the prompt. */
  evidence: TokenEvidence[];
  /** Of the tokens after it. */
  continuation: TokenEvidence[];
}

/** A trained bank, and the sessions that compute its probabilities. */
export interface TrialContext extends Omit<ServedBank, "shape"> {
  trunk: TrunkRunner;
  meter: LossMeter;
}

/** Of one text: a trial for each of `promptLengths` that it is long enough for. */
export async function trialsOf(
  window: Window,
  { trunk, meter, table, adapters, scales }: TrialContext,
): Promise<Trial[]> {
  const tokenIds = window.tokenIds.slice(0, textTokens);
  const T = tokenIds.length;
  const { hidden, keys } = await trunk.hiddenAndKeys(tokenIds, 1, T);
  const D = hidden.length / T;
  const cuts = promptLengths
    .filter((promptTokens) => T - promptTokens >= fewestTokens)
    .map((promptTokens) => {
      const embedding = promptEmbedding(prefixOf(window, Math.min(promptTokens, prefixTokens)), table);
      const after = Math.min(continuationTokens, T - promptTokens);
      return {
        promptTokens,
        nearest: rankCentroids(embedding, adapters.centroids)
          .slice(0, defaultCalibration.adapters)
          .map((centroid) => ({ ...centroid, isOff: scales[centroid.index] === 0 })),
        evidence: positionsOfEvidence(promptTokens),
        continuation: Array.from({ length: after }, (_, i) => promptTokens - 1 + i),
      };
    });

  const rows = new ExpertRows();
  for (const { nearest, evidence, continuation } of cuts) {
    for (const position of [...evidence, ...continuation]) {
      for (const expert of expertsOf(nearest)) rows.add(position, expert);
    }
  }
  const gatesOf = (expert: number) =>
    expert === base ? new Float32Array(meter.gates) : adapters.gatesAt(expert, scales[expert]);
  await rows.measure({ tokenIds, hidden, D }, gatesOf, meter, adapters);

  return cuts.map(({ promptTokens, nearest, evidence, continuation }) => {
    const experts = expertsOf(nearest);
    const evidenceAt = (position: number): TokenEvidence => ({
      experts: experts.map((expert) => rows.probability(position, expert)),
      pointer: pointerMass(cosinesBefore(position, keys, D), tokenIds, position, {
        ...calibratedPointer,
        tokens: promptTokens,
      }),
    });
    return {
      ...{ document: documentKey(window), corpus: window.corpus, promptTokens },
      nearest: nearest.map(({ similarity, isOff }) => ({ similarity, isOff })),
      evidence: evidence.map(evidenceAt),
      continuation: continuation.map(evidenceAt),
    };
  });
}

/** Products of the key at `position`, of `keys` [T, D], with the keys before it. */
function cosinesBefore(position: number, keys: Float32Array, D: number): Float64Array {
  return Float64Array.from({ length: position }, (_, i) => {
    let cosine = 0;
    for (let e = 0; e < D; e++) cosine += keys[position * D + e] * keys[i * D + e];
    return cosine;
  });
}

/** Stands for the base among indexes of centroids. */
const base = -1;

function expertsOf(nearest: readonly { index: number; isOff: boolean }[]): number[] {
  return [base, ...nearest.filter(({ isOff }) => !isOff).map(({ index }) => index)];
}

/** Pairs of a position of a text and an expert, each once, and the probability that the expert gives the next token there. */
class ExpertRows {
  readonly #rowOf = new Map<string, number>();
  readonly #rows: { position: number; expert: number }[] = [];
  #losses = new Float32Array(0);

  add(position: number, expert: number): void {
    const key = `${position}/${expert}`;
    if (this.#rowOf.has(key)) return;
    this.#rowOf.set(key, this.#rows.length);
    this.#rows.push({ position, expert });
  }

  async measure(
    { tokenIds, hidden, D }: { tokenIds: Int32Array; hidden: Float32Array; D: number },
    gatesOf: (expert: number) => Float32Array,
    meter: LossMeter,
    { parameters }: Adapters,
  ): Promise<void> {
    const gates = new Map(
      [...new Set(this.#rows.map(({ expert }) => expert))].map((expert) => [expert, gatesOf(expert)]),
    );
    const most = Math.max(1, Math.floor(maximumLogits / meter.vocabularySize));
    this.#losses = new Float32Array(this.#rows.length);
    for (let start = 0; start < this.#rows.length; start += most) {
      const rows = this.#rows.slice(start, start + most);
      const inputs = {
        hidden: new Float32Array(rows.length * D),
        targets: Int32Array.from(rows, ({ position }) => tokenIds[position + 1]),
        gates: new Float32Array(rows.length * meter.gates),
      };
      for (const [n, { position, expert }] of rows.entries()) {
        inputs.hidden.set(hidden.subarray(position * D, (position + 1) * D), n * D);
        inputs.gates.set(gates.get(expert)!, n * meter.gates);
      }
      this.#losses.set(await meter.tokenLosses(inputs.hidden, inputs.targets, inputs.gates, parameters), start);
    }
  }

  probability(position: number, expert: number): number {
    return Math.exp(-this.#losses[this.#rowOf.get(`${position}/${expert}`)!]);
  }
}

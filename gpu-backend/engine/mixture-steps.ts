/**
 * What a mixture needs of its prompt once that is cached: its weights, by what the experts say of the prompt's own tokens, and
 * the prompt's scores where they are asked for. Each is a run of the head alone, over states that the prefill left in the
 * arena. So it depends on the sequence alone, whatever was found in the prefix cache or ran beside it.
 * Shapes: D hidden size, H heads, d head width, X rows of a run.
 */

import type { ServiceError } from "../../shared/errors.ts";
import {
  pointerProbability,
  positionsOfEvidence,
  type Testimony,
  weigh,
  withFloor,
} from "../../shared/math/evidence.ts";
import type { KvArena } from "../kv/arena.ts";
import type { StepOutput, StepRunner } from "../runtime/step.ts";
import { HeadRows } from "./head-rows.ts";
import { notFinite } from "./refusals.ts";
import type { Sequence } from "./sequence.ts";
import { composeHead, type Phase } from "./step-input.ts";

/** Prompt tokens that are scored in one run: each row is as wide as the vocabulary. */
const scoredRows = 32;

interface Parts {
  runner: Pick<StepRunner, "run" | "gates">;
  arena: Pick<KvArena, "feed" | "states" | "keys">;
}

/**
 * Sets the sequence's weights: those that were asked for, or by the evidence of its prompt, which is in arena row `row`.
 * Returns what ends a sequence whose evidence is no number.
 */
export async function weighMixture(
  sequence: Sequence,
  row: number,
  { runner, arena }: Parts,
): Promise<ServiceError | null> {
  const { base, adapters, evidence: rule } = sequence.request.mixture!;
  const priors = [base, ...adapters.map(({ weight }) => weight)];
  if (!rule) {
    sequence.mixture = withFloor({ base, adapters: priors.slice(1), pointer: 0 }, 0);
    return null;
  }
  const tokens = sequence.evidenceTokens;
  const positions = positionsOfEvidence(tokens, rule.spans);
  const testimonies: Testimony[] = [];
  if (positions.length > 0) {
    const rows = new HeadRows(runner.gates, noFeed, 0);
    for (const t of positions) rows.addTestimony(sequence, rows.fed(), sequence.ids[t + 1]);
    const input = composeHead(rows, arena.states(row, positions), arena.feed(row, 0, 1));
    const { mixed } = await runner.run(input);
    const { baseTargets, adapterTargets } = mixed!;
    const J = input.mixed!.adapters;
    const keys = arena.keys(row, tokens);
    positions.forEach((t, x) => {
      const ofAdapters = adapterTargets.subarray(x * J, x * J + adapters.length);
      const pointer = pointerProbability(keys, sequence.ids, t, { tokens, ...rule.pointer });
      testimonies.push({ experts: [baseTargets[x], ...ofAdapters], pointer });
    });
  }
  const { weights, evidence } = weigh(priors, { ...rule, tokens }, testimonies);
  if (!Number.isFinite(evidence.nats)) return notFinite(`the evidence of the prompt is ${evidence.nats} nats`);
  sequence.mixture = weights;
  sequence.evidence = evidence;
  return null;
}

const noFeed = { past: [], pastTokens: 0 };

/**
 * The heads that score what comes after a mixture's evidence, as a continuation would be, run by run. The evidence itself is
 * scored by the base, in the passes that prefill it.
 */
export async function* scoreAfterEvidence(
  sequence: Sequence,
  rowOf: () => number,
  { runner, arena }: Parts,
): AsyncGenerator<{ heads: Phase["heads"]; output: StepOutput }> {
  const end = sequence.promptTokens - 1;
  for (let start = Math.max(0, sequence.evidenceTokens - 1); start < end && !sequence.ended; start += scoredRows) {
    const row = rowOf();
    const positions = Array.from({ length: Math.min(scoredRows, end - start) }, (_, i) => start + i);
    const feed = arena.feed(row, 1, 1);
    const rows = new HeadRows(runner.gates, feed, 1);
    for (const t of positions) rows.addMixed(sequence, rows.fed(), sequence.ids[t + 1], 0);
    const output = await runner.run(composeHead(rows, arena.states(row, positions), feed));
    yield { heads: rows.heads, output };
  }
}

/** The run that samples the first tokens of mixtures, by arena row. */
export async function sampleFirst(
  sequences: ReadonlyMap<number, Sequence>,
  { runner, arena }: Parts,
): Promise<{ heads: Phase["heads"]; output: StepOutput }> {
  const first = Math.min(...sequences.keys());
  const count = Math.max(...sequences.keys()) + 1 - first;
  const feed = arena.feed(first, count, 1);
  const rows = new HeadRows(runner.gates, feed, count);
  const states = [...sequences].map(([row, sequence]) => {
    rows.addMixed(sequence, rows.fed(), null, row - first);
    return arena.states(row, [sequence.ids.length - 1]);
  });
  const D = states[0].length;
  const fedStates = new Float32Array(states.length * D);
  states.forEach((state, x) => {
    fedStates.set(state, x * D);
  });
  return { heads: rows.heads, output: await runner.run(composeHead(rows, fedStates, feed)) };
}

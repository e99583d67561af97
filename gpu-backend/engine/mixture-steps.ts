/**
 * Head-only runs for a mixture whose prompt is cached: its weights by the evidence of the prompt, the prompt's scores if they
 * are asked for, and its first token. They read states that the prefill left in the arena, so their results depend on the
 * sequence alone.
 * Shapes: D hidden size, H heads, d head width, X rows of a run.
 */
import { joinArrays } from "../../shared/bytes.ts";
import type { ServiceError } from "../../shared/errors.ts";
import { pointerMass, positionsOfEvidence, type TokenEvidence, weigh, withFloor } from "../../shared/math/evidence.ts";
import type { KvArena } from "../kv/arena.ts";
import type { StepOutput, StepRunner } from "../runtime/step.ts";
import { HeadRows } from "./head-rows.ts";
import { composeHead, type Phase } from "./pass.ts";
import { notFinite } from "./refusals.ts";
import type { Sequence } from "./sequence.ts";

/** Prompt tokens scored in one run; each row is as wide as the vocabulary. */
const scoredRows = 32;

/** Rows of one weighing run. A sequence has at most `evidencePositions` + 1. */
const weighedRows = 64;

interface Parts {
  runner: Pick<StepRunner, "run" | "mix" | "gates">;
  arena: Pick<KvArena, "feed" | "states">;
}

/** Mixtures whose prompts are cached, with the arena rows they are in. */
export type Prefilled = ReadonlyMap<Sequence, number>;

/**
 * Divides sequences into groups that are weighed in one run each: one run reads the head's matrix once, but takes memory for a row
 * of the vocabulary for each expert.
 */
export function groupsToWeigh(sequences: readonly Sequence[]): Sequence[][] {
  const groups: Sequence[][] = [];
  let rows = Number.POSITIVE_INFINITY;
  for (const sequence of sequences) {
    const own = positionsOf(sequence).length + 1;
    if (rows + own > weighedRows) {
      groups.push([]);
      rows = 0;
    }
    groups[groups.length - 1].push(sequence);
    rows += own;
  }
  return groups;
}

/**
 * Sets the weights of mixtures: as requested, or by the evidence of the prompt. Returns sequences whose evidence is not finite
 * (`faults`), heads that sample first tokens (`heads`), and `mix`, which computes these heads from the experts' probabilities.
 */
export async function weighMixtures(
  prefilled: Prefilled,
  { runner, arena }: Parts,
): Promise<{ faults: Map<Sequence, ServiceError>; heads: Phase["heads"]; mix(): Promise<StepOutput> }> {
  const { first, count, feed } = feedOf(prefilled, arena);
  const rows = new HeadRows(runner.gates, feed, count);
  const states: Float32Array[] = [];
  for (const [sequence, row] of prefilled) {
    const positions = positionsOf(sequence);
    for (const t of positions) rows.addEvidence(sequence, rows.fed(), sequence.ids[t + 1], row - first);
    states.push(arena.states(row, positions));
  }
  for (const [sequence, row] of prefilled) {
    if (!samplesFirst(sequence)) continue;
    rows.addKept(sequence, rows.fed(), row - first);
    states.push(arena.states(row, [sequence.ids.length - 1]));
  }
  const faults = new Map<Sequence, ServiceError>();
  const input = composeHead(rows, joinArrays(Float32Array, states), feed);
  const output = input.mixed ? await runner.run(input) : null;
  const mixed = output?.mixed;
  const J = input.mixed?.adapters ?? 0;
  const P = feed.pastTokens;
  let x = 0;
  for (const sequence of prefilled.keys()) {
    const tokenEvidence = positionsOf(sequence).map((t): TokenEvidence => {
      const ofAdapters = mixed!.adapterTargets.subarray(x * J, x * J + sequence.adapters.length);
      const source = { tokens: sequence.evidenceTokens, ...sequence.request.mixture!.evidence!.pointer };
      const cosines = mixed!.cosines!.subarray(x * P, (x + 1) * P);
      const experts = [mixed!.baseTargets[x++], ...ofAdapters];
      return { experts, pointer: pointerMass(cosines, sequence.ids, t, source) };
    });
    const fault = setWeights(sequence, tokenEvidence);
    if (fault) faults.set(sequence, fault);
  }
  const mix = async () => ({
    ...output!,
    mixed: { ...mixed!, rows: await runner.mix(rows.keptMixture(mixed!)) },
  });
  return { faults, heads: rows.heads, mix };
}

/** Whether a sequence whose prompt is cached samples its first token now. */
function samplesFirst(sequence: Sequence): boolean {
  return sequence.wantsToken && sequence.pendingTokens === 0;
}

/** Positions whose next token is evidence; none where the weights are given. */
function positionsOf({ request, evidenceTokens }: Sequence): number[] {
  const rule = request.mixture!.evidence;
  return rule ? positionsOfEvidence(evidenceTokens, rule.spans) : [];
}

function setWeights(sequence: Sequence, tokenEvidence: readonly TokenEvidence[]): ServiceError | null {
  const { base, adapters, evidence: rule } = sequence.request.mixture!;
  const priors = [base, ...adapters.map(({ weight }) => weight)];
  if (!rule) {
    sequence.mixture = withFloor({ base, adapters: priors.slice(1), pointer: 0 }, 0);
    return null;
  }
  const { weights, evidence } = weigh(priors, { ...rule, tokens: sequence.evidenceTokens }, tokenEvidence);
  if (!Number.isFinite(evidence.nats)) return notFinite(`the evidence of the prompt is ${evidence.nats} nats`);
  sequence.mixture = weights;
  sequence.evidence = evidence;
  return null;
}

/** The arena's feed from the first to the last row of these prompts. */
function feedOf(prefilled: Prefilled, arena: Parts["arena"]) {
  const first = Math.min(...prefilled.values());
  const count = Math.max(...prefilled.values()) + 1 - first;
  return { first, count, feed: arena.feed(first, count) };
}

/** Scores the prompt tokens after a mixture's evidence, run by run. The base scores the evidence itself, during the prefill. */
export async function* scoreAfterEvidence(
  sequence: Sequence,
  rowOf: () => number,
  { runner, arena }: Parts,
): AsyncGenerator<{ heads: Phase["heads"]; output: StepOutput }> {
  const end = sequence.promptTokens - 1;
  for (let start = Math.max(0, sequence.evidenceTokens - 1); start < end && !sequence.ended; start += scoredRows) {
    const row = rowOf();
    const positions = Array.from({ length: Math.min(scoredRows, end - start) }, (_, i) => start + i);
    const feed = arena.feed(row, 1);
    const rows = new HeadRows(runner.gates, feed, 1);
    for (const t of positions) rows.addMixed(sequence, rows.fed(), sequence.ids[t + 1], 0);
    const output = await runner.run(composeHead(rows, arena.states(row, positions), feed));
    yield { heads: rows.heads, output };
  }
}

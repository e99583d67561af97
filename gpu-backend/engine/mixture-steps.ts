/**
 * What a mixture needs of its prompt once that is cached: its weights, by what the experts say of the prompt's own tokens, the
 * prompt's scores where they are asked for, and its first token. These are runs of the head alone, over states that the prefill
 * left in the arena. So each depends on the sequence alone, whatever was found in the prefix cache or ran beside it.
 * Shapes: D hidden size, H heads, d head width, X rows of a run.
 */
import type { ServiceError } from "../../shared/errors.ts";
import { joinArrays } from "../../shared/join-arrays.ts";
import { pointerMass, positionsOfEvidence, type TokenEvidence, weigh, withFloor } from "../../shared/math/evidence.ts";
import type { KvArena } from "../kv/arena.ts";
import type { StepOutput, StepRunner } from "../runtime/step.ts";
import { HeadRows } from "./head-rows.ts";
import { composeHead, type Phase } from "./pass.ts";
import { notFinite } from "./refusals.ts";
import type { Sequence } from "./sequence.ts";

/** Prompt tokens that are scored in one run: each row is as wide as the vocabulary. */
const scoredRows = 32;

/** Rows of one run that weighs. A sequence has at most `evidencePositions` + 1. */
const weighedRows = 64;

interface Parts {
  runner: Pick<StepRunner, "run" | "mix" | "gates">;
  arena: Pick<KvArena, "feed" | "states">;
}

/** Mixtures whose prompts are cached, with the arena rows they are in. */
export type Prefilled = ReadonlyMap<Sequence, number>;

/**
 * Divides sequences into groups that are weighed in one run each: a few sequences read the head's matrix once, many would
 * take as much memory as rows of the vocabulary for each of their experts.
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
 * Sets the weights of mixtures: those that were asked for, or by the evidence of the prompt. Returns failed sequences, whose
 * evidence is no number (`faults`), heads that sample their first token (`heads`), and `mix`, which computes those from the
 * probabilities that were kept.
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

/** What the arena feeds of the rows that hold these prompts, from the first to the last. */
function feedOf(prefilled: Prefilled, arena: Parts["arena"]) {
  const first = Math.min(...prefilled.values());
  const count = Math.max(...prefilled.values()) + 1 - first;
  return { first, count, feed: arena.feed(first, count) };
}

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
    const feed = arena.feed(row, 1);
    const rows = new HeadRows(runner.gates, feed, 1);
    for (const t of positions) rows.addMixed(sequence, rows.fed(), sequence.ids[t + 1], 0);
    const output = await runner.run(composeHead(rows, arena.states(row, positions), feed));
    yield { heads: rows.heads, output };
  }
}

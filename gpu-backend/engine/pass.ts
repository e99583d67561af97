import type { ServiceError } from "../../shared/errors.ts";
import type { RowAdapter } from "../adapters/adapter.ts";
import type { Pass, PassOutput, Runner } from "../kv/runner.ts";
import { type Head, HeadRows } from "./head-rows.ts";
import { notFinite } from "./refusals.ts";
import { type HeadResult, headResult } from "./sampler.ts";
import type { Sequence } from "./sequence.ts";

export interface Chunk {
  sequence: Sequence;
  tokens: number;
  /** Guesses of the tokens after those. */
  drafts?: readonly number[];
}

/** mixture-steps.ts samples the first token of a mixture that awaits its weights. */
export function composePass(phase: Pass["phase"], chunks: readonly Chunk[], gates: number) {
  const head = new HeadRows(gates);
  const rows = chunks.map(({ sequence, tokens, drafts = [] }) => {
    const [start, end] = [sequence.cachedTokens, sequence.cachedTokens + tokens];
    for (let position = start; position < end; position++) {
      const scoredId = scoredAfter(sequence, position);
      if (scoredId !== null) head.add(sequence, head.at(sequence, position), scoredId);
    }
    const samples =
      end === sequence.ids.length && sequence.wantsToken && !sequence.awaitsMixture && !sequence.awaitsPassages;
    if (samples) head.add(sequence, head.at(sequence, end - 1), null);
    for (const [i, id] of drafts.entries()) head.add(sequence, head.at(sequence, end + i), null, id);
    return { kv: sequence.row, tokens: [...sequence.ids.slice(start, end), ...drafts] };
  });
  return { pass: { phase, rows, states: head.states, head: head.tensors() } satisfies Pass, heads: head.heads };
}

/** Composes a run of the head alone, over states of earlier passes. */
export function composeHead(head: HeadRows): Pass {
  return { phase: "decode", rows: [], states: head.states, head: head.tensors() };
}

/** For each position, returns a result for each expert. Expert null is the base. */
export async function scorePrompt(
  sequence: Sequence,
  positions: readonly number[],
  experts: readonly (RowAdapter | null)[],
  runner: Pick<Runner, "run" | "gates">,
): Promise<HeadResult[][]> {
  if (positions.length === 0) return [];
  const rows = new HeadRows(runner.gates);
  for (const t of positions) {
    const at = rows.at(sequence, t);
    for (const expert of experts) rows.addExpert(expert, at, sequence.ids[t + 1]);
  }
  const pass = composeHead(rows);
  pass.head.want.only = "sums";
  const output = await runner.run(pass);
  return positions.map((_, x) => experts.map((_, e) => headResult(output, x * experts.length + e)));
}

/** The prompt token to score, or null. If a mixture awaits its weights, only tokens of the evidence are scored. */
function scoredAfter(sequence: Sequence, position: number): number | null {
  const end = sequence.awaitsMixture ? sequence.evidenceTokens.tokens : sequence.promptTokens;
  return sequence.scoresPrompt && position + 1 >= sequence.scoredFrom && position + 1 < end
    ? sequence.ids[position + 1]
    : null;
}

/** `chunks` is empty for a run of the head alone. */
export function faultsOf(
  chunks: readonly Chunk[],
  heads: readonly Head[],
  output: PassOutput,
): Map<Sequence, ServiceError> {
  const faults = new Map<Sequence, ServiceError>();
  chunks.forEach(({ sequence }, s) => {
    if (!output.finite[s]) faults.set(sequence, notFinite("keys and values"));
  });
  for (const { sequence, row, baseRow } of heads) {
    const results = [headResult(output, row)];
    if (baseRow !== null) results.push(headResult(output, baseRow));
    for (const { logSumExp } of results) {
      if (!Number.isFinite(logSumExp)) faults.set(sequence, notFinite(`the log-sum-exp of its logits is ${logSumExp}`));
    }
  }
  return faults;
}

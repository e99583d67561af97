/** One pass: which tokens the trunk sees, which rows of the head are read, and whose results are not finite. Pure. */
import type { ServiceError } from "../../shared/errors.ts";
import type { Pass, PassOutput } from "../runtime/model-runner.ts";
import { type Head, HeadRows } from "./head-rows.ts";
import { notFinite } from "./refusals.ts";
import { headResult } from "./sampler.ts";
import type { Sequence } from "./sequence.ts";

/** The next tokens of a sequence. */
export interface Chunk {
  sequence: Sequence;
  tokens: number;
}

/** Each chunk's next tokens. `gates` is Q. A mixture that awaits its weights has its first token elsewhere (mixture-steps.ts). */
export function composePass(phase: Pass["phase"], chunks: readonly Chunk[], gates: number) {
  const head = new HeadRows(gates);
  const rows = chunks.map(({ sequence, tokens }) => {
    const [start, end] = [sequence.cachedTokens, sequence.cachedTokens + tokens];
    for (let position = start; position < end; position++) {
      const scoredId = scoredAfter(sequence, position);
      if (scoredId !== null) head.add(sequence, head.at(sequence, position), scoredId);
    }
    const samples =
      end === sequence.ids.length && sequence.wantsToken && !sequence.awaitsMixture && !sequence.awaitsPassages;
    if (samples) head.add(sequence, head.at(sequence, end - 1), null);
    return { kv: sequence.row, tokens: sequence.ids.slice(start, end) };
  });
  return { pass: { phase, rows, states: head.states, head: head.tensors() } satisfies Pass, heads: head.heads };
}

/** A run of the head alone, on states of earlier passes. */
export function composeHead(head: HeadRows): Pass {
  return { phase: "decode", rows: [], states: head.states, head: head.tensors() };
}

/**
 * The prompt token after position `position`, where its score is asked for and known in this pass. Of a mixture that awaits its
 * weights those are the tokens that are evidence, which the base scores.
 */
function scoredAfter(sequence: Sequence, position: number): number | null {
  const end = sequence.awaitsMixture ? sequence.evidenceTokens.tokens : sequence.promptTokens;
  return sequence.scoresPrompt && position + 1 >= sequence.scoredFrom && position + 1 < end
    ? sequence.ids[position + 1]
    : null;
}

/** The error for each faulty sequence. */
export function faultsOf(
  chunks: readonly Chunk[],
  heads: readonly Head[],
  output: PassOutput,
): Map<Sequence, ServiceError> {
  const faults = new Map<Sequence, ServiceError>();
  chunks.forEach(({ sequence }, s) => {
    if (!output.finite[s]) faults.set(sequence, notFinite("keys and values"));
  });
  for (const [sequence, error] of headFaults(heads, output)) faults.set(sequence, error);
  return faults;
}

/** The same of a run of the head alone. */
export function headFaults(heads: readonly Head[], output: PassOutput): Map<Sequence, ServiceError> {
  const faults = new Map<Sequence, ServiceError>();
  for (const { sequence, row, baseRow } of heads) {
    const results = [headResult(output, row)];
    if (baseRow !== null) results.push(headResult(output, baseRow));
    for (const { logSumExp } of results) {
      if (!Number.isFinite(logSumExp)) faults.set(sequence, notFinite(`the log-sum-exp of its logits is ${logSumExp}`));
    }
  }
  return faults;
}

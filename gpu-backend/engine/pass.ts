/**
 * One pass of the graph: which tokens and positions the trunk sees, which rows of the head are read, and whose results are not finite. Pure.
 * Shapes: S sequences, T tokens (right-padded).
 */

import type { ServiceError } from "../../shared/errors.ts";
import { isFiniteRow } from "../runtime/finite-rows.ts";
import { type ModelShape, minPrefillTokens, noTokens, type StepInput, type StepOutput } from "../runtime/step.ts";
import { type Head, HeadRows } from "./head-rows.ts";
import { notFinite } from "./refusals.ts";
import { headResult } from "./sampler.ts";
import type { Sequence } from "./sequence.ts";

/** The next tokens of a sequence. */
export interface Chunk {
  sequence: Sequence;
  tokens: number;
}

export interface Phase {
  input: StepInput;
  heads: Head[];
}

/** The tensors the arena feeds for the rows of the phase. */
export type Feed = Pick<StepInput, "past" | "pastLengths" | "pastTokens" | "longPast" | "begunTokens">;

/**
 * Builds the input for each chunk's next tokens, in the order of the rows. `gates` is Q. A mixture that awaits its weights has
 * its first token elsewhere (mixture-steps.ts).
 */
export function composePhase(phase: "prefill" | "decode", chunks: readonly Chunk[], feed: Feed, gates: number): Phase {
  const S = chunks.length;
  const longest = chunks.reduce((max, chunk) => Math.max(max, chunk.tokens), 1);
  const T = phase === "prefill" ? Math.max(longest, minPrefillTokens) : 1;
  const tokenIds = new Int32Array(S * T);
  const positions = new Int32Array(S * T);
  const rows = new HeadRows(gates);
  chunks.forEach(({ sequence, tokens }, s) => {
    const start = sequence.cachedTokens;
    for (let t = 0; t < tokens; t++) {
      tokenIds[s * T + t] = sequence.ids[start + t];
      positions[s * T + t] = start + t;
      const scoredId = scoredAfter(sequence, start + t);
      if (scoredId !== null) rows.add(sequence, rows.at(s * T + t), scoredId);
    }
    const samples = start + tokens === sequence.ids.length && sequence.wantsToken && !sequence.awaitsEvidence;
    if (samples) rows.add(sequence, rows.at(s * T + tokens - 1), null);
  });
  return { input: { sequences: S, tokens: T, tokenIds, positions, ...feed, ...rows.tensors() }, heads: rows.heads };
}

/** The input of a run of the head alone, on states of earlier steps. */
export function composeHead(rows: HeadRows, fedStates: Float32Array): StepInput {
  return { ...noTokens(), fedStates, ...rows.tensors() };
}

/**
 * The prompt token after position `position`, where its score is asked for and known in this pass. Of a mixture that awaits its
 * weights those are the tokens that are evidence, which the base scores.
 */
function scoredAfter(sequence: Sequence, position: number): number | null {
  const end = sequence.awaitsEvidence ? sequence.evidenceTokens : sequence.promptTokens;
  return sequence.scoresPrompt && position + 1 < end ? sequence.ids[position + 1] : null;
}

/** The error for each faulty sequence; `tokens` is T. */
export function faultsOf(
  { chunks, heads, tokens }: { chunks: readonly Chunk[]; heads: readonly Head[]; tokens: number },
  output: StepOutput,
  config: ModelShape,
): Map<Sequence, ServiceError> {
  const faults = new Map<Sequence, ServiceError>();
  const shape = { arrays: 2 * config.layers + 1, sequences: chunks.length, heads: config.kvHeads, tokens };
  chunks.forEach((chunk, s) => {
    if (isFiniteRow(output.present, shape, s, chunk.tokens)) return;
    faults.set(chunk.sequence, notFinite("keys and values"));
  });
  for (const [sequence, error] of headFaults(heads, output)) faults.set(sequence, error);
  return faults;
}

/** The same of a run of the head alone. */
export function headFaults(heads: readonly Head[], output: StepOutput): Map<Sequence, ServiceError> {
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

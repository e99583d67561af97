/** Finds the sequences of a pass whose results are not finite. Pure. */
import type { ServiceError } from "../../shared/errors.ts";
import { isFiniteRow } from "../runtime/finite-rows.ts";
import type { Gpt2Config, StepOutput } from "../runtime/step.ts";
import type { Head } from "./head-rows.ts";
import { notFinite } from "./refusals.ts";
import { headResult } from "./sampler.ts";
import type { Sequence } from "./sequence.ts";
import type { Chunk } from "./step-input.ts";

/** The error for each faulty sequence; `tokens` is T. */
export function faultsOf(
  { chunks, heads, tokens }: { chunks: readonly Chunk[]; heads: readonly Head[]; tokens: number },
  output: StepOutput,
  config: Gpt2Config,
): Map<Sequence, ServiceError> {
  const faults = new Map<Sequence, ServiceError>();
  const shape = { arrays: 2 * (config.layers + 1), sequences: chunks.length, heads: config.heads, tokens };
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
  for (const { sequence, isMixed, row, baseRow } of heads) {
    const results = [headResult(isMixed ? output.mixed!.rows! : output, row)];
    if (baseRow !== null) results.push(headResult(output, baseRow));
    for (const { logSumExp } of results) {
      if (!Number.isFinite(logSumExp)) faults.set(sequence, notFinite(`the log-sum-exp of its logits is ${logSumExp}`));
    }
  }
  return faults;
}

/** Finds the sequences of a pass whose results are not finite. Pure. */
import type { ServiceError } from "../../shared/errors.ts";
import { isFiniteRow } from "../runtime/finite-rows.ts";
import type { Gpt2Config, StepOutput } from "../runtime/step.ts";
import { notFinite } from "./refusals.ts";
import { headResult } from "./sampler.ts";
import type { Chunk } from "./scheduler.ts";
import type { Sequence } from "./sequence.ts";
import type { Head } from "./step-input.ts";

/** The error for each faulty sequence; `tokens` is T. */
export function faultsOf(
  { chunks, heads, tokens }: { chunks: readonly Chunk<Sequence>[]; heads: readonly Head[]; tokens: number },
  output: StepOutput,
  config: Gpt2Config,
): Map<Sequence, ServiceError> {
  const faults = new Map<Sequence, ServiceError>();
  const shape = { arrays: 2 * config.layers, sequences: chunks.length, heads: config.heads, tokens };
  chunks.forEach((chunk, s) => {
    if (isFiniteRow(output.present, shape, s, chunk.tokens)) return;
    faults.set(chunk.sequence, notFinite("keys and values"));
  });
  for (const { sequence, row, baseRow } of heads) {
    for (const n of baseRow === null ? [row] : [row, baseRow]) {
      const { logSumExp } = headResult(output, n);
      if (!Number.isFinite(logSumExp)) faults.set(sequence, notFinite(`log-sum-exp of the logits is ${logSumExp}`));
    }
  }
  return faults;
}

/** A batch as it is sent, so that backends of the release before take it, too. Pure. */
import { type BatchRequest, greedySampling, type Sampling } from "../../shared/contracts/inference.ts";

/** Fields of `sampling` that the release before this one refuses, as its schema is strict. */
const newSamplingFields = ["templateStops", "stopTokenIds", "ignoreEos", "minTokens", "repetitionPenalty"] as const;

/** The batch without new fields that are at their defaults, as JSON shows it. */
export function sentBatch(batch: BatchRequest): unknown {
  const sequences = batch.sequences.map((sequence) => {
    const sampling: { [Name in keyof Sampling]?: Sampling[Name] | undefined } = { ...sequence.sampling };
    for (const name of newSamplingFields) {
      // JSON leaves it out.
      if (String(sampling[name]) === String(greedySampling[name])) sampling[name] = undefined;
    }
    return { ...sequence, sampling };
  });
  return { ...batch, sequences };
}

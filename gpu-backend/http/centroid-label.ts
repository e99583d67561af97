import type { BatchRequest, SequenceRequest } from "../../shared/contracts/inference.ts";

/**
 * What metrics, spans and the log count a sequence under. A mixture counts as its first adapter, which is the nearest
 * centroid's, whichever micro-batch it came in.
 */
export function centroidLabel({ adapterHash, centroidId }: BatchRequest, { mixture }: SequenceRequest): string {
  const [nearest] = mixture?.adapters ?? [];
  if (nearest) return "centroidId" in nearest ? nearest.centroidId : "own";
  if (adapterHash) return "own";
  return centroidId ?? "base";
}

/** JSON log lines with ids, counts, times and errors; never the text or token ids of a request. */
import type { BatchRequest, SequenceRequest } from "../../shared/contracts/inference.ts";

type Fields = Record<string, string | number | boolean | null>;
export type Log = (level: "info" | "warn" | "error", event: string, fields?: Fields) => void;

export function jsonLog(write: (line: string) => void, now: () => Date): Log {
  return (level, event, fields = {}) => {
    write(`${JSON.stringify({ time: now().toISOString(), level, event, ...fields })}\n`);
  };
}

/** A sequence's adapter in metrics and the log. A mixture counts as its first adapter: an own one or else the nearest centroid's. */
export function centroidLabel({ adapterHash, centroidId }: BatchRequest, { mixture }: SequenceRequest): string {
  const [nearest] = mixture?.adapters ?? [];
  if (nearest) return "centroidId" in nearest ? nearest.centroidId : "own";
  if (adapterHash) return "own";
  return centroidId ?? "base";
}

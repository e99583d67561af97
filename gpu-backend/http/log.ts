/** Log lines never contain the text or token ids of a request. */
import type { BatchRequest, SequenceRequest } from "../../shared/contracts/inference.ts";

type Fields = Record<string, string | number | boolean | null>;
export type Log = (level: "info" | "warn" | "error", event: string, fields?: Fields) => void;

export function jsonLog(write: (line: string) => void, now: () => Date): Log {
  return (level, event, fields = {}) => {
    write(`${JSON.stringify({ time: now().toISOString(), level, event, ...fields })}\n`);
  };
}

/** The label of a mixture is the label of its first adapter. */
export function centroidLabel({ adapterHash, centroidId }: BatchRequest, { mixture }: SequenceRequest): string {
  const [nearest] = mixture?.adapters ?? [];
  if (nearest) return "centroidId" in nearest ? nearest.centroidId : "own";
  if (adapterHash) return "own";
  return centroidId ?? "base";
}

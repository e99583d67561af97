/** What a million generated tokens cost, by published prices (2026-11) and one assumption. */
import type { WorldOptions, WorldResult } from "./world.ts";

/** Dollars. Workers: developers.cloudflare.com/workers/platform/pricing; Durable Objects: …/durable-objects/platform/pricing. */
const prices = {
  millionWorkerRequests: 0.3,
  millionWorkerCpuMs: 0.02,
  millionObjectRequests: 0.15,
  millionObjectGigabyteSeconds: 12.5,
  /** Assumed: a small rented GPU. */
  backendHour: 0.5,
};
/** An object is charged for 128 MB while it is awake, which a busy cell always is. */
const objectGigabytes = 0.128;
/** Of a request: the ledger's admission and settlement, and the cell. */
const objectCalls = 3;

export function costOf(result: WorldResult, world: WorldOptions): { total: number; parts: [string, number][] } {
  const { seconds, backends, workerMs } = world;
  const millionTokens = result.tokens / 1e6;
  const millionRequests = result.requests / 1e6;
  const parts: [string, number][] = [
    ["backends", (backends * prices.backendHour * seconds) / 3600],
    ["Workers", millionRequests * (prices.millionWorkerRequests + workerMs * prices.millionWorkerCpuMs)],
    ["object calls", millionRequests * objectCalls * prices.millionObjectRequests],
    ["awake cells", (result.cells * objectGigabytes * seconds * prices.millionObjectGigabyteSeconds) / 1e6],
  ];
  const each = parts.map(([part, dollars]): [string, number] => [part, dollars / millionTokens]);
  return { total: each.reduce((sum, [, dollars]) => sum + dollars, 0), parts: each };
}

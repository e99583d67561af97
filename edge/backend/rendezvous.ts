/**
 * Rendezvous hashing: each key has its own order of the backends, the same at every edge. A backend that goes or comes
 * moves only the keys that it had or gets, so the others' caches stay warm.
 */
import { fnv1a } from "../../shared/math/fnv1a.ts";
import { philox2x32 } from "../../shared/math/sampling.ts";

/** The backends in the order in which `key` prefers them. */
export function rendezvousOrder(key: string, backends: readonly string[]): string[] {
  // What the hash lacks in mixing, the generator adds.
  const weight = new Map(backends.map((backend) => [backend, philox2x32(fnv1a(key), 0, fnv1a(backend))[0]]));
  return backends.toSorted((a, b) => weight.get(b)! - weight.get(a)! || (a < b ? -1 : 1));
}

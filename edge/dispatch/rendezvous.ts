/**
 * Rendezvous hashing: each key has its own order of the backends, the same at every edge. A backend that goes or comes
 * moves only the keys that it had or gets, so the others' caches stay warm.
 */
import { fnv1a } from "../../shared/math/fnv1a.ts";
import { philox2x32 } from "../../shared/math/sampling.ts";

/** The backends in the order in which `key` prefers them. */
export function rendezvousOrder(key: string, backends: readonly string[]): string[] {
  // What the hash lacks in mixing, the generator adds.
  const hash = fnv1a(key);
  const weighed = backends.map((name) => ({ name, weight: philox2x32(hash, 0, fnv1a(name))[0] }));
  weighed.sort((a, b) => b.weight - a.weight || (a.name < b.name ? -1 : 1));
  return weighed.map(({ name }) => name);
}

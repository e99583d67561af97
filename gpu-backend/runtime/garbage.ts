/**
 * Frees unreferenced memory after a model is loaded: a process that then waits for requests allocates nothing, so V8 would keep
 * hundreds of megabytes of garbage.
 */
import { setFlagsFromString } from "node:v8";
import { runInNewContext } from "node:vm";

export function collectGarbage(): void {
  // Node started without --expose-gc offers no other way.
  setFlagsFromString("--expose-gc");
  const collect: () => void = runInNewContext("gc");
  collect();
}

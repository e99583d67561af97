/**
 * Collects garbage after a model is loaded. A process that then waits for requests allocates nothing, so V8 would not collect by itself
 * and keep hundreds of megabytes.
 */
import { setFlagsFromString } from "node:v8";
import { runInNewContext } from "node:vm";

export function collectGarbage(): void {
  // The only way without starting Node with --expose-gc.
  setFlagsFromString("--expose-gc");
  const collect: () => void = runInNewContext("gc");
  collect();
}

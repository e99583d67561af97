/** Collects garbage after a model is loaded. V8 would keep hundreds of megabytes, because a waiting process allocates nothing. */
import { setFlagsFromString } from "node:v8";
import { runInNewContext } from "node:vm";

export function collectGarbage(): void {
  // The only way without starting Node with --expose-gc.
  setFlagsFromString("--expose-gc");
  const collect: () => void = runInNewContext("gc");
  collect();
}

/** V8 would keep hundreds of megabytes after a model is loaded, because a process that waits triggers no collection. */
import { setFlagsFromString } from "node:v8";
import { runInNewContext } from "node:vm";

export function collectGarbage(): void {
  // The only way to get V8's function `gc` if Node was started without --expose-gc.
  setFlagsFromString("--expose-gc");
  const collect: () => void = runInNewContext("gc");
  collect();
}

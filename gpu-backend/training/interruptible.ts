/** Ctrl-C for long work: it finishes what is under way, saves it, and says that the same command goes on. A second one ends at once. */
import { Interrupted } from "../command-line.ts";

/** Aborted, with an `Interrupted` as its reason, when this process is asked to end. */
export function interruptionSignal(): AbortSignal {
  const interruption = new AbortController();
  for (const name of ["SIGINT", "SIGTERM"] as const) {
    process.once(name, () => interruption.abort(new Interrupted("interrupted; the same command goes on from here")));
  }
  return interruption.signal;
}

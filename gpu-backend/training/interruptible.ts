/** Ctrl-C for long work: it finishes what is under way, saves it, and says that the same command goes on. A second one ends at once. */
import { exitCodes, Interrupted, onStopRequest } from "../command-line.ts";

/** Aborted, with an `Interrupted` as its reason, when this process is asked to end. `now` is in milliseconds. */
export function interruptionSignal(now: () => number): AbortSignal {
  const interruption = new AbortController();
  onStopRequest(now, () => {
    if (interruption.signal.aborted) process.exit(exitCodes.interrupted);
    interruption.abort(new Interrupted("interrupted; the same command goes on from here"));
  });
  return interruption.signal;
}

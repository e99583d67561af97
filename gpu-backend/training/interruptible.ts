/** Ctrl-C for long work: the first finishes and saves the current unit, the second ends the process at once. */
import { exitCodes, Interrupted, onStopRequest } from "../command-line.ts";

/** Aborted, with an `Interrupted` as its reason, when this process is asked to end. `now` is in milliseconds. */
export function interruptionSignal(now: () => number): AbortSignal {
  const interruption = new AbortController();
  onStopRequest(now, () => {
    if (interruption.signal.aborted) process.exit(exitCodes.interrupted);
    interruption.abort(new Interrupted("interrupted; the same command continues from here"));
  });
  return interruption.signal;
}

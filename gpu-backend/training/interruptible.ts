/** How long commands end: Ctrl-C finishes what is under way and says that the same command goes on; a second one ends at once. */
import type { Progress } from "./progress.ts";

class Interrupted extends Error {}

/** Runs `work` to its end; errors go to stderr, and the exit code says how it ended. */
export async function runInterruptible(
  progress: Progress,
  work: (signal: AbortSignal) => Promise<void>,
): Promise<void> {
  const interruption = new AbortController();
  for (const signal of ["SIGINT", "SIGTERM"]) process.once(signal, () => interruption.abort(new Interrupted()));
  try {
    await work(interruption.signal);
  } catch (error) {
    progress.end();
    const wasInterrupted = error instanceof Interrupted;
    const message = error instanceof Error ? error.message : String(error);
    console.error(wasInterrupted ? "interrupted; the same command goes on from here" : `error: ${message}`);
    process.exitCode = wasInterrupted ? 130 : 1;
  }
}

/** Ends what tests started when their process ends: if a file's start throws, `afterAll` does not run. Without vitest, for benchmarks. */
const ends = new Set<() => unknown>();

/** Latest first, as a backend writes to folders that are older than itself. */
function endAll(): void {
  for (const end of [...ends].reverse()) {
    ends.delete(end);
    void (async () => end())().catch(() => undefined);
  }
}
process.once("exit", endAll);
// Vitest ends its workers by SIGTERM, which runs no "exit" listeners.
process.once("SIGTERM", () => {
  endAll();
  process.kill(process.pid, "SIGTERM");
});

/** Calls `end` when this process ends. Only what `end` does synchronously happens then. Returns a function that cancels this. */
export function endWithProcess(end: () => unknown): () => void {
  ends.add(end);
  return () => void ends.delete(end);
}

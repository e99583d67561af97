/** Ends what tests started when their process ends. `afterAll` does not run if a file's start throws. */
const ends = new Set<() => unknown>();

/** Latest first, because a backend writes to folders that were made before. */
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

/** Calls `end` when this process ends; only synchronous work is done then. Returns a function that cancels this. */
export function endWithProcess(end: () => unknown): () => void {
  ends.add(end);
  return () => void ends.delete(end);
}

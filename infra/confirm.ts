import { createInterface } from "node:readline/promises";
import { InvalidArgumentError } from "commander";

/** Asks on stderr, because stdout is for results. Resolves to true for yes. Rejects if `signal` is aborted. */
export async function isConfirmed(question: string, signal?: AbortSignal): Promise<boolean> {
  const terminal = createInterface({ input: process.stdin, output: process.stderr });
  // In readline's raw mode Ctrl-C sends no signal.
  terminal.on("SIGINT", () => process.kill(process.pid, "SIGINT"));
  try {
    return /^y(es)?$/i.test((await terminal.question(`${question} [y/N] `, { signal })).trim());
  } finally {
    terminal.close();
  }
}

/** Asks before something is deleted. Throws an InvalidArgumentError without a terminal, or if the answer is no. */
export async function confirmDeletion(question: string): Promise<void> {
  if (!process.stdin.isTTY) throw new InvalidArgumentError("nobody can be asked here: add --yes");
  if (!(await isConfirmed(question))) throw new InvalidArgumentError("nothing was deleted");
}

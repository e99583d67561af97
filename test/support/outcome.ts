import type { ChildProcess } from "node:child_process";
import { once } from "node:events";

export interface Outcome {
  /** Null if a signal ended the process. */
  code: number | null;
  stdout: string;
  stderr: string;
}

/** What a process printed, once it has ended. Processes that it started count, too: they hold the same pipes. */
export async function outcomeOf(child: ChildProcess): Promise<Outcome> {
  const printed = { stdout: "", stderr: "" };
  for (const name of ["stdout", "stderr"] as const) {
    child[name]!.on("data", (chunk) => {
      printed[name] += chunk;
    });
  }
  const [code] = await once(child, "close");
  return { code, ...printed };
}

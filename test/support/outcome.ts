import type { ChildProcess } from "node:child_process";
import { once } from "node:events";

export interface Outcome {
  /** null if a signal ended the process. */
  code: number | null;
  stdout: string;
  stderr: string;
}

/** Waits for the processes that the child started, too, because they hold the same pipes. */
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

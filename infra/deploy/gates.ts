/** Gates are checks of this checkout before an upload. No gate needs an account. */
import { spawn } from "node:child_process";
import { once } from "node:events";
import path from "node:path";
import { Interrupted } from "../../gpu-backend/command-line.ts";
import type { Environment } from "./environment.ts";

export interface Gate {
  name: "staged assets" | "documents site" | "tests" | "size and start";
  /** Rejects with an Error that advises what to do. */
  run(signal: AbortSignal): Promise<void>;
}

const root = path.dirname(path.dirname(import.meta.dirname));

export function gatesOf(environment: Environment): Gate[] {
  const model = process.env.MODEL_DIR ? [process.env.MODEL_DIR] : [];
  const tooLarge = "the Worker does not bundle, is too large or does not start, as told above";
  const scripts: [Gate["name"], file: string, args: string[], failed: string][] = [
    ["staged assets", "infra/stage-artifacts.ts", model, "see above"],
    ["documents site", "infra/site/cli.ts", [], "mend the documents named above"],
    ["tests", "infra/test.ts", ["test", "unit,edge"], "mend the tests above"],
    ["size and start", "infra/deploy-check.ts", ["--env", environment.name], tooLarge],
  ];
  return scripts.map(([name, file, args, failed]) => {
    return { name, run: (signal) => runScript(path.join(root, file), args, failed, signal) };
  });
}

export async function passGates(
  gates: readonly Gate[],
  say: (line: string) => void,
  signal: AbortSignal,
): Promise<void> {
  for (const [i, { name, run }] of gates.entries()) {
    say(`gate ${i + 1} of ${gates.length}: ${name}`);
    const startMs = performance.now();
    await run(signal);
    say(`gate ${i + 1} of ${gates.length}: ${name} passed in ${((performance.now() - startMs) / 1000).toFixed(1)} s`);
  }
}

/** The script's stdout goes to stderr, because stdout is for the version's id. */
async function runScript(file: string, args: string[], failed: string, signal: AbortSignal): Promise<void> {
  const child = spawn(process.execPath, [file, ...args], { cwd: root, stdio: ["ignore", "pipe", "inherit"] });
  const stop = () => void child.kill("SIGTERM");
  signal.addEventListener("abort", stop);
  child.stdout.pipe(process.stderr, { end: false });
  const [code] = await once(child, "close");
  signal.removeEventListener("abort", stop);
  if (signal.aborted) throw new Interrupted("stopped. Nothing was changed");
  if (code !== 0) throw new Error(`nothing was changed: ${failed} (${path.relative(root, file)} ended with ${code})`);
}

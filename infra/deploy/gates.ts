/** What must hold of this checkout before anything is uploaded: tests, size and start. Needs no account. */
import { spawn } from "node:child_process";
import { once } from "node:events";
import path from "node:path";
import { Interrupted } from "../../gpu-backend/command-line.ts";
import { commandsOf } from "../commands.mjs";
import type { Environment } from "./environment.ts";

export interface Gate {
  name: "staged assets" | "documents site" | "tests" | "size and start";
  /** Rejects with an Error that says what to do. */
  run(signal: AbortSignal): Promise<void>;
}

/** `quick`: those of the code without servers; `passed-in-ci`: none, because CI ran all of them on this commit. */
export const testSets = ["quick", "all", "passed-in-ci"] as const;
export type TestSet = (typeof testSets)[number];

const root = path.dirname(path.dirname(import.meta.dirname));
const { test: fastTests, "test:all": otherTests } = commandsOf(true);
/** Projects of vitest.config.ts. */
const projectsOf = { quick: "unit,edge", all: `lint,${fastTests[3]},${otherTests[3]}` };

export function gatesOf(environment: Environment, tests: TestSet): Gate[] {
  const script = (name: Gate["name"], file: string, args: string[], failed: string): Gate => ({
    name,
    run: (signal) => runScript(path.join(root, file), args, failed, signal),
  });
  const testGate =
    tests === "passed-in-ci"
      ? []
      : [script("tests", "infra/test.ts", ["test", projectsOf[tests]], "mend the tests above")];
  return [
    script(
      "staged assets",
      "infra/stage-artifacts.ts",
      process.env.MODEL_DIR ? [process.env.MODEL_DIR] : [],
      "see above",
    ),
    script("documents site", "infra/site/cli.ts", [], "mend the documents named above"),
    ...testGate,
    script(
      "size and start",
      "infra/deploy-check.ts",
      ["--env", environment.name],
      "the Worker does not bundle, is too large or does not start, as told above",
    ),
  ];
}

/** Runs the gates in order and reports each. Throws the first failure. */
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

/** Redirects the script's stdout to stderr, because stdout is for the deployed version. */
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

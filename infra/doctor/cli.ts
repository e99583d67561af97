/** `chameleon doctor`: checks what a local start needs, prints a line each, and the mend below what is amiss. */
import { createCommand, exitCodes, runCommand } from "../../gpu-backend/command-line.ts";
import { type Check, checks } from "./checks.ts";

interface Options {
  model?: string;
  json?: boolean;
}

const marks = { ok: "ok  ", warning: "note", failed: "FAIL" } as const;

await runCommand(
  createCommand(
    "doctor",
    "Check Node, memory, ports, artifacts, hashes and device, and name the mend for each that is amiss",
    ["chameleon doctor", "chameleon doctor --model ./my-model"],
    "Exit code 1 where something is amiss that keeps `chameleon start` from serving.",
  )
    .option("--model <folder>", "the model to check; MODEL_DIR, or the embedded one, unless set")
    .option("--json", "print JSON")
    .action(async ({ model, json }: Options) => {
      const found: Check[] = [];
      for (const check of checks(model)) {
        const result = await check();
        found.push(result);
        if (!json) process.stdout.write(textOf(result));
      }
      if (json) process.stdout.write(`${JSON.stringify(found, null, 2)}\n`);
      if (found.some(({ state }) => state === "failed")) process.exitCode = exitCodes.failed;
    }),
);

function textOf({ name, state, found, mend }: Check): string {
  return `${marks[state]}  ${name.padEnd(10)}${found}\n${mend ? `      ${" ".repeat(10)}mend: ${mend}\n` : ""}`;
}

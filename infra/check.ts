/** `npm run check`: style, types, and tests of committed files, such as imports, documents, workflows and images. */
import { spawnSync } from "node:child_process";
import path from "node:path";
import { createCommand, parsedOptions } from "../gpu-backend/command-line.ts";
import { generateWorkerTypes } from "./worker-types.ts";

const { results } = parsedOptions<{ results?: string }>(
  createCommand("check", "Check style, types and committed files", ["chameleon check"]).option(
    "--results <file>",
    "write the results of the tests, as vitest's JSON",
  ),
);
const root = path.dirname(import.meta.dirname);
/** Each of these folders has a tsconfig.json with the global types of its runtime. */
const typeScriptFolders = ["shared", "edge", "edge/page", "gpu-backend", "infra", "test", "test/in-runtime"];
const json = results === undefined ? [] : ["--reporter=json", `--outputFile.json=${results}`];

const commands = [
  ["node_modules/@biomejs/biome/bin/biome", "check", "--error-on-warnings", "."],
  ...typeScriptFolders.map((folder) => ["node_modules/typescript/bin/tsc", "-p", folder]),
  ["infra/test.ts", "lint", "lint", "--reporter=dot", ...json],
];
await generateWorkerTypes();
let failures = 0;
for (const [program, ...args] of commands) {
  const { status } = spawnSync(process.execPath, [path.join(root, program), ...args], { cwd: root, stdio: "inherit" });
  process.stderr.write(`${status === 0 ? "ok" : "FAILED"}  ${path.basename(program)} ${args.join(" ")}\n`);
  if (status !== 0) failures++;
}
process.exitCode = failures > 0 ? 1 : 0;

/** `npm run check`: style and types. The architecture and the hygiene of the tree are unit tests. */
import { spawnSync } from "node:child_process";
import path from "node:path";
import { createCommand, parsedOptions } from "../gpu-backend/command-line.ts";

parsedOptions(createCommand("check", "Check style and types", ["chameleon check"]));
const root = path.dirname(import.meta.dirname);
/** Each has the globals of where it runs, so each is its own TypeScript project. */
const typeScriptFolders = ["shared", "edge", "edge/page", "gpu-backend", "infra", "test", "test/in-runtime"];

const commands = [
  ["@biomejs/biome/bin/biome", "check", "--error-on-warnings", "."],
  ...typeScriptFolders.map((folder) => ["typescript/bin/tsc", "-p", folder]),
];
let failures = 0;
for (const [program, ...args] of commands) {
  const line = `${path.basename(program)} ${args.join(" ")}`;
  const file = path.join(root, "node_modules", program);
  const { status } = spawnSync(process.execPath, [file, ...args], { cwd: root, stdio: "inherit" });
  process.stderr.write(`${status === 0 ? "ok" : "FAILED"}  ${line}\n`);
  if (status !== 0) failures++;
}
process.exitCode = failures > 0 ? 1 : 0;

/** `npm run audit`: what `npm audit` says of the packages that are shipped. Ends with npm's exit code: 1 for a known advisory. */
import { spawnSync } from "node:child_process";
import path from "node:path";
import { createCommand, parsedOptions } from "../gpu-backend/command-line.ts";

parsedOptions(
  createCommand("audit", "Look for known advisories on the packages that are shipped", ["chameleon audit"]),
);
const root = path.dirname(import.meta.dirname);
process.exitCode = spawnSync("npm", ["audit", "--omit=dev"], { cwd: root, stdio: "inherit" }).status ?? 1;

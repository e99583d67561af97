/**
 * Runs tests with vitest, and prints how long they took: `infra/test.ts COMMAND PROJECTS [ARGUMENTS]`. Further arguments are
 * vitest's own; where they name a file or a `--project`, PROJECTS do not count.
 */
import path from "node:path";
import { Transform } from "node:stream";
import { parseCLI, startVitest } from "vitest/node";
import { quietWrangler } from "./wrangler.ts";

const startedMs = performance.now();
const root = path.dirname(import.meta.dirname);
Object.assign(process.env, quietWrangler);

const [command, projects, ...args] = process.argv.slice(2);
const given = parseCLI(["vitest", "run", ...args]);
const isChosen = given.filter.length > 0 || given.options.project !== undefined;
const chosen = isChosen ? [] : projects.split(",").map((project) => `--project=${project}`);
const { filter, options } = parseCLI(["vitest", "run", ...args, ...chosen]);
/** Dawn, which computes for WebGPU, writes this on adapters in software, and has no option against it. */
const deviceWarning = /^Warning: maxDynamic\w+ artificially reduced .*\n?/gm;
const stderr = new Transform({
  transform: (chunk, _, done) => done(null, String(chunk).replace(deviceWarning, "")),
});
stderr.pipe(process.stderr);
// Sets the exit code, also where no test was found.
const vitest = await startVitest("test", filter, { ...options, root }, {}, { stderr });
await vitest.close();
const seconds = Math.round((performance.now() - startedMs) / 1000);
process.stderr.write(`${command} took ${Math.floor(seconds / 60)} min ${seconds % 60} s\n`);

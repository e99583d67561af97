/**
 * `infra/test.ts COMMAND PROJECTS [ARGUMENTS]`: runs tests and prints their duration. ARGUMENTS are vitest's. If they name a file or a
 * project, PROJECTS is ignored.
 */
import path from "node:path";
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
// `startVitest` sets the exit code, even if it finds no test.
const vitest = await startVitest("test", filter, { ...options, root });
await vitest.close();
const seconds = Math.round((performance.now() - startedMs) / 1000);
process.stderr.write(`${command} took ${Math.floor(seconds / 60)} min ${seconds % 60} s\n`);

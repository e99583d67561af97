/** `npm test`: vitest over all projects; arguments are vitest's own (`npm test -- --project unit gpu-backend/kv`). */
import path from "node:path";
import { parseCLI, startVitest } from "vitest/node";
import { quietWrangler } from "./quiet-wrangler.ts";
import { stageArtifacts } from "./stage-artifacts.ts";
import { stageDocs } from "./stage-docs.ts";
import { stagePage } from "./stage-page.ts";

const root = path.dirname(import.meta.dirname);
Object.assign(process.env, quietWrangler);
await stageArtifacts();
await stageDocs();
await stagePage();

const { filter, options } = parseCLI(["vitest", "run", ...process.argv.slice(2)]);
// Sets the exit code, also where no test was found.
const vitest = await startVitest("test", filter, { ...options, root });
await vitest.close();

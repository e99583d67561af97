/**
 * Whether a self-hosted edge loses or doubles anything when it is killed again and again under load.
 * Run: npm run bench:fault -- --help
 */
import { mkdtemp, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import path from "node:path";
import { count, createCommand, parsedOptions } from "../../../gpu-backend/command-line.ts";
import { killUnderLoad, startKilledEdge } from "../../fault/edge-kills.ts";

const options = parsedOptions<{ json?: string; requests: number; edgeKills: number }>(
  createCommand("bench:fault", "kill -9 of a self-hosted edge under load", [
    "chameleon bench:fault --edge-kills 50 --requests 100",
  ])
    .option("--json <file>", "write the figures there")
    .option("--requests <n>", "streams, all at once", count, 100)
    .option("--edge-kills <n>", "number of kills", count, 50),
);

const say = (line: string) => void process.stdout.write(`${line}\n`);
const folder = await mkdtemp(path.join(tmpdir(), "edge-kills-"));
const { edge, backend } = await startKilledEdge(folder);
try {
  const figures = await killUnderLoad(edge, {
    ...{ kills: options.edgeKills, streams: options.requests, seed: Date.now() % 1e6, say },
  });
  const text = JSON.stringify(figures, null, 2);
  say(text);
  if (options.json) await writeFile(options.json, `${text}\n`);
} finally {
  await edge.stop();
  backend.child.kill("SIGKILL");
  await rm(folder, { recursive: true, maxRetries: 3 });
}
process.exit();

/**
 * `npm run deploy:check`: bundles the Worker as a deployment does, and starts it. Exits with 1 if the bundle is too large or the Worker
 * does not answer.
 */
import { readFile } from "node:fs/promises";
import path from "node:path";
import { gzipSync } from "node:zlib";
import { count, createCommand, parsedOptions } from "../gpu-backend/command-line.ts";
import { bundleWorker, workerFile } from "./workerd/bundle.ts";
import { prepareBareEdge } from "./workerd/edge.ts";
import { runWrangler } from "./wrangler.ts";

/** Maximum size of the compressed bundle, in bytes. Cloudflare allows several megabytes. */
const maxGzipBytes = 400_000;

const root = path.dirname(import.meta.dirname);
const { env: environment, gzipBytes: limitBytes } = parsedOptions<{ env?: string; gzipBytes: number }>(
  createCommand("deploy:check", "Check the Worker's size and start before a deployment", ["chameleon deploy:check"])
    .option("--gzip-bytes <n>", "limit of the bundle, in bytes", count, maxGzipBytes)
    .option("--env <name>", "environment of wrangler.toml; its top level unless set"),
);

/** Uses wrangler's dry run, so that the bundle is what a deployment uploads. */
async function bundleUpload(directory: string): Promise<void> {
  await bundleWorker(path.join(root, "edge/worker.ts"), directory);
  // An empty name means the top level of wrangler.toml.
  const args = ["--dry-run", "--env", environment ?? "", "--outdir", directory, "--containers-rollout", "none"];
  await runWrangler(root, ["deploy", ...args]);
  upload = await readFile(path.join(directory, workerFile));
}

let upload = Buffer.alloc(0);
const edge = await prepareBareEdge(path.join(root, "wrangler.toml"), { environment, bundle: bundleUpload });
try {
  const gzipBytes = gzipSync(upload).byteLength;
  const isSmall = gzipBytes <= limitBytes;
  const kB = (bytes: number) => `${(bytes / 1000).toFixed(1)} kB`;
  process.stdout.write(
    `bundle  ${kB(upload.byteLength)}, gzip ${kB(gzipBytes)} of at most ${kB(limitBytes)}  ${isSmall ? "ok" : "TOO MUCH"}\n`,
  );
  const startedMs = performance.now();
  const workerd = await edge.start();
  const response = await fetch(`${workerd.url}/healthz`);
  const answer = response.ok ? "ok" : `/healthz answered ${response.status}: ${await response.text()}`;
  process.stdout.write(`start   ${(performance.now() - startedMs).toFixed(0)} ms to the first answer  ${answer}\n`);
  await workerd.stop();
  process.exitCode = isSmall && response.ok ? 0 : 1;
} finally {
  edge.remove();
}

/**
 * `npm run deploy:check`: whether the Worker is small and starts quickly enough to deploy. Bundles it as a deployment does,
 * and starts it cold in a bare workerd, in turns with an empty Worker. The start is judged by the ratio of the two, which a
 * slow or busy machine changes little; milliseconds are printed only.
 * Exit code 1 above a limit.
 */
import { mkdtemp, readFile, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import path from "node:path";
import { gzipSync } from "node:zlib";
import { count, createCommand, parsedOptions, positive } from "../gpu-backend/command-line.ts";
import { bundleWorker, workerFile } from "./workerd/bundle.ts";
import { type BareEdge, prepareBareEdge } from "./workerd/edge.ts";
import { runWrangler } from "./wrangler.ts";

/**
 * Bytes: a tenth of what the platform allows. Ratio: twice the highest of what the Worker takes on two cores, 2.8 where
 * little else runs and 1.7 to 5.3 on a busy machine, so that only a start that has become much slower fails.
 */
const presets = { gzipBytes: 400_000, startRatio: 10 };
/** Pairs of cold starts. Odd, so that there is a median pair. */
const pairs = 7;

const root = path.dirname(import.meta.dirname);
const program = createCommand("deploy:check", "Check the Worker's size and start before a deployment", [
  "chameleon deploy:check",
])
  .option("--gzip-bytes <n>", "limit of the bundle, in bytes", count, presets.gzipBytes)
  .option("--env <name>", "environment of wrangler.toml; its top level unless set")
  .option("--start-ratio <x>", "limit of a cold start, in starts of an empty Worker", positive, presets.startRatio);
const {
  env: environment,
  gzipBytes: bundleLimitBytes,
  startRatio: startLimitRatio,
} = parsedOptions<typeof presets & { env?: string }>(program);

/** Milliseconds from the start of the process to its first answer. */
async function coldStartMs(worker: BareEdge): Promise<number> {
  const startedMs = performance.now();
  const workerd = await worker.start();
  try {
    const response = await fetch(`${workerd.url}/healthz`);
    await response.arrayBuffer();
    if (!response.ok) throw new Error(`the Worker's /healthz answered ${response.status}: ${workerd.log()}`);
    return performance.now() - startedMs;
  } finally {
    await workerd.stop();
  }
}

/** The Worker as a deployment uploads it: wrangler's own dry run, in place of our bundle. */
async function bundleUpload(directory: string): Promise<void> {
  await bundleWorker(path.join(root, "edge/worker.ts"), directory);
  // An empty name is the top level: wrangler warns where none is given. Images are not part of the bundle.
  const args = [
    "deploy",
    "--dry-run",
    "--env",
    environment ?? "",
    "--outdir",
    directory,
    "--containers-rollout",
    "none",
  ];
  await runWrangler(root, args);
  upload = await readFile(path.join(directory, workerFile));
}

function median(samples: readonly number[]): number {
  return [...samples].sort((a, b) => a - b)[Math.floor(samples.length / 2)];
}

const folder = await mkdtemp(path.join(tmpdir(), "chameleon-empty-"));
await writeFile(path.join(folder, "wrangler.toml"), 'main = "worker.js"\ncompatibility_date = "2026-11-17"\n');
await writeFile(path.join(folder, "worker.js"), `export default { fetch: () => new Response("ok") };`);
const empty = await prepareBareEdge(path.join(folder, "wrangler.toml"));
let upload = Buffer.alloc(0);
const edge = await prepareBareEdge(path.join(root, "wrangler.toml"), { environment, bundle: bundleUpload });
try {
  // A first start of each fills the disk cache, and is not counted.
  await coldStartMs(empty);
  await coldStartMs(edge);
  const starts: { emptyMs: number; edgeMs: number }[] = [];
  for (let i = 0; i < pairs; i++) {
    // In turns, and each in front as often: what slows the machine for a while slows both.
    const isEmptyFirst = i % 2 === 0;
    const firstMs = await coldStartMs(isEmptyFirst ? empty : edge);
    const secondMs = await coldStartMs(isEmptyFirst ? edge : empty);
    const [emptyMs, edgeMs] = isEmptyFirst ? [firstMs, secondMs] : [secondMs, firstMs];
    starts.push({ emptyMs, edgeMs });
  }
  const startRatio = median(starts.map(({ emptyMs, edgeMs }) => edgeMs / emptyMs));
  const [edgeMs, emptyMs] = [median(starts.map((one) => one.edgeMs)), median(starts.map((one) => one.emptyMs))];
  const gzipBytes = gzipSync(upload).byteLength;
  const kB = (bytes: number) => `${(bytes / 1000).toFixed(1)} kB`;
  const verdict = (ok: boolean) => (ok ? "ok" : "TOO MUCH");
  const isSmall = gzipBytes <= bundleLimitBytes;
  const isQuick = startRatio <= startLimitRatio;
  process.stdout.write(
    [
      `bundle   ${kB(upload.byteLength)}, gzip ${kB(gzipBytes)} of at most ${kB(bundleLimitBytes)}  ${verdict(isSmall)}`,
      `startup  ${startRatio.toFixed(2)} x an empty Worker's of at most ${startLimitRatio} x  ${verdict(isQuick)}`,
      `         (medians of ${pairs} cold starts to the first answer, in turns: ${edgeMs.toFixed(1)} ms, ` +
        `an empty Worker's ${emptyMs.toFixed(1)} ms)`,
      "",
    ].join("\n"),
  );
  process.exitCode = isSmall && isQuick ? 0 : 1;
} finally {
  edge.remove();
  empty.remove();
  await rm(folder, { recursive: true, force: true });
}

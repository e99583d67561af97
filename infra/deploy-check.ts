/**
 * `npm run deploy:check`: whether the Worker is small and quick enough to deploy. Bundles it as a deployment does, and
 * starts it cold in a bare workerd, in turns with an empty Worker: what it takes longer is the Worker's own start.
 * Exit code 1 above a limit; `-- --gzip-bytes N` and `-- --start-ms N` set stricter or looser ones.
 */
import { mkdtemp, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import path from "node:path";
import { parseArgs } from "node:util";
import { workerdConfigText } from "./workerd/config.ts";
import { prepareBareEdge } from "./workerd/edge.ts";
import { startWorkerd } from "./workerd/process.ts";

/** A tenth of what the platform allows: room to grow, and a start that no caller notices. */
const presets = { "gzip-bytes": "400000", "start-ms": "100" };
const coldStarts = 7;

const root = path.dirname(import.meta.dirname);
const { values } = parseArgs({ options: { "gzip-bytes": { type: "string" }, "start-ms": { type: "string" } } });
const limits = { ...presets, ...values };
const bundleLimitBytes = Number(limits["gzip-bytes"]);
const startLimitMs = Number(limits["start-ms"]);

/** Milliseconds from the start of the process to its first answer. */
async function coldStartMs(configFile: string): Promise<number> {
  const startedMs = performance.now();
  const workerd = await startWorkerd(configFile);
  try {
    const response = await fetch(`${workerd.url}/healthz`);
    await response.arrayBuffer();
    if (!response.ok) throw new Error(`the Worker's /healthz answered ${response.status}: ${workerd.log()}`);
    return performance.now() - startedMs;
  } finally {
    await workerd.stop();
  }
}

function median(samples: readonly number[]): number {
  return [...samples].sort((a, b) => a - b)[Math.floor(samples.length / 2)];
}

const empty = await mkdtemp(path.join(tmpdir(), "chameleon-empty-"));
const edge = await prepareBareEdge(path.join(root, "wrangler.toml"));
try {
  await writeFile(path.join(empty, "worker.js"), `export default { fetch: () => new Response("ok") };`);
  const emptyConfig = path.join(empty, "config.capnp");
  const bare = {
    compatibilityFlags: [],
    vars: {},
    assets: null,
    objects: { bindings: [], directory: empty },
    namespaces: [],
    buckets: [],
    datasets: [],
  };
  await writeFile(emptyConfig, workerdConfigText({ ...bare, modules: ["worker.js"], compatibilityDate: "2026-11-17" }));
  const edgeConfig = await edge.configure();

  const withEdge: number[] = [];
  const withoutEdge: number[] = [];
  for (let i = 0; i < coldStarts; i++) {
    withoutEdge.push(await coldStartMs(emptyConfig));
    withEdge.push(await coldStartMs(edgeConfig));
  }
  const startMs = median(withEdge) - median(withoutEdge);
  const { rawBytes, gzipBytes } = edge.bundle;
  const kB = (bytes: number) => `${(bytes / 1000).toFixed(1)} kB`;
  const verdict = (ok: boolean) => (ok ? "ok" : "TOO MUCH");
  const isSmall = gzipBytes <= bundleLimitBytes;
  const isQuick = startMs <= startLimitMs;
  process.stdout.write(
    [
      `bundle   ${kB(rawBytes)}, gzip ${kB(gzipBytes)} of at most ${kB(bundleLimitBytes)}  ${verdict(isSmall)}`,
      `startup  ${startMs.toFixed(1)} ms of at most ${startLimitMs} ms  ${verdict(isQuick)}`,
      `         (median of ${coldStarts} cold starts to the first answer: ${median(withEdge).toFixed(1)} ms, ` +
        `an empty Worker's ${median(withoutEdge).toFixed(1)} ms)`,
      "",
    ].join("\n"),
  );
  process.exitCode = isSmall && isQuick ? 0 : 1;
} finally {
  await edge.remove();
  await rm(empty, { recursive: true, force: true });
}

/** Bundles the Worker for workerd on this machine. For a deployment, wrangler bundles the Worker. */
import path from "node:path";

const root = path.dirname(path.dirname(import.meta.dirname));
const storageSource = path.join(root, "edge/local-storage.ts");

/** Bundles: the Worker, and the module that gives it KV and R2 in local folders. */
export const [workerFile, storageFile] = ["worker.js", "local-storage.js"];
/** File with `WorkerSettings` as JSON, beside the bundles. */
export const settingsFile = "settings.json";

export const builtFolder = path.join(root, "edge/built");

export async function bundleWorker(entryFile: string, directory: string): Promise<void> {
  const { buildSync } = await import("esbuild");
  // esbuild's `build` would keep a helper process running.
  buildSync({
    entryPoints: [
      { in: entryFile, out: path.parse(workerFile).name },
      { in: storageSource, out: path.parse(storageFile).name },
    ],
    bundle: true,
    format: "esm",
    target: "es2024",
    charset: "utf8",
    conditions: ["workerd", "worker", "browser"],
    external: ["cloudflare:*", "node:*"],
    outdir: directory,
    logLevel: "silent",
  });
}

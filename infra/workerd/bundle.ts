/** Bundles the Worker for workerd on this machine. For a deployment, wrangler bundles it. */
import path from "node:path";

const root = path.dirname(path.dirname(import.meta.dirname));
const storageSource = path.join(root, "edge/local-storage.ts");

/** Names of the bundles: the Worker, and the module that gives it KV and R2 on local folders. */
export const [workerFile, storageFile] = ["worker.js", "local-storage.js"];
/** Name of the file beside the bundles that holds the Worker's settings as JSON (`WorkerSettings`). */
export const settingsFile = "settings.json";

/** Folder in which the npm package and the images have the built files. */
export const builtFolder = path.join(root, "edge/built");

export async function bundleWorker(entryFile: string, directory: string): Promise<void> {
  const { buildSync } = await import("esbuild");
  // esbuild's `build` would keep a helper process running until this process ends.
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

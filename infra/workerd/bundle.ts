/** Bundles the Worker as one ES module for workerd. Not here: the bundle that a deployment uploads, which wrangler makes. */
import path from "node:path";

const root = path.dirname(path.dirname(import.meta.dirname));
const storageSource = path.join(root, "edge/local-storage.ts");

/** Names of the bundles: the Worker, and the module that gives it KV and R2 on local folders. */
export const [workerFile, storageFile] = ["worker.js", "local-storage.js"];
/** Beside the bundles: the Worker's settings from wrangler.toml, as JSON (`WorkerSettings`). */
export const settingsFile = "settings.json";

/** The npm package and the images have the built files here. */
export const builtFolder = path.join(root, "edge/built");

/** Bundles the Worker of `entryFile` and its local storage into a folder. Throws an Error with esbuild's messages. */
export async function bundleWorker(entryFile: string, directory: string): Promise<void> {
  const { buildSync } = await import("esbuild");
  // `build` would keep a helper process running until this process ends.
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

/** The Worker as one ES module for a bare workerd. Not here: what a deployment uploads, which wrangler bundles (deploy-check.ts). */
import path from "node:path";

const root = path.dirname(path.dirname(import.meta.dirname));
const storageSource = path.join(root, "edge/local-storage.ts");

/** Names of the bundles in a folder: the Worker, and the module of its local KV and R2. */
export const [workerFile, storageFile] = ["worker.js", "local-storage.js"];
/** Beside them: what wrangler.toml says of the Worker, as JSON. */
export const settingsFile = "settings.json";

/** Where the npm package and the image have these files. */
export const builtFolder = path.join(root, "edge/built");

/** Bundles the Worker whose entry is `entryFile`, and its local storage. Throws an Error with what esbuild said where it cannot. */
export async function bundleWorker(entryFile: string, directory: string): Promise<void> {
  const { buildSync } = await import("esbuild");
  // `build` would leave its helper process running as long as this one.
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

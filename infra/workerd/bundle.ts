/** The Worker as a deployment uploads it: wrangler's own dry run into a folder. */
import { readdir, readFile } from "node:fs/promises";
import path from "node:path";
import { gzipSync } from "node:zlib";
import { runWrangler, WranglerError } from "../wrangler.ts";

export interface Bundle {
  directory: string;
  /** Files of the upload, the entry first. */
  modules: string[];
  rawBytes: number;
  /** All modules together, as the platform counts them against its limit. */
  gzipBytes: number;
}

/**
 * Bundles the Worker of a wrangler configuration, whose entry is `entry`.ts, into `directory`; `environment` names one of the
 * configuration's. Throws an Error with what wrangler said where it cannot.
 */
export async function bundleWorker(
  configFile: string,
  entryName: string,
  directory: string,
  environment?: string,
): Promise<Bundle> {
  // An empty name is the top level: wrangler warns where none is given. Images are not part of the bundle.
  const args = ["deploy", "--dry-run", "--config", configFile, "--env", environment ?? "", "--outdir", directory];
  await runWrangler(path.dirname(configFile), [...args, "--containers-rollout", "none"]).catch((error) => {
    if (!(error instanceof WranglerError)) throw error;
    throw new Error(`wrangler cannot bundle the Worker:\n${error.output}`, { cause: error });
  });
  const entry = `${entryName}.js`;
  const others = (await readdir(directory)).filter((name) => /\.(m?js|wasm|bin|txt)$/.test(name) && name !== entry);
  const modules = [entry, ...others];
  const contents = await Promise.all(modules.map((name) => readFile(path.join(directory, name))));
  return {
    directory,
    modules,
    rawBytes: contents.reduce((total, content) => total + content.byteLength, 0),
    gzipBytes: gzipSync(Buffer.concat(contents)).byteLength,
  };
}

/** The Worker as a deployment uploads it: wrangler's own dry run into a folder. */
import { execFile } from "node:child_process";
import { readdir, readFile } from "node:fs/promises";
import { createRequire } from "node:module";
import path from "node:path";
import { promisify } from "node:util";
import { gzipSync } from "node:zlib";
import { quietWrangler } from "../quiet-wrangler.ts";

export interface Bundle {
  directory: string;
  /** Files of the upload, the entry first. */
  modules: string[];
  rawBytes: number;
  /** All modules together, as the platform counts them against its limit. */
  gzipBytes: number;
}

/**
 * Bundles the Worker of a wrangler configuration, whose entry is `entry`.ts, into `directory`. Throws an Error with what
 * wrangler said where it cannot.
 */
export async function bundleWorker(configFile: string, entryName: string, directory: string): Promise<Bundle> {
  const wrangler = path.join(path.dirname(createRequire(import.meta.url).resolve("wrangler")), "../bin/wrangler.js");
  const args = [wrangler, "deploy", "--dry-run", "--config", configFile, "--outdir", directory];
  try {
    await promisify(execFile)(process.execPath, args, { env: { ...process.env, ...quietWrangler } });
  } catch (error) {
    const { stdout, stderr } = error as { stdout?: string; stderr?: string };
    throw new Error(`wrangler cannot bundle the Worker:\n${stdout ?? ""}${stderr ?? error}`);
  }
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
